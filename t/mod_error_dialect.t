# Errors come in the client's dialect, whoever raises them: the module, nginx
# before or while it reads the body, limits in front of aiq_pass. error_page wins.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->write_file('html/busy.html', "a page of the operator's\n");
$t->conf('
    limit_req_zone $arg_key zone=one:1m rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/html;
        client_max_body_size 2000;
        aiq_max_body_size 1000;
        large_client_header_buffers 8 16k;

        location / { aiq_pass echo; }
        location /v1/ { aiq_pass gateway; }
        location /v1/limited { limit_req zone=one; limit_req_status 429; aiq_pass gateway; }
        location /v1/denied { deny all; aiq_pass gateway; }
        location /v1/basic { auth_basic aiq; auth_basic_user_file %%DIR%%/none; aiq_pass gateway; }
        location /v1/returned { return 404; aiq_pass gateway; }
        location /v1/text { return 404 "mine"; aiq_pass gateway; }
        location /v1/only { limit_except POST { deny all; } aiq_pass gateway; }
        location /v1/if { if ($arg_no) { return 418; } aiq_pass gateway; }

        location /page/ { aiq_pass echo; error_page 413 503 /busy.html; }
        location = /busy.html { }
        location /named/ { aiq_pass echo; error_page 413 = @named; }
        location @named { return 200 "named $aiq_status"; }
        location /again/ { aiq_pass echo; aiq_max_body_size 100; error_page 413 = /v1/again; }
        location /outside { return 404; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);
is($t->get('/ok')->{status}, 200, 'linked');

my $large = 'x' x 1500;
my $larger = 'x' x 2500;

# OpenAI's envelope, complete
sub is_openai {
    my ($what, $r, $status, $code) = @_;
    my $error = $t->json($r)->{error};

    is($r->{status}, $status, "$what: status");
    is($error->{code}, $code, "$what: code");
    is_deeply([ sort keys %$error ], [qw(code message param type)], "$what: the envelope");
    is($r->{headers}{'content-type'}, 'application/json', "$what: content type");
    like($r->{headers}{'x-request-id'}, qr/^req_/, "$what: X-Request-Id");
}

is_openai('413 by aiq_max_body_size', $t->post('/v1/x', $large), 413, 'body_too_large');
is_openai('413 by a chunked body', $t->http('POST', '/v1/x', chunks => [ $large ]), 413, 'body_too_large');
is_openai('413 by client_max_body_size', $t->post('/v1/x', $larger), 413, 'body_too_large');
is_openai('413 while reading', $t->http('POST', '/v1/x', chunks => [ $larger ]), 413, 'body_too_large');
$t->get('/v1/limited?key=a');
is_openai('429 by limit_req', $t->get('/v1/limited?key=a'), 429, 'rate_limited');
is_openai('403 by deny', $t->get('/v1/denied'), 403, 'forbidden');
is_openai('403 by auth_basic without its file', $t->get('/v1/basic',
    headers => [ Authorization => 'Basic eDp5' ]), 403, 'forbidden');
my $r = $t->get('/v1/basic');
is_openai('401 by auth_basic', $r, 401, 'unauthorized');
like($r->{headers}{'www-authenticate'}, qr/^Basic realm/, 'WWW-Authenticate stays');
is_openai('404 by return', $t->get('/v1/returned'), 404, 'not_found');
is_openai('403 in limit_except', $t->get('/v1/only'), 403, 'forbidden');
is($t->post('/v1/only', 'x')->{status}, 200, 'and what limit_except lets through is served');
is_openai('418 in if', $t->get('/v1/if?no=1'), 418, 'bad_request');
is($t->get('/v1/if')->{status}, 200, 'and what if lets through is served');
is_openai('431', $t->get('/v1/x?' . 'a' x 15000, headers => [ 'X-Aiq-A' => 'b' x 15000, 'X-Aiq-B' => 'c' x 15000 ]),
    431, 'headers_too_large');
is_openai('400 by a control character', $t->get('/v1/x', headers => [ Accept => "a\x01b" ]), 400, 'invalid_header');

my $c = $t->connect;
$c->send("POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
is_openai('400 by a bad chunk', $c->response, 400, 'bad_request');

# HEAD: the same head, no body
$r = $t->http('HEAD', '/v1/denied');
is($r->{status}, 403, 'HEAD: status');
cmp_ok($r->{headers}{'content-length'}, '>', 20, 'HEAD: the length that GET would have');

# what the service says
$r = $t->get('/v1/error');
is_openai('ERROR of the service', $r, 429, 'budget_spent');
is($t->json($r)->{error}{message}, 'No "more" tokens.', 'its message');
is($t->json($r)->{error}{param}, 'model', 'its param');
is($r->{headers}{'retry-after'}, 7, 'its Retry-After');

# the other dialects
$r = $t->post('/v1/messages', $large);
my $json = $t->json($r);
is($r->{status}, 413, 'Anthropic: status');
is($json->{type}, 'error', 'Anthropic: the envelope');
is($json->{error}{type}, 'request_too_large', 'Anthropic: type');
is($json->{request_id}, $r->{headers}{'x-request-id'}, 'Anthropic: request id');
$r = $t->post('/x', $large, headers => [ 'X-Request-Id' => 'mine' ]);
is_deeply($t->json($r), { error => { code => 'body_too_large', request_id => 'mine',
    message => 'The request body is too large.' } }, 'our own');

# the operator's own
is($t->get('/v1/text')->{body}, 'mine', 'a text of the configuration stays');
like($t->get('/outside')->{body}, qr/<html>/, "other locations keep nginx's pages");
$r = $t->post('/page/x', $large);
is("$r->{status} $r->{body}", "413 a page of the operator's\n", 'error_page wins');
like($r->{headers}{'x-request-id'}, qr/^req_/, 'with the request id');
is($t->post('/named/x', $large)->{body}, 'named body_too_large', 'also with a named location');
$r = $t->post('/again/x', 'x' x 500, headers => [ 'X-Request-Id' => 'once' ]);
is($r->{status}, 200, 'and back to the engine');
is($r->{headers}{'x-request-id'}, 'once', 'with the same id');
like($e->log, qr{uri=/v1/again}, 'which sees the new URI');

# a connection goes on after errors that do not spoil it
$c = $t->connect;
$c->request('GET', '/v1/denied') for 1 .. 2;
is($c->response->{status}, 403, "keepalive $_") for 1 .. 2;

$t->finish;
done_testing;
