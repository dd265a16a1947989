# A topic has no end, so its readers are sent away when nginx reloads, when an engine leaves
# to another, and when nginx quits: in order, and they come back for what they have missed.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/topics/ { aiq_pass events; }
    }');
$t->start;

my @as = (Authorization => 'Bearer ' . $key->token(sub => 'ann', role => 'admin'));

sub say_it { return $t->json($t->post('/v1/topics/news', '{"type":"t","data":1}', headers => [@as]))->{seq} }

sub follow {
    my (@after) = @_;
    my $c = $t->connect;
    $c->request('GET', '/v1/topics/news', headers => [ @as, Accept => 'text/event-stream', @after ]);
    is($c->head->{status}, 200, 'a reader');
    return $c;
}

# To the end of the reply; undef: it was cut.
sub rest {
    my ($c) = @_;
    my $text = $c->rest;
    return $c->{head}{cut} ? undef : $text;
}

# Reads on until this has come.
sub comes {
    my ($c, $pattern, $what) = @_;
    my $text = '';

    while ($text !~ $pattern) {
        $text .= $c->piece // last;
    }
    like($text, $pattern, $what);
}

my @readers = map { follow() } 1 .. 20;
my $seq = say_it();
my %old = map { $_ => 1 } $t->workers;
$t->reload;
my @got = map { rest($_) } @readers;
is(scalar(grep { defined && /^id: $seq$/m && /\n\n\z/ } @got), 20, 'a reload sends them away, behind a whole event');
$t->wait_for(sub { !grep { $old{$_} } $t->workers }, 20, 'the old worker leaves');
my $missed = say_it();
my $c = follow('Last-Event-ID' => $seq);
comes($c, qr/^id: $missed$/m, 'who comes back has missed nothing');

$t->start_engine(name => 'other');
ok(defined rest($c), 'an engine that leaves sends them away');
$t->wait_for(sub { !$t->alive('engine') }, 20, 'and has gone');
$c = follow('Last-Event-ID' => $missed);
comes($c, qr/^event: stream_truncated$/m, 'what the next one does not have it says');
cmp_ok(my $new = say_it(), '>', $missed, 'its numbers are others');
comes($c, qr/^id: $new$/m, 'and it goes on');

$t->finish;    # also: nginx quits though somebody reads
ok(defined rest($c), 'who is sent away');
done_testing();
