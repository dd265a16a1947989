# Clients that leave: their upstream calls are cancelled, and nothing stays behind.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use POSIX ();
use Test::More;
use Time::HiRes qw(time);
use AIQ::Command qw(sanitized);
use AIQ::Test;
use AIQ::Mock;

# as many descriptors in the test, nginx, the engine and the mock
my $clients = $ENV{AIQ_VALGRIND} ? 20 : POSIX::sysconf(POSIX::_SC_OPEN_MAX()) > 4096 ? 1000 : 200;
my $t = AIQ::Test->new(engine_args => [ '--stream-memory', '256k' ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_stream_grace 0;
    aiq_abort_drain 0;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-stream-100000x100ms', 'mock-hang-headers', 'mock-chat') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /m { aiq_metrics; }
    }");
$t->start;

my $stream = $t->chat('mock-stream-100000x100ms', 'hi', stream => JSON::PP::true);

sub open_streams {
    my @c = map { $t->connect } 1 .. $clients;
    $_->request('POST', '/v1/chat/completions', body => $stream) for @c;
    for (@c) {
        $_->head->{status} == 200 or die 'no stream';
        defined $_->event or die 'no event';
    }
    return @c;
}

sub settled {
    my ($name) = @_;
    ok(eval { $t->wait_for(sub { $mock->stats->{open} == 1 }, 10) }, "$name: the provider's connections are closed")
        or diag $t->json($mock->stats);
}

my $engine = $t->pid('engine');

# Memory once it has not changed for half a second: what many jobs held goes back a
# moment after the last of them. Not the rings': that is bounded, and comes with first use.
sub level {
    my ($level, $since) = (0, 0);

    $t->wait_for(sub {
        my $now = $t->private_memory($engine);
        ($level, $since) = ($now, time()) if $now != $level;
        return time() - $since > 0.5;
    }, 10, 'a level of memory');
    return $level;
}

# under them what is freed is kept for a while
my $measured = !$ENV{AIQ_VALGRIND} && !sanitized();
my (@descriptors, @memory);
for my $round (1 .. 3) {
    my @c = open_streams();
    is($mock->stats->{open}, $clients + 1, "round $round: $clients streams");
    $_->close for @c;
    settled("round $round");
    $t->wait_for(sub { $t->get('/m')->{body} =~ /^aiq_jobs_open 1$/m }, 10, 'no job but our own');
    push @descriptors, $t->descriptors($engine);
    push @memory, level() if $measured;
}
is($descriptors[2], $descriptors[0], 'as many descriptors as after the first round');
SKIP: {
    skip 'memory is not itself here', 1 if !$measured;
    cmp_ok($memory[2] - $memory[0], '<', 1 << 20, 'and at most 1 MB more memory');
}

# before the provider has said anything
my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', body => $t->chat('mock-hang-headers', 'hi'));
$t->wait_for(sub { $mock->stats->{open} == 2 }, 10, 'the call');
$c->close;
settled('a silent provider');

# in the middle of its body
$c = $t->connect;
$c->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    . "Content-Length: 5000\r\n\r\n{\"model\":");
$c->close;
is($t->post('/v1/chat/completions', $t->chat('mock-chat', 'hi'))->{status}, 200, 'the next one is served');

like($t->get('/m')->{body}, qr/^llm_requests_total\{provider="mock",model="mock-hang-headers",status="499"\} 1$/m,
    'cancelled calls are counted as such');

$t->finish;
done_testing;
