# Which target answers: order, weight, cost, latency, backups, noncritical ones,
# and the fallbacks for what a model cannot or may not answer.

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
my $rules = "dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=1000; timeout first_byte=5s idle=5s;";

$t->conf("
    aiq_provider a { $rules }
    aiq_provider b { $rules }
    aiq_provider c { $rules }
    aiq_model ordered  { target a; target b; target c; }
    aiq_model weighted { target a weight=3; target b weight=1; policy weight; }
    aiq_model cheapest { target a input=3 output=15; target b input=2.50 output=10; target c input=1 output=16;
                         policy cost; }
    aiq_model quick    { target a model=mock-stream-1x1500ms; target b model=mock-stream-1x1ms; policy latency; }
    aiq_model backup   { target a backup; target b model=mock-first-1-500-backup; }
    aiq_model critical { target a model=mock-500; target b noncritical; }
    aiq_model batch    { target b noncritical; }
    aiq_model small    { target a model=mock-too-long; target b; fallback context=large content=lax; }
    aiq_model strict   { target a model=mock-rules;    target b; fallback context=large content=lax; }
    aiq_model large    { target c model=large-one; }
    aiq_model lax      { target c model=lax-one; }
    aiq_model dead_end { target a model=mock-too-long; fallback content=lax; }
    aiq_model circle   { target a model=mock-too-long; fallback context=small; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

sub ask {
    my ($model, $priority, %more) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi', %more),
        headers => [ $priority ? ('X-AIQ-Priority' => $priority) : () ]);
}

# How often each provider answers.
sub count {
    my ($n, @ask) = @_;
    my %by = (a => 0, b => 0, c => 0);

    $by{ ask(@ask)->{headers}{'x-aiq-provider'} }++ for 1 .. $n;
    return \%by;
}

is_deeply(count(10, 'ordered'), { a => 10, b => 0, c => 0 }, 'order: the first');
is_deeply(count(10, 'cheapest'), { a => 0, b => 10, c => 0 }, 'cost: input and output together');

# 400 draws of 3 : 1; outside of these once in more than a billion times
my $by = count(400, 'weighted');
cmp_ok($by->{a}, '>', 240, 'weight: about three quarters') or diag($by->{a});
cmp_ok($by->{a}, '<', 360, 'weight: and no more');

# the first two requests may measure either; then the quicker one is known
ask('quick', '', stream => JSON::PP::true) for 1 .. 4;
$by = count(20, 'quick', '', stream => JSON::PP::true);
cmp_ok($by->{b}, '>=', 18, 'latency: the quicker one') or diag($by->{b});

is_deeply(count(1, 'backup'), { a => 1, b => 0, c => 0 }, 'a backup answers where the others fail');
is_deeply(count(3, 'backup'), { a => 0, b => 3, c => 0 }, 'and only there');

# P10: a lesser answer for those alone who ask for it
my $r = ask('critical');
is($r->{status}, 502, 'noncritical: does not answer what is critical');
is(ask('critical', 'high')->{status}, 502, 'nor anything else that is not batch');
$r = ask('critical', 'batch');
is($r->{status}, 200, 'noncritical: answers a batch');
is($r->{headers}{'x-aiq-provider'}, 'b', 'when it is its turn');
$r = ask('batch');
is($r->{status}, 400, 'a model of noncritical targets alone');
is($t->json($r)->{error}{code}, 'priority_required', 'the code');
is(ask('batch', 'batch')->{status}, 200, 'answers a batch');

# too long for one model, or against its rules: another model, never another target
for my $case ([ 'small', 'large-one' ], [ 'strict', 'lax-one' ]) {
    $r = ask($case->[0]);
    is($r->{status}, 200, "$case->[0]: the fallback answers");
    is($r->{headers}{'x-aiq-model'}, $case->[1], "$case->[0]: the right one");
    is($r->{headers}{'x-aiq-attempts'}, 2, "$case->[0]: at once");
}
$r = ask('dead_end');
is($r->{status}, 400, 'without a fallback it is the answer');
is($t->json($r)->{error}{code}, 'context_length_exceeded', "in the provider's words");
is(ask('circle')->{status}, 400, 'a fallback has none itself');

$t->finish;
done_testing;
