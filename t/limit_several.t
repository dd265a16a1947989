# Several limits at once: all are asked before one is charged, in whatever order they
# are written; a request counts once, whatever way it takes through the locations.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format limit "$uri $status $aiq_limit_status";
    aiq_limit_zone $http_x_tenant zone=tenant:1m rate=4r/d;
    aiq_limit_zone $http_x_user zone=user:1m rate=2r/d;
    aiq_limit_zone $arg_k zone=one:1m rate=1r/d;
    aiq_limit_zone $arg_k zone=three:1m rate=3r/d;
    aiq_limit_zone $arg_k zone=trial:1m rate=1r/d;
    aiq_limit zone=one;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/limit.log limit;
        location /both/ { aiq_limit zone=tenant; aiq_limit zone=user; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location /turned/ { aiq_limit zone=user; aiq_limit zone=tenant; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location /inherited/ { proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location /trial/ { aiq_limit zone=trial dry_run; aiq_limit zone=three; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location /try/ { aiq_limit zone=three; try_files /no /end/; }
        location /rewritten/ { aiq_limit zone=three; proxy_pass http://127.0.0.1:%%PORT_1%%/accel/; }
        location /failed/ { aiq_limit zone=three; error_page 502 = @after; proxy_pass http://127.0.0.1:1; }
        location /mirrored/ { aiq_limit zone=three; mirror /end/; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location @after { aiq_limit zone=three; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /end/ { aiq_limit zone=three; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location = /metrics { aiq_limit zone=three dry_run; aiq_metrics; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        aiq_limit zone=one dry_run;
        location / { return 200; }
        location /accel/ { add_header X-Accel-Redirect /end/$is_args$args; return 200; }
    }');
$t->start;

sub asked {
    my ($path, $tenant, $user) = @_;
    return $t->get($path, headers => [ 'X-Tenant' => $tenant, 'X-User' => $user ]);
}
sub repeat { my ($n, $path) = @_; return join(' ', map { $t->get($path)->{status} } 1 .. $n) }

is(asked('/both/', 'acme', 'ann')->{status}, 200, 'ann') for 1, 2;
for my $path ('/both/', '/turned/') {
    is(asked($path, 'acme', 'ann')->{status}, 429, 'ann has had hers') for 1 .. 3;
}
my $r = asked('/turned/', 'acme', 'bob');
is($r->{status}, 200, 'bob: what ann did not get was not charged to the tenant');
is("$r->{headers}{'x-ratelimit-limit-requests'} $r->{headers}{'x-ratelimit-remaining-requests'}", '4 1', 'of the tightest, the tenant');
$r = asked('/both/', 'acme', 'bob');
is($r->{status}, 200, 'bob again');
is("$r->{headers}{'x-ratelimit-limit-requests'} $r->{headers}{'x-ratelimit-remaining-requests'}", '4 0', 'which has none left');
is(asked('/both/', 'acme', 'cid')->{status}, 429, 'the tenant has had its');
is(asked('/both/', 'other', 'cid')->{status}, 200, 'and cid was not charged for it') for 1, 2;

is(repeat(2, '/inherited/?k=i'), '200 429', 'inherited from http{}');
is(repeat(4, '/trial/?k=t'), '200 200 200 429', 'dry_run does not refuse');
my @log;
# written when the client has its reply already
$t->wait_for(sub { (@log = $t->read_file('logs/limit.log') =~ m{^(/trial/ .*)\n}mg) == 4 }, 10, 'four lines');
is($log[0], '/trial/ 200 PASSED', 'nor tell anything before it would');
is($log[1], '/trial/ 200 REJECTED_DRY_RUN', 'but tells it then');
is($log[3], '/trial/ 429 REJECTED', 'what refuses counts more');
like($t->error_log, qr/refused, dry run: rate_limit_exceeded, zone "trial"/, 'the log tells, too');
unlike($t->get('/trial/?k=h')->{headers}{'x-ratelimit-limit-requests'}, qr/^1$/, 'clients are not told');

is(repeat(4, '/try/?k=y'), '200 200 200 429', 'try_files does not count twice');
is(repeat(4, '/rewritten/?k=a'), '200 200 200 429', 'nor X-Accel-Redirect');
is(repeat(4, '/failed/?k=f'), '200 200 200 429', 'nor error_page to a named location');
is(repeat(4, '/mirrored/?k=m'), '200 200 200 429', 'subrequests do not count');

like($t->get('/metrics')->{body}, qr/^aiq_limit_total\{zone="trial",status="REJECTED_DRY_RUN"\} 3$/m, 'metrics of a dry run');

$t->finish;
done_testing;
