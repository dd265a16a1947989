# Requests that wait for the engine to say whose a key is.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format aiq "$uri $status $aiq_status";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;
        access_log %%DIR%%/logs/access.log aiq;
        aiq_key "models";
        location / { aiq_pass echo; }
    }');

my $e = AIQ::FakeEngine->new($t);
my $ann = '200 -1 acme ann user key_1';

$e->keys(1, aiq_a => 'hold', aiq_b => 'hold', aiq_die => 'die', aiq_c => $ann);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

sub ask {
    my ($c, $key, $path, %arg) = @_;

    $c->request($arg{body} ? 'POST' : 'GET', $path, headers => [ 'x-api-key' => $key ], %arg);
    return $c;
}

sub asked {
    my ($key, $n) = @_;

    $t->wait_for(sub { $e->checks($key) >= $n }, 10, "the question for $key");
}

# together
my @c = map { ask($t->connect, 'aiq_a', "/a$_") } 1 .. 5;
my $posted = ask($t->connect, 'aiq_a', '/posted', body => 'x' x 100_000);
my $c;
my $piped = $t->connect;
ask($piped, 'aiq_a', '/first');
ask($piped, 'aiq_c', '/second');
asked('aiq_a', 1);
is($t->get('/else', headers => [ 'x-api-key' => 'aiq_c' ])->{status}, 200, 'others are served');

# one leaves
my $gone = ask($t->connect, 'aiq_b', '/gone');
asked('aiq_b', 1);
$gone->close;
$t->wait_for(sub { $t->read_file('logs/access.log') =~ m{^/gone 499 client_closed$}m }, 10, 'its log line');
pass('a client that leaves is done with');

$e->keys(2, aiq_a => $ann, aiq_b => $ann, aiq_die => 'die', aiq_c => $ann);
is($_->response->{status}, 200, 'one waited') for @c;
is($posted->response->{status}, 200, 'with a body');
like($e->log, qr{^END /posted body=100000$}m, 'which is whole');
is($piped->response->{status}, 200, 'the first of a pipeline');
is($piped->response->{status}, 200, 'the second of it');
is($t->get('/b', headers => [ 'x-api-key' => 'aiq_b' ])->{status}, 200, 'the key of the one that left');

# asked once, and once more, as the answer came after a change
is($e->checks('aiq_a'), 2, 'they waited for one answer');

# HTTP/2: streams of one connection
sub frame { my ($type, $flags, $stream, $data) = @_; return substr(pack('N', length $data), 1) . pack('CCN', $type, $flags, $stream) . $data }

sub h2 {
    my ($c, @paths) = @_;
    my $stream = -1;
    my @fields = ([ ':authority', 'a' ], [ 'x-api-key', 'aiq_a' ]);

    # literals, without a table
    $c->send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . join('', frame(4, 0, 0, ''), map {
        frame(1, 5, $stream += 2, "\x82\x86" . join('', map { pack('C C/a C/a', 0, @$_) } [ ':path', $_ ], @fields))
    } @paths));
    return $c;
}

# What comes: how many streams end, and their text.
sub ends {
    my ($c, $n) = @_;
    my $text = '';

    while ($n) {
        my ($len, $type, $flags) = unpack('N C C', "\0" . $c->bytes(9));
        my $data = $len ? $c->bytes($len) : '';
        $text .= $data if $type == 0;
        $n-- if $type <= 1 && $flags & 1;
    }
    return $text;
}

$e->keys(3, aiq_a => 'hold', aiq_c => $ann);
$gone = h2($t->connect(port => 1), '/h2/1', '/h2/2');
asked('aiq_a', 3);
$gone->close;
$t->wait_for(sub { 2 == (() = $t->read_file('logs/access.log') =~ m{^/h2/\d 499 client_closed$}mg) }, 10, 'its log lines');
pass('a connection that goes with its streams');
$c = h2($t->connect(port => 1), '/h2/3', '/h2/4');
ask($t->connect, 'aiq_c', '/turn')->response for 1 .. 2;
$e->keys(4, aiq_a => $ann, aiq_c => $ann);
is(ends($c, 2), "ok\nok\n", 'streams that wait are served');
$c->close;

# reload
$e->keys(6, aiq_a => 'hold', aiq_c => $ann);
my $asked = $e->checks('aiq_a');
$c = ask($t->connect, 'aiq_a', '/reload');
asked('aiq_a', $asked + 1);
my ($worker) = $t->workers;
$t->reload(no_wait => 1);
$t->wait_for(sub { $t->error_log =~ /gracefully shutting down/ }, 10, 'the old worker leaves');
$e->keys(6, aiq_a => $ann, aiq_c => $ann);
is($c->response->{status}, 200, 'reload: it is served');
$t->wait_for(sub { !grep { $_ == $worker } $t->workers }, 10, 'the end of the old worker');
pass('then the old worker ends');

# the engine dies; its successor is asked
my $status;
$t->wait_for(sub {
    $e->restart;
    $e->keys(3, aiq_die => 'die', aiq_c => $ann);
    my $begun = time();
    $c = ask($t->connect, 'aiq_die', '/again');
    $t->wait_for(sub { !$t->alive('engine') }, 10, 'its end');
    $e->keys(3, aiq_die => $ann, aiq_c => $ann);
    $e->start;
    $status = $c->response->{status};
    return $status == 200 || time() - $begun < 1;
}, 20, 'a successor within a second');
is($status, 200, 'the engine dies: its successor is asked');
$e->keys(3, aiq_die => 'die', aiq_c => $ann);
$c = ask($t->connect, 'aiq_die', '/none');
is($c->response->{status}, 200, 'known');
$e->keys(4, aiq_die => 'die', aiq_c => $ann);
$c = ask($t->connect, 'aiq_die', '/none');
my $r = $c->response;
is($r->{status}, 503, 'nobody comes');
is($t->json($r)->{error}{code}, 'engine_unavailable', 'the code');
is($r->{headers}{'retry-after'}, 1, 'Retry-After');

# silence
$t->wait_for(sub { !$t->alive('engine') }, 10, 'its end');
$e->keys(4, aiq_a => 'hold', aiq_c => $ann);
$e->restart;
$r = $t->get('/', headers => [ 'x-api-key' => 'aiq_a' ]);
is("$r->{status} " . $t->json($r)->{error}{code}, '503 key_unverified', 'the engine does not say');
$e->wait_for(qr/^CANCEL check$/m, 'it is told that we do not want to know any more');
is($t->get('/', headers => [ 'x-api-key' => 'aiq_c' ])->{status}, 200, 'the link survives it');

$t->finish;
done_testing;
