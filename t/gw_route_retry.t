# Attempts at one target: how many, how long, and what asks for another one.

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

$t->conf("
    aiq_provider five { dialect openai; url @{[ $mock->url ]}; retry 5 backoff=1ms; breaker failures=1000; }
    aiq_provider slow { dialect openai; url @{[ $mock->url ]}; retry 5 backoff=1h; }
    aiq_provider once { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ map { qq(aiq_model mock-$_ { target five; }) } 'first-2-500', 'first-4-500', 'first-5-500',
        'first-2-limited', '400' ]}
    aiq_model slow { target slow model=mock-500; }
    aiq_model once { target once model=mock-500; }
    aiq_model patient   { target five model=mock-429; retry_timeout 6s; }
    aiq_model dated     { target five model=mock-429-date; retry_timeout 1s; }
    aiq_model impatient { target slow model=mock-first-1-500; retry_timeout 1d; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /metrics { aiq_metrics; } }");
$t->start;

sub ask {
    my ($model, %more) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi', %more));
}

my $r = ask('mock-first-2-500');
is($r->{status}, 200, 'two failures are covered up');
is($r->{headers}{'x-aiq-attempts'}, 3, 'with three attempts');

$r = ask('mock-first-4-500', stream => JSON::PP::true);
is($r->{status}, 200, 'four, of a stream');
is($r->{headers}{'x-aiq-attempts'}, 5, 'with five attempts');
like($r->{body}, qr/\[DONE\]/, 'which is whole');

my $before = $mock->stats->{requests};
$r = ask('mock-first-5-500');
is($r->{status}, 502, 'the fifth failure is told');
is($t->json($r)->{error}{code}, 'provider_error', 'as what it is');
is($mock->stats->{requests}, $before + 6, 'after five attempts');

$r = ask('mock-first-2-limited');
is($r->{status}, 200, 'a limit of the only target is waited for');
is($r->{headers}{'x-aiq-attempts'}, 3, 'and asked again');

$r = ask('patient');
is($r->{status}, 429, 'but not when it asks for more time than there is');
is($r->{headers}{'retry-after'}, 7, 'which the client is told');
is($r->{headers}{'x-aiq-attempts'}, 1, 'at once');

like(ask('dated')->{headers}{'retry-after'}, qr/^[1-7]$/, 'nor when it says until when');

is(ask('slow')->{status}, 502, 'nor is a failure, when the wait would take longer than retry_timeout');

$before = $mock->stats->{requests};
is(ask('once')->{status}, 502, 'retry 1');
is($mock->stats->{requests}, $before + 2, 'is one attempt');
$r = ask('mock-400');
is($r->{headers}{'x-aiq-attempts'}, 1, "and the client's own error is not tried again");

# a client that leaves ends the waiting, too
my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', body => $t->chat('impatient', 'hi'));
$t->wait_for(sub { grep { ($_->{model} // '') eq 'impatient' && $_->{next} eq 'a wait' } $t->engine_lines }, 10, 'a wait');
$c->close;
$t->wait_for(sub { $t->metric('aiq_jobs_open') == 1 }, 10, 'it is gone');    # but for the question
is(ask('once')->{status}, 502, 'the engine serves on');

$t->finish;
done_testing;
