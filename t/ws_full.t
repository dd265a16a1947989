# The ring between nginx and an engine that stands still fills up: what WebSockets say
# waits, compressed or not, and comes through in its order when the engine goes on.

use strict;
use warnings;
use lib 't/lib';

use Compress::Raw::Zlib;
use Test::More;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%% backlog=1024;
        location /echo   { aiq_pass echo; aiq_websocket; aiq_websocket_deflate on; }
        location /plain  { return 200; }
    }');
$t->start;

sub deflated {
    my ($text) = @_;
    my $z = Compress::Raw::Zlib::Deflate->new(-WindowBits => -15);
    my ($out, $rest) = ('', '');
    $z->deflate($text, $out);
    $z->flush($rest, Z_SYNC_FLUSH);
    return substr($out . $rest, 0, -4);
}

# 4 MB of ring, and more than that within everybody's credit
my @offer = (headers => [ 'Sec-WebSocket-Extensions' => 'permessage-deflate' ]);
my @all = map { AIQ::WebSocket->new($t, '/echo', $_ % 2 ? @offer : (), seconds => 60) } 1 .. 700;
my $z = join('', map { chr(97 + int(rand(26))) } 1 .. 8000);

kill('STOP', $t->pid('engine'));
for my $i (0 .. $#all) {
    my $text = "$i $z";
    $i % 2 ? $all[$i]->text(substr($text, 0, 4000)) : $all[$i]->frame(0xc1, deflated(substr($text, 0, 4000)));
    $all[$i]->text(substr($text, 4000));
}
is($t->get('/plain')->{status}, 200, 'nginx serves others meanwhile');
$all[$_]->drop for 600 .. 649;
$all[$_]->close(1000) for 650 .. 699;
is($t->get('/plain')->{status}, 200, 'also after some have left');
kill('CONT', $t->pid('engine'));

sub said {
    my ($ws) = @_;
    my $text = $ws->message;
    return $text unless defined $text && $ws->{compressed};
    $text .= "\x00\x00\xff\xff";
    Compress::Raw::Zlib::Inflate->new(-WindowBits => -15)->inflate($text, my $out);
    return $out;
}

my ($right, $closed) = (0, 0);
for my $i (0 .. 599) {
    $right++ if said($all[$i]) . said($all[$i]) eq "$i $z";
}
is($right, 600, 'all of it comes through');
for my $i (650 .. 699) {
    $closed++ if $all[$i]->closed == 1000;
}
is($closed, 50, 'and so do the ends');

$t->finish;
done_testing();
