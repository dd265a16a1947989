# A provider in every kind of trouble: a plain error before the first byte, an
# error event after it, nothing of the provider's own words, and no effect on
# others.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

# kind => [status of a plain request, its code, what a stream does]; a stream that
# has begun ends with an event of the last code
my %kinds = (
    'close'           => [ 502, 'provider_error',       502 ],
    'no-http'         => [ 502, 'provider_error',       502 ],
    '500-html'        => [ 502, 'provider_error',       502 ],
    '200-html'        => [ 502, 'provider_error',       502 ],
    'redirect'        => [ 502, 'provider_error',       502 ],
    'bad-length'      => [ 502, 'provider_error',       502 ],
    'short-length'    => [ 502, 'provider_error',       502 ],
    'endless-headers' => [ 502, 'provider_error',       502 ],
    '401'             => [ 502, 'provider_auth_failed', 502 ],
    '503'             => [ 502, 'provider_error',       502 ],
    'hang-headers'    => [ 504, 'provider_timeout',     504 ],
    'hang-mid'        => [ 504, 'provider_timeout',     'provider_timeout' ],
    'trickle-headers' => [ 504, 'provider_timeout',     504 ],
    'reset-mid'       => [ 502, 'provider_error',       'provider_error' ],
    'half-line'       => [ 502, 'provider_error',       'provider_error' ],
    'no-done'         => [ 502, 'provider_error',       'provider_error' ],
    'error-mid'       => [ 502, 'provider_error',       'provider_error' ],
    '100mb-line'      => [ 502, 'provider_error',       'provider_error' ],
);

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my $closed = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp');    # bound, not listening

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=1000; }
    aiq_provider hasty { dialect openai; url @{[ $mock->url ]}; timeout connect=5s first_byte=1s idle=1s total=2s;
                         retry 1; breaker failures=1000; }
    # their first events come in time, however busy the machine is
    aiq_provider halts { dialect openai; url @{[ $mock->url ]}; timeout idle=1s; retry 1; breaker failures=1000; }
    aiq_provider ends  { dialect openai; url @{[ $mock->url ]}; timeout total=5s; retry 1; breaker failures=1000; }
    aiq_provider down { dialect openai; url http://127.0.0.1:@{[ $closed->sockport ]}/v1; retry 1; }
    aiq_provider lost { dialect openai; url http://provider.invalid/v1; retry 1; }
    @{[ $mock->models('mock-chat', 'mock-429', 'mock-400', map { qq(mock-$_) } grep { !/hang|trickle/ } keys %kinds) ]}
    @{[ map { qq(aiq_model mock-$_ { target hasty; }) } 'trickle-body', grep { /hang-headers|trickle/ } keys %kinds ]}
    aiq_model mock-hang-mid { target halts; }
    aiq_model mock-stream-1000x20ms { target ends; }
    aiq_model down { target down; }
    aiq_model lost { target lost; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

sub ask {
    my ($model, $stream) = @_;

    return $t->post('/v1/chat/completions',
        $t->chat($model, 'hi', $stream ? (stream => JSON::PP::true) : ()));
}

sub is_error {
    my ($r, $status, $code, $name) = @_;

    is($r->{status}, $status, "$name: status");
    is($t->json($r)->{error}{code}, $code, "$name: code");
    unlike($r->{body}, qr/secret|127\.0\.0\.1|invalid\b/, "$name: nothing of the provider's");
}

sub works {
    my $r = ask('mock-chat');
    is($r->{status}, 200, "the next request works after $_[0]");
}

for my $kind (sort keys %kinds) {
    my ($status, $code, $stream) = @{ $kinds{$kind} };

    is_error(ask("mock-$kind"), $status, $code, $kind);
    my $r = ask("mock-$kind", 1);
    if ($stream =~ /^\d+$/) {
        is_error($r, $stream, $code, "$kind, stream");
    } else {
        my @events = $r->{body} =~ /^data: (.*)$/mg;
        is($r->{status}, 200, "$kind, stream: status");
        ok(!$r->{cut}, "$kind, stream: ends well");
        is(scalar(@events), 4, "$kind, stream: three events and the error");
        is($t->json($events[-1])->{error}{code}, $stream, "$kind, stream: its code");
        unlike($r->{body}, qr/\[DONE\]|secret/, "$kind, stream: no [DONE]");
    }
    works($kind);
}

# never silent for long, and never done
is_error(ask('mock-trickle-body'), 504, 'provider_timeout', 'trickle-body');
my $endless = ask('mock-stream-1000x20ms', 1);
is($endless->{status}, 200, 'an endless stream: begins');
like($endless->{body}, qr/"code":"provider_timeout".*\n\n\z/, 'an endless stream: is ended');
cmp_ok(scalar(() = $endless->{body} =~ /"content":" token/g), '>', 1, 'an endless stream: passes until then');
works('what trickles');

is_error(ask('down'), 502, 'provider_unreachable', 'refused connection');
is_error(ask('lost'), 502, 'provider_unreachable', 'unknown host');
works('no connection');

# the caller's own errors are the caller's
my $r = ask('mock-429');
is($r->{status}, 429, '429 is passed on');
is($r->{headers}{'retry-after'}, 7, '429: with its Retry-After');
is($t->json($r)->{error}{code}, 'rate_limit_exceeded', '429: as the provider says it');
$r = ask('mock-400', 1);
is($r->{status}, 400, '400 is passed on, also of a stream');
is($t->json($r)->{error}{code}, 'mock_invalid', '400: as the provider says it');

# each failed call is one line of the log
my @lines = grep { ($_->{code} // '') eq 'provider_auth_failed' } $t->engine_lines;
is(scalar(@lines), 2, 'one line a failed call');
like($lines[0]{detail}, qr/provider mock: status 401/, 'with its reason');

# a provider that goes away and comes back
$t->stop('mock', 'KILL');
is_error(ask('mock-chat'), 502, 'provider_unreachable', 'provider down');

$t->finish;
done_testing;
