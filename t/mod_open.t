# What of a request goes to the engine.

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
        location /ai/ { aiq_pass gateway /v1/; }
        location = /one { aiq_pass gateway /v1/models; }
        location /rewritten/ { rewrite ^/rewritten/(.*)$ /other/$1 break; aiq_pass gateway /v1/; }
        location ~ ^/regex { aiq_pass gateway; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        ignore_invalid_headers off;
        location / { aiq_pass echo; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

sub open_of {
    my ($method, $path, %arg) = @_;
    my $r = $t->http($method, $path, %arg);

    return $r->{status} == 200 ? $e->last_open : { status => $r->{status} };
}

my %method = (GET => 1, HEAD => 2, POST => 3, PUT => 4, DELETE => 5, PATCH => 6, OPTIONS => 7);
is(open_of($_, '/ok')->{method}, $method{$_}, "method $_") for sort keys %method;
my $open = open_of('PURGE', '/ok');
is("$open->{method}", 'PURGE', 'another method by its name');

$open = open_of('POST', '/a/../b%20c//d?x=%20&y', body => 'x' x 10,
    headers => [ 'Content-Type' => 'a/b; c=d', Accept => 'text/event-stream', Accept => 'x/y' ]);
is($open->{uri}, '/b c/d', 'the URI is normalised');
is($open->{args}, 'x=%20&y', 'the arguments are as they came');
is($open->{content_type}, 'a/b; c=d', 'content type');
is($open->{accept}, 'text/event-stream', 'the first Accept');
is($open->{remote_addr}, '127.0.0.1', 'remote address');
is($open->{body}, 10, 'length of the body');
is(open_of('POST', '/ok', chunks => [ 'abc', 'def' ])->{body}, 6, 'also of a chunked one');
is(open_of('GET', '/ok')->{secure}, 0, 'not over TLS');

$open = open_of('GET', '/ok', headers => [ 'Authorization' => 'Bearer x', Cookie => 'a=b',
    'X-Aiq-Continue' => 'allow', 'OpenAI-Organization' => 'org', 'Anthropic-Version' => '2023-06-01',
    'Last-Event-ID' => '7', 'Idempotency-Key' => 'k', 'Cache-Control' => 'no-cache', 'X-Other' => 'no', 'X-Aiq-' => 'no',
    'Last-Event-IDs' => 'no', 'Host' => 'h' ]);
is_deeply($open->{headers}, { 'x-aiq-continue' => 'allow', 'openai-organization' => 'org',
    'anthropic-version' => '2023-06-01', 'last-event-id' => '7', 'idempotency-key' => 'k',
    'cache-control' => 'no-cache' },
    'the headers that matter, no credentials');

is(open_of('GET', '/ok', port => 1, headers => [ 'X-Aiq-A/b' => 'c' ])->{status}, 400,
    'a name that the engine would not take, where nginx lets it through');

is(open_of('GET', '/ai/models/x')->{uri}, '/v1/models/x', 'the prefix');
is(open_of('GET', '/one')->{uri}, '/v1/models', 'of an exact location');
is(open_of('GET', '/rewritten/a')->{uri}, '/other/a', 'not after a rewrite, as in proxy_pass');
is(open_of('GET', '/regex/a')->{uri}, '/regex/a', 'none');
is($t->get('/ai')->{status}, 301, 'a location that ends in a slash redirects to it');

$t->finish;
done_testing;
