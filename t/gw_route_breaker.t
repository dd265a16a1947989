# The circuit breaker of a target, as requests, metrics, /health and the log see it.
# Its clock is tested in t/unit/test_breaker.c; here an hour means never and a
# millisecond at once.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my $conf = sub {
    my ($open) = @_;

    return "
    aiq_provider one  { dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=3 open=$open; }
    aiq_provider two  { dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=3 open=$open; }
    aiq_provider five { dialect openai; url @{[ $mock->url ]}; retry 9 backoff=1ms; breaker open=1h; }
    aiq_model m    { target one model=mock-first-4-500; target two model=fine; }
    aiq_model lone { target one model=mock-limited; }
    aiq_model five { target five model=mock-500; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /metrics { aiq_metrics; }
             location /health { aiq_health; } }"
};
$t->conf($conf->('1h'));
$t->start;

sub ask {
    my ($model) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi'),
        headers => [ 'X-Request-Id' => "ask-$model" ]);
}

sub state_of {
    my ($provider) = @_;

    return $t->metric(qq(llm_circuit_breaker_state{provider="$provider"}));
}

sub health_of {
    my ($provider) = @_;

    my ($c) = grep { $_->{name} eq "provider $provider" } @{ $t->json($t->get('/health'))->{components} };
    return $c;
}

is(state_of('one'), 0, 'closed');
is(health_of('one')->{status}, 'healthy', 'and healthy');
is(ask('m')->{headers}{'x-aiq-attempts'}, 2, "failure $_ goes on to the next target") for 1 .. 3;
is(state_of('one'), 2, 'the third opens it');
is(state_of('two'), 0, 'and no other');
my $c = health_of('one');
is($c->{status}, 'degraded', '/health says so');
ok(!$c->{critical}, 'it is not critical');
like($c->{reason}, qr/circuit breaker/, 'why');
is($t->get('/health')->{status}, 200, 'the engine serves on');

my $r = ask('m');
is($r->{headers}{'x-aiq-attempts'}, 1, 'an open one is not asked');
is($r->{headers}{'x-aiq-provider'}, 'two', 'but the next');

# D5: limits count, too
is(ask('lone')->{status}, 429, 'a limited target') for 1 .. 3;
$r = ask('lone');
is($r->{status}, 503, 'with all breakers open');
is($t->json($r)->{error}{code}, 'providers_unavailable', 'the code');
cmp_ok($r->{headers}{'retry-after'}, '>', 3500, 'when to come back');
cmp_ok($r->{headers}{'retry-after'}, '<=', 3600, 'when the first may be asked again');

my ($line) = grep { $_->{message} eq 'circuit breaker has changed' } $t->engine_lines;
is($line->{state}, 'open', 'the log has each change');
is($line->{request_id}, 'ask-m', 'with the request');
is($line->{provider}, 'one', 'and whose it is');

# five failures by default, of one request or of many
is(ask('five')->{status}, 502, 'a request whose attempts open the breaker');
is($t->json($t->get('/health'))->{status}, 'degraded', 'is degraded');
is(state_of('five'), 2, 'open');
is(scalar(grep { $_->{body} =~ /mock-500/ } $mock->requests), 5, 'gets no further one');

# a reload keeps what is known, and its parameters count
$t->reload;
is(ask('m')->{headers}{'x-aiq-attempts'}, 1, 'still open after a reload') for 1 .. 3;
$t->conf($conf->('1ms'));
$t->reload;
$t->wait_for(sub { ask('m')->{headers}{'x-aiq-attempts'} == 2 }, 10, 'a test, which fails');
$t->wait_for(sub { ask('m')->{headers}{'x-aiq-provider'} eq 'one' }, 10, 'a test, which succeeds');
$t->wait_for(sub { ask('lone')->{status} == 429 }, 10, 'and a failed one of the other model');
my @states = map { $_->{state} }
    grep { $_->{message} eq 'circuit breaker has changed' && $_->{model} eq 'mock-first-4-500' } $t->engine_lines;
is_deeply(\@states, [ 'open', 'half open', 'open', 'half open', 'closed' ],
    'after its time a single test: failed, then well');

$t->finish;
done_testing;
