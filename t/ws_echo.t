# aiq_websocket: a handshake, messages both ways through the service, and the end.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    log_format ws \'$status "$aiq_status" $aiq_websocket_close $body_bytes_sent $request_completion\';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo { aiq_pass echo; aiq_websocket; aiq_websocket_max_message 4m; access_log %%DIR%%/access.log ws; }
        location /metrics { aiq_metrics; }
    }');
$t->start;

my $ws = AIQ::WebSocket->new($t, '/echo');
is($ws->{headers}{upgrade}, 'websocket', 'Upgrade');
is(lc $ws->{headers}{connection}, 'upgrade', 'Connection');
ok($ws->{headers}{'x-request-id'}, 'X-Request-Id');

$ws->text('hello');
is($ws->message, 'hello', 'a message comes back');
ok(!$ws->{binary}, 'as text');
$ws->binary("\x00\xff");
is($ws->message, "\x00\xff", 'bytes come back');
ok($ws->{binary}, 'as binary');
$ws->text('');
is($ws->message, '', 'nothing comes back');

$ws->frame(1, 'in ');
$ws->ping('now');
$ws->frame(0x80, 'two');
is($ws->message, 'in two', 'fragments are one message');
is_deeply($ws->{pongs}, ['now'], 'a ping between them has its pong');

my $long = join('', map { chr(32 + $_ % 90) } 1 .. 300_000);
$ws->text($long);
ok($ws->message eq $long, 'a message beyond every window');
$ws->raw(join('', map { AIQ::WebSocket::frame_of(0x81, $_) } 1 .. 5000));
is_deeply([ map { $ws->message } 1 .. 5000 ], [ 1 .. 5000 ], '5,000 messages in their order');
$ws->raw($_) for split //, AIQ::WebSocket::frame_of(0x81, 'byte by byte');
is($ws->message, 'byte by byte', 'however it is cut');

$ws->text('last');
$ws->close(3001, 'enough');
is($ws->message, 'last', 'what was said before closing comes back');
is($ws->closed, 3001, 'then the Close, with the same code');
ok($ws->ended, 'and the connection ends');

my $second = AIQ::WebSocket->new($t, '/echo', behind => AIQ::WebSocket::frame_of(0x81, 'early'));
is($second->message, 'early', 'a frame may come with the handshake');
like($t->get('/metrics')->{body}, qr/^aiq_websockets 1$/m, 'one is open');
$second->close;
is($second->closed, 1005, 'a Close without a code is answered by one');
ok($second->ended, 'the end');

my $third = AIQ::WebSocket->new($t, '/echo');
$third->drop;
$t->wait_for(sub { $t->read_file('access.log') =~ /\n.*\n.*\n/ }, 10, 'three log lines');
my @log = split /\n/, $t->read_file('access.log');
like($log[0], qr/^101 "ok" 3001 \d{6} OK$/, 'the log of the first');
like($log[1], qr/^101 "ok" 1005 \d+ OK$/, 'of the second');
like($log[2], qr/^101 "client_closed" - 0 $/, 'of the third');

my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^aiq_websockets 0$/m, 'none is open');
like($metrics, qr/^aiq_websocket_messages_total\{direction="$_"\} 5008$/m, "messages $_") for qw(received sent);
like($metrics, qr/^aiq_websocket_closes_total\{code="$_"\} 1$/m, "closed with $_") for 1005, 1006, 3000;

is($t->post('/echo', 'plain')->{body}, 'plain', 'other requests are served as ever');

$t->finish;
done_testing();
