# X-Request-Id and traceparent: kept where they are valid, else made; the engine
# gets them, every reply has the request id.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format aiq "$aiq_request_id $aiq_trace_id";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/access.log aiq;
        location / { aiq_pass echo; }
        location /health { aiq_health; }
        location /other { return 200 "$aiq_request_id\n"; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

my $made = qr/^req_[0-9A-HJKMNP-TV-Z]{26}$/;

for my $id ('a', 'A-z.0_9', 'x' x 64) {
    my $r = $t->get('/ok', headers => [ 'X-Request-Id' => $id ]);
    is($r->{headers}{'x-request-id'}, $id, "kept: $id");
    is($e->last_open->{request_id}, $id, 'the engine has it');
}
for my $id ('', 'x' x 65, 'a b', 'a/b', "\xc3\xa4", '{}') {
    my $r = $t->get('/ok', headers => [ 'X-Request-Id' => $id ]);
    like($r->{headers}{'x-request-id'}, $made, "not kept: '$id'");
    is($e->last_open->{request_id}, $r->{headers}{'x-request-id'}, 'the engine has the new one');
}

my %seen;
my $before = int(Time::HiRes::time() * 1000);
my @ids = map { $t->get('/ok')->{headers}{'x-request-id'} } 1 .. 200;
is(scalar(grep { !$seen{$_}++ } @ids), 200, 'made ids differ');

# the first ten digits are the time in ms
my $ms = 0;
$ms = $ms * 32 + index('0123456789ABCDEFGHJKMNPQRSTVWXYZ', $_) for split //, substr($ids[0], 4, 10);
cmp_ok(abs($ms - $before), '<', 60_000, 'and tell the time');

like($t->get('/health')->{headers}{'x-request-id'}, $made, 'also from aiq_health');
like($t->get('/other')->{body}, qr/^req_/, 'the variable is there in other locations');
ok(!exists $t->get('/other')->{headers}{'x-request-id'}, 'whose replies are left alone');

# W3C Trace Context
my $trace = '0af7651916cd43dd8448eb211c80319c';
my $parent = 'b7ad6b7169203331';

sub trace_of {
    my (@headers) = @_;

    $t->get('/ok', headers => \@headers);
    return $e->last_open;
}

my $open = trace_of(traceparent => "00-$trace-$parent-01", tracestate => 'a=1');
like($open->{traceparent}, qr/^00-$trace-[0-9a-f]{16}-01$/, 'the trace goes on');
unlike($open->{traceparent}, qr/$parent/, 'with a span of ours');
is($open->{tracestate}, 'a=1', 'tracestate is passed on');

like(trace_of(traceparent => "00-$trace-$parent-00")->{traceparent}, qr/-00$/, 'not sampled stays so');
like(trace_of(traceparent => "00-$trace-$parent-ff")->{traceparent}, qr/-01$/, 'unknown flags are dropped');
like(trace_of(traceparent => "cc-$trace-$parent-01-what-the-future-brings")->{traceparent},
    qr/^00-$trace-/, 'a later version by its known part');
like(trace_of(traceparent => "cc-$trace-$parent-01")->{traceparent}, qr/^00-$trace-/, 'and without more');

$open = trace_of(traceparent => "00-$trace-$parent-01", tracestate => 'a=1,b=2', tracestate => 'c=3');
is($open->{tracestate}, 'a=1,b=2,c=3', 'several tracestates are one list');

for my $bad ("00-$trace-$parent-01-more", "ff-$trace-$parent-01", "cc-$trace-$parent-01x",
    '00-' . uc($trace) . "-$parent-01", '00-' . '0' x 32 . "-$parent-01",
    "00-$trace-" . '0' x 16 . '-01', "00-$trace-$parent", "00-$trace-$parent-0g", '',
    "00_$trace-$parent-01")
{
    my $new = trace_of(traceparent => $bad, tracestate => 'a=1');

    like($new->{traceparent}, qr/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/, "a new trace for '$bad'");
    unlike($new->{traceparent}, qr/$trace/i, 'really');
    ok(!exists $new->{tracestate}, 'without the tracestate');
}
unlike(trace_of(traceparent => "00-$trace-$parent-01", traceparent => "00-$trace-$parent-01")->{traceparent},
    qr/$trace/, 'two traceparents are none');

$t->get('/ok', headers => [ traceparent => "00-$trace-$parent-01", 'X-Request-Id' => 'mine' ]);
ok($t->wait_for(sub { $t->read_file('logs/access.log') =~ /^mine $trace$/m }), 'both are variables');

$t->finish;
done_testing;
