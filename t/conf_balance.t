# conf.examples/balance.conf: clients stay with their node, WebSockets too; a node that is
# away is passed over.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;
my %port = (8000 => 0, 9090 => 1, 8001 => 2, 8002 => 3);
my $example = $t->read_file("$AIQ::Test::ROOT/conf.examples/balance.conf");

$example =~ s/\b(8000|9090|8001|8002)\b/%%PORT_$port{$1}%%/g;
$example =~ s/^worker_processes/user nobody nogroup;\n$&/m if $> == 0;
symlink($t->binary(''), $t->dir . '/modules');
symlink("$AIQ::Test::ROOT/conf.examples/demo.gguf", $t->dir . '/demo.gguf');
$t->raw_conf($example);
$t->start;

sub node {
    my $reply = $t->post('/v1/chat/completions', $t->chat('demo', 'hi', max_tokens => 1));
    return $reply->{status} == 200 ? $reply->{headers}{'x-node'} : $reply->{status};
}

sub over_a_websocket {
    my $ws = AIQ::WebSocket->new($t, '/ws');
    my ($state, $event) = $ws->event;

    $ws->say(type => 'chat', id => 'c', body => { model => 'demo', max_tokens => 1, messages => [ { role => 'user', content => 'hi' } ] });
    do { $event = $ws->event } while $event && $event->{type} =~ /^(started|delta)$/;
    $ws->drop;
    return "$state->{type} $event->{type}";
}

my $first = node();
ok(grep({ $first eq $_ } $t->port(2), $t->port(3)), 'a node answers') or diag($first);
is(join(' ', map { node() } 1 .. 5), join(' ', ($first) x 5), 'always the same one');
is(over_a_websocket(), 'state done', 'a WebSocket gets through');
my $reply = $t->post('/v1/chat/completions', $t->chat('demo', 'hi', max_tokens => 2, stream => JSON::PP::true));
like($reply->{body}, qr/\[DONE\]/, 'and a stream');

my ($gone, $other) = $first == $t->port(2) ? (2, 3) : (3, 2);
$example =~ s/^ *listen  127\.0\.0\.1:%%PORT_$gone%%;\n//m or die;
$t->raw_conf($example);
$t->reload;
$t->wait_for(sub { !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $t->port($gone)) }, 20, 'nobody listens');
is(join(' ', map { node() } 1 .. 3), join(' ', ($t->port($other)) x 3), 'the other one, where that is away');
is(over_a_websocket(), 'state done', 'for WebSockets, too');

$t->finish;
done_testing();
