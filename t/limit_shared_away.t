# Shared limits without Redis, or without an engine: each nginx goes by what it knows
# itself, with its part of the rate, or fails closed; nobody waits for long.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Load;
use AIQ::Redis;
use AIQ::Test;
use Time::HiRes qw(time);

my @node = map { AIQ::Test->new } 1, 2;
my $redis = AIQ::Redis->new($node[0]) or plan skip_all => 'no redis-server';

sub start_engine { return $_[0]->start_engine(args => [ '--redis', $redis->url ]) }

for my $t (@node) {
    $t->conf('
        aiq_limit_zone $arg_k zone=open:1m rate=10r/d;
        aiq_limit_zone $arg_k zone=one:1m rate=4r/d;
        aiq_limit_zone $arg_k zone=closed:1m rate=10r/d;
        aiq_limit_zone $arg_k zone=trial:1m rate=1r/d;
        aiq_limit_zone $arg_k zone=load:1m rate=1000000r/d;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /open/ { aiq_limit zone=open shared nodes=2; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /one/ { aiq_limit zone=one shared nodes=1; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /closed/ { aiq_limit zone=closed shared fail_closed; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /trial/ { aiq_limit zone=trial shared fail_closed dry_run; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /load/ { aiq_limit zone=load shared nodes=2; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location = /metrics { aiq_metrics; }
        }
        server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 ok; } }');
}

sub status { my ($n, $path) = @_; return $node[$n]->get($path)->{status} }
sub statuses { my ($n, $path, $times) = @_; return join(' ', map { status($n, $path) } 1 .. $times) }

# An engine without Redis is an answer as well: there is none.
$node[0]->start_engine;
$node[0]->start_nginx;
$node[0]->wait_for_links(1);
is(statuses(0, '/open/?k=none', 6), '200 200 200 200 200 429', 'without --redis: its half of the rate');
is(statuses(0, '/closed/?k=none', 1), '503', 'or nobody');
my $r = $node[0]->get('/closed/?k=none');
is($node[0]->json($r)->{error}{code}, 'limit_unavailable', 'the code');
is($r->{headers}{'retry-after'}, 1, 'Retry-After');
is(status(0, '/trial/?k=none'), 200, 'but for a dry run');
is((() = $node[0]->engine_log =~ /there is no --redis/g), 1, 'the engine says so once');
is((() = $node[0]->error_log =~ /no answer about shared limits/g), 1, 'and nginx');
like($node[0]->get('/metrics')->{body}, qr/^aiq_limit_unshared_total\{zone="open"\} 6$/m, 'counted');

# Now with it.
$node[0]->stop('engine');
is(status(0, '/open/?k=gone'), 200, 'without an engine: the same');
is(status(0, '/closed/?k=gone'), 503, 'or not');
start_engine($node[0]);
start_engine($node[1]);
$node[1]->start_nginx;

# Until so many in a row were answered by Redis.
sub back {
    my ($n) = @_;
    my $row = 0;

    $node[$n]->wait_for(sub { $row = status($n, "/closed/?k=back$n" . time()) == 200 ? $row + 1 : 0; $row > 2 },
        30, 'shared limits are answered');
}
back($_) for 0, 1;

# What a node has let through counts when it goes on alone.
my $k = 0;
sub through {
    for (1 .. 20) {
        $k++;
        return $k if statuses(0, "/one/?k=t$k", 3) eq '200 200 200' && statuses(0, "/open/?k=t$k", 4) eq '200 200 200 200';
    }
}
$k = through();
my $load = AIQ::Load->new($node[0], clients => 3, path => '/load/?k=load', expect => 'ok', body => '');
$load->wait_for_requests(200);
$node[0]->kill_hard('redis');
$load->wait_for_requests(200);
is(statuses(0, "/one/?k=t$k", 2), '200 429', 'alone: three have passed before');
is(statuses(0, "/open/?k=t$k", 2), '200 429', 'four, and its half is five');
is(statuses(1, "/open/?k=t$k", 6), '200 200 200 200 200 429', 'the other has its own');
is(status(0, '/closed/?k=dead'), 503, 'fail_closed');
$redis->start;
back($_) for 0, 1;
$load->wait_for_requests(200);

# It hangs.
kill('STOP', $node[0]->pid('redis'));
is(status(1, '/open/?k=slow'), 200, 'Redis hangs: nobody waits for it');
$load->wait_for_requests(100);
is(status(0, '/closed/?k=slow'), 503, 'fail_closed');
kill('CONT', $node[0]->pid('redis'));
back($_) for 0, 1;

# The engine hangs: so does nginx not.
kill('STOP', $node[0]->pid('engine'));
is(status(0, '/open/?k=hang'), 200, 'the engine hangs');
kill('CONT', $node[0]->pid('engine'));
back(0);

# The engine is killed, under load.
$node[0]->kill_hard('engine');
$load->wait_for_requests(200);
start_engine($node[0]);
back(0);
$node[0]->wait_for(sub { $node[0]->error_log =~ /shared limits are counted for all nginx again/ }, 30, 'that is over');
my $sum = $load->finish;
is($sum->{lost}, 0, 'no request was lost') or diag($sum->{first_lost});
is($sum->{wrong}, 0, 'nor was one refused') or diag($sum->{first_wrong});

$_->finish for reverse @node;
done_testing;
