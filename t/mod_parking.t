# Requests that come while the engine restarts wait for it, for a second.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use Time::HiRes qw(time);
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format aiq "$uri $status $aiq_status";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/access.log aiq;
        location / { aiq_pass echo; }
        location /health { aiq_health; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
is($t->get('/ok')->{status}, 200, 'linked');

# the engine is gone, the worker knows
my @waiting = map { $t->connect } 1 .. 3;
$waiting[0]->request('GET', '/silent');
$e->wait_for(qr{uri=/silent});
$e->stop;
is($waiting[0]->response->{status}, 502, 'the request in flight fails');

# these come at once
$_->request('POST', '/parked', body => 'x' x 100) for @waiting[1, 2];
is($t->get('/health')->{status}, 503, 'health does not wait');
$e->start;
is($waiting[$_]->response->{body}, "ok\n", "parked request $_ is served") for 1, 2;
like($e->log, qr{END /parked body=100}, 'with its body');

# nobody comes back
$waiting[0] = $t->connect;
$waiting[0]->request('GET', '/silent');
$e->wait_for(qr{uri=/silent.*uri=/silent}s);
$e->stop;
is($waiting[0]->response->{status}, 502, 'again one in flight');
$_->request('GET', '/too-late') for @waiting[1, 2];
$waiting[2]->close;
my $begun = time();
is($waiting[1]->response->{status}, 503, 'after a second it is 503');
cmp_ok(time() - $begun, '<', 5, 'not later');
$t->wait_for(sub { $t->read_file('logs/access.log') =~ m{^/too-late 499 client_closed$}m }, 10,
    'one that left while it was parked');
pass('one that left while it was parked is done with');

$t->finish;
done_testing;
