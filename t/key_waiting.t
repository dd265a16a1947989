# Requests that wait for the engine to say whose a key is.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format aiq "$uri $status $aiq_status";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/access.log aiq;
        aiq_key "models";
        location / { aiq_pass echo; }
    }');

my $e = AIQ::FakeEngine->new($t);
my $ann = '200 -1 acme ann user key_1';

$e->keys(1, aiq_a => 'hold', aiq_b => 'hold', aiq_die => 'die', aiq_c => $ann);
$e->start;
$t->start_nginx;

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

# reload
$e->keys(3, aiq_a => 'hold', aiq_c => $ann);
my $c = ask($t->connect, 'aiq_a', '/reload');
asked('aiq_a', 3);
my ($worker) = $t->workers;
$t->reload(no_wait => 1);
$t->wait_for(sub { $t->error_log =~ /gracefully shutting down/ }, 10, 'the old worker leaves');
$e->keys(3, aiq_a => $ann, aiq_c => $ann);
is($c->response->{status}, 200, 'reload: it is served');
$t->wait_for(sub { !grep { $_ == $worker } $t->workers }, 10, 'the end of the old worker');
pass('then the old worker ends');

# the engine dies; its successor is asked
$e->restart;
$e->keys(3, aiq_die => 'die', aiq_c => $ann);
$c = ask($t->connect, 'aiq_die', '/again');
$t->wait_for(sub { !$t->alive('engine') }, 10, 'its end');
$e->keys(3, aiq_die => $ann, aiq_c => $ann);
$e->start;
is($c->response->{status}, 200, 'the engine dies: its successor is asked');
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
