# aiq_limit in front of what is passed to the engine and what is proxied: so many
# requests are let through, then 429 in the caller's words, with what SDKs wait by.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format limit "$uri $status $aiq_limit_status $aiq_status";
    aiq_limit_zone $http_x_who zone=who:1m rate=3r/d;
    aiq_limit_zone $http_x_who zone=page:1m rate=1r/d;
    aiq_limit_zone $http_x_who zone=plain:1m rate=1r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/limit.log limit;
        location /echo { aiq_limit zone=who; aiq_pass echo; }
        location /v1/ { aiq_limit zone=who; aiq_pass gateway; }
        location /app/ { aiq_limit zone=who; error_page 502 /50x.html; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /page/ { aiq_limit zone=page; error_page 429 /slow.html; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location = /slow.html { aiq_limit zone=page; aiq_limit zone=plain; root %%DIR%%/html; }
        location = /metrics { aiq_metrics; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        add_header X-RateLimit-Remaining-Requests 77;
        location / { return 200 "behind\n"; }
    }');
$t->write_file('html/slow.html', "<p>slowly\n");
$t->start;

sub who { return (headers => [ 'X-Who' => $_[0] ]) }

for my $left (2, 1, 0) {
    my $r = $t->post('/echo', 'hi', who('ann'));
    is("$r->{status} $r->{body}", '200 hi', 'let through');
    is($r->{headers}{'x-ratelimit-limit-requests'}, 3, 'of three');
    is($r->{headers}{'x-ratelimit-remaining-requests'}, $left, "$left are left");
    is($r->{headers}{'x-ratelimit-reset-requests'}, '24h0m0s', 'all of them in a day');
    ok(!exists $r->{headers}{'retry-after'}, 'nothing to wait for');
}

my $r = $t->post('/echo', 'hi', who('ann'));
is($r->{status}, 429, 'the fourth is not');
my $error = $t->json($r)->{error};
is($error->{code}, 'rate_limit_exceeded', "in the service's words");
is($error->{request_id}, $r->{headers}{'x-request-id'}, 'with its id');
is($r->{headers}{'x-ratelimit-remaining-requests'}, 0, 'none are left');
cmp_ok($r->{headers}{'retry-after'}, '>', 86000, 'Retry-After, in seconds');
cmp_ok($r->{headers}{'retry-after'}, '<=', 86401, 'for the first to leave the window');
like($r->{headers}{'retry-after-ms'}, qr/^86\d{6}$/, 'and in ms');

$r = $t->post('/v1/chat/completions', '{}', who('ann'));
is($t->json($r)->{error}{type}, 'rate_limit_error', 'OpenAI has its own words');
$r = $t->post('/v1/messages', '{}', who('ann'));
is($t->json($r)->{error}{type}, 'rate_limit_error', 'so has Anthropic');
is($t->json($r)->{type}, 'error', 'in its envelope');

$r = $t->post('/app/', 'hi', who('ann'));
is($r->{status}, 429, 'a proxied location, with the same zone');
is($t->json($r)->{error}{code}, 'rate_limit_exceeded', 'has no page of HTML');
is($r->{headers}{'content-type'}, 'application/json', 'but JSON');
is($t->http('HEAD', '/app/', who('ann'))->{status}, 429, 'HEAD');

my $c = $t->connect;
$c->request('POST', '/app/', body => 'x' x 100000, who('ann'));
is($c->response->{status}, 429, 'a body is thrown away');
$c->request('GET', '/app/', who('bob'));
$r = $c->response;
is($r->{body}, "behind\n", 'the connection goes on, and another key');
is($r->{headers}{'x-ratelimit-remaining-requests'}, 2, "what is behind has no say in the client's limits");

is($t->get('/app/')->{status}, 200, 'an empty key does not count') for 1 .. 5;

$r = $t->get('/page/', who('ann'));
is($r->{body}, "behind\n", 'with an error page: let through');
$r = $t->get('/page/', who('ann'));
is("$r->{status} $r->{body}", "429 <p>slowly\n", 'refused with the page, which is not refused in turn');
like($r->{headers}{'retry-after-ms'}, qr/^\d+$/, 'with the headers');
is($t->get('/slow.html', who('ann'))->{status}, 429, 'the page asked for itself is limited');

# written when the client has its reply already
my @log;
$t->wait_for(sub { (@log = $t->read_file('logs/limit.log') =~ /^(.*)\n/mg) == 18 }, 10, 'lines');
is($log[0], '/echo 200 PASSED ok', '$aiq_limit_status of a request that passed');
is($log[3], '/echo 429 REJECTED rate_limit_exceeded', 'and of one that did not');
is($log[6], '/app/ 429 REJECTED rate_limit_exceeded', 'and of one that is proxied');
my ($uncounted) = grep { $_ eq '/app/ 200 - -' } @log;
ok($uncounted, 'and of one that was not counted');

my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^aiq_limit_total\{zone="who",status="PASSED"\} 4$/m, 'metrics: passed');
like($metrics, qr/^aiq_limit_total\{zone="who",status="REJECTED"\} 6$/m, 'metrics: rejected');
like($metrics, qr/^aiq_limit_full_total\{zone="who"\} 0$/m, 'metrics: there was room');
like($t->error_log, qr/\[warn\].*refused: rate_limit_exceeded, zone "who"/, 'the log tells');

$t->finish;
done_testing;
