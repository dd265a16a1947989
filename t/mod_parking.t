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
$e->wait_for_hellos(1);
is($t->get('/ok')->{status}, 200, 'linked');

# The engine goes, and the worker knows.
my $times = 0;
sub lost {
    my $c = $t->connect;
    $times++;
    $c->request('GET', '/silent');
    $e->wait_for(qr{(?:uri=/silent.*){$times}}s);
    $e->stop;
    is($c->response->{status}, 502, 'the request in flight fails');
}

# These come at once. They wait for a second: on a machine that is busy the engine may come
# later, then all of it again.
my (@waiting, @bodies);
$t->wait_for(sub {
    $e->wait_for_hellos(1);
    lost();
    @waiting = map { $t->connect } 1, 2;
    my $begun = time();
    $_->request('POST', '/parked', body => 'x' x 100) for @waiting;
    is($t->get('/health')->{status}, 503, 'health does not wait');
    $e->start;
    @bodies = map { $_->response->{body} } @waiting;
    return time() - $begun < 1 || !grep { $_ ne "ok\n" } @bodies;
}, 20, 'an engine within a second');
is_deeply(\@bodies, [ ("ok\n") x 2 ], 'parked requests are served');
like($e->log, qr{END /parked body=100}, 'with their bodies');

# nobody comes back
$e->wait_for_hellos(1);
lost();
@waiting = map { $t->connect } 1, 2;
$_->request('GET', '/too-late') for @waiting;
$waiting[1]->close;
my $begun = time();
is($waiting[0]->response->{status}, 503, 'after a second it is 503');
cmp_ok(time() - $begun, '<', 15, 'not much later');
$t->wait_for(sub { $t->read_file('logs/access.log') =~ m{^/too-late 499 client_closed$}m }, 10,
    'one that left while it was parked');
pass('one that left while it was parked is done with');

$t->finish;
done_testing;
