# WebSockets when nginx reloads or quits, and when the engine is replaced or killed: each
# is told to connect again, and nobody waits for it.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo    { aiq_pass echo; aiq_websocket; aiq_websocket_ping 0; }
        location /metrics { aiq_metrics; }
    }');
$t->start;

sub open_two { return map { AIQ::WebSocket->new($t, '/echo') } 1, 2 }
sub works {
    my ($ws, $what) = @_;
    $ws->text($what);
    is($ws->message, $what, $what);
}

# reload
my ($a, $b) = open_two();
my ($old) = $t->workers;
works($a, 'before a reload');
$b->frame(1, 'half of a mes');
$t->reload;
is($_->closed, 1012, 'a reload closes with 1012') for $a, $b;
like($a->{reason}, qr/connect again/, 'and says what to do');
$_->close(1012) for $a, $b;
ok($_->ended, 'then it ends') for $a, $b;
$t->wait_for(sub { !grep { $_ == $old } $t->workers }, 20, 'the old worker leaves');
pass('the old worker leaves');

# one that does not answer
($a, $b) = open_two();
works($a, 'after a reload');
($old) = $t->workers;
$t->reload;
is($a->closed, 1012, 'another reload');
$t->wait_for(sub { !grep { $_ == $old } $t->workers }, 20, 'the worker leaves in the end');
ok($a->ended, 'who does not answer is left after a while');

# another engine
($a, $b) = open_two();
works($a, 'with the first engine');
$t->start_engine(name => 'second');
is($_->closed, 1012, 'an engine that leaves closes with 1012') for $a, $b;
$_->close for $a, $b;
$t->wait_for(sub { !$t->alive('engine') }, 30, 'the first engine leaves');
($a, $b) = open_two();
works($a, 'with the second engine');

# killed
$t->kill_hard('second');
is($_->closed, 1012, 'an engine that is killed, too') for $a, $b;
$_->close for $a, $b;
$t->start_engine(name => 'third');
$t->wait_for(sub { AIQ::WebSocket->ask($t, '/echo')->{status} == 101 }, 10, 'the third engine');

# clients that vanish, in the middle of things
for (1 .. 20) {
    my $ws = AIQ::WebSocket->new($t, '/echo');
    $ws->raw(substr(AIQ::WebSocket::frame_of(0x81, 'x' x 1000), 0, 50 * $_));
    $ws->drop;
}
$t->wait_for(sub { $t->metric('aiq_websockets') == 0 }, 10, 'none is open');
$t->wait_for(sub { $t->metric('aiq_active_connections') == 0 }, 10, 'none at the engine');
pass('clients that vanish leave nothing');

# quit
($a, $b) = open_two();
works($a, 'before the end');
kill('QUIT', $t->nginx_pid);
is($_->closed, 1012, 'nginx -s quit closes with 1012') for $a, $b;
$_->close(1000) for $a, $b;
$t->wait_for(sub { !$t->alive('nginx') }, 20, 'nginx leaves');
pass('nginx leaves');

$t->finish;
done_testing();
