# aiq_health and aiq_metrics, with and without an engine.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { aiq_pass echo; }
        location /health { aiq_health; }
        location /silent/ { aiq_health; }
        location = /metrics { aiq_metrics; }
        location /closed { deny all; aiq_health; }
    }');

# no engine at all
$t->start_nginx;
my $r = $t->get('/health/live');
is("$r->{status} $r->{body}", qq(200 {"status":"ok"}\n), 'live, without an engine');

my $gone = { status => 'unhealthy', components => [
    { name => 'engine', critical => JSON::PP::true, status => 'unhealthy', reason => 'not connected' } ] };
for my $path ('/health', '/health/ready') {
    $r = $t->get($path);
    is($r->{status}, 503, "$path: 503");
    is($r->{headers}{'content-type'}, 'application/json', "$path: JSON");
    is_deeply($t->json($r), $gone, "$path: the component list");
}
is($t->post('/health', 'x')->{status}, 405, 'POST');
is($t->get('/closed')->{status}, 403, 'a denied one');
is($t->http('HEAD', '/health')->{status}, 503, 'HEAD');

sub metrics {
    my $r = $t->get('/metrics');
    my %value;

    is($r->{status}, 200, 'metrics: 200');
    is($r->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8', 'metrics: content type');
    for (split /\n/, $r->{body}) {
        next if /^#/;
        my ($name, $number) = /^(\S+) (\S+)$/ or fail("not a sample: $_");
        ok(!exists $value{$name}, "$name occurs once") if exists $value{$name};
        $value{$name} = $number;
    }
    my %type;
    $type{$_}++ for $r->{body} =~ /^# TYPE (\S+)/mg;
    is_deeply([ grep { $type{$_} > 1 } keys %type ], [], 'each TYPE once');
    return \%value;
}

is($t->get('/x')->{status}, 503, 'a request without an engine');
my $m = metrics();
is($m->{aiq_engine_up}, 0, 'aiq_engine_up is 0');
is($m->{'aiq_refused_total{reason="engine_unavailable"}'}, 1, 'refusals are counted, probes are not');
ok(!exists $m->{aiq_uptime_seconds}, "nothing of the engine's");

# the engine comes
$t->start_engine;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 10, 'healthy');
my $health = $t->json($t->get('/health/ready'));
is($health->{status}, 'healthy', "the engine's own document");
ok(@{ $health->{components} }, 'with components');
is($t->post('/x', 'y')->{body}, 'y', 'a request');
$m = metrics();
is($m->{aiq_engine_up}, 1, 'aiq_engine_up is 1');
is($m->{aiq_active_connections}, 0, 'nothing is open');
is($m->{'aiq_requests_total{method="POST",endpoint="echo"}'}, 1, "the engine's families are there");
ok(exists $m->{aiq_uptime_seconds}, 'all of them');

# it goes, and comes again
$t->kill_hard('engine');
$t->wait_for(sub { $t->get('/health')->{status} == 503 });
is(metrics()->{aiq_engine_up}, 0, 'gone again');
$t->start_engine;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 10, 'healthy again');
is(metrics()->{aiq_link_reconnects_total}, 1, 'the link was made anew');
$t->stop('engine');

# one that does not answer
my $e = AIQ::FakeEngine->new($t);
$e->start;
$e->wait_for_hellos(1);
$t->wait_for(sub { $t->get('/x')->{status} == 200 });
my $begun = Time::HiRes::time();
$r = $t->get('/silent/ready');
is($r->{status}, 503, 'an engine that does not answer: 503');
is($t->json($r)->{components}[0]{reason}, 'no answer', 'the reason');
cmp_ok(Time::HiRes::time() - $begun, '>', 0.9, 'after its second');

# what is open is counted, and a killed worker's is not
my $c = $t->connect;
$c->request('GET', '/silent2');
$e->wait_for(qr{uri=/silent2});

sub active { return $t->metric('aiq_active_connections') }

is(active(), 1, 'an open request is counted');
$t->expect_in_log(qr/exited on signal 9/);
kill('KILL', $t->workers);
$t->wait_for(sub { defined eval { active() } && active() == 0 }, 10, 'a killed worker has none');
pass('what a killed worker had open is not');

$t->finish;
done_testing;
