# aiq_pass: a request goes to the engine and its reply comes back, whatever
# the shape of its body.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        client_max_body_size 200m;
        aiq_max_body_size 0;
        location /echo { aiq_pass echo; }
        location /small-buffer { aiq_pass echo; client_body_buffer_size 1k; }
        location /file { aiq_pass echo; client_body_in_file_only clean; }
    }');
$t->start;

my $r = $t->post('/echo', 'hello', headers => [ 'Content-Type' => 'text/plain' ]);
is($r->{status}, 200, 'status');
is($r->{body}, 'hello', 'body');
is($r->{headers}{'content-type'}, 'text/plain', 'content type');
is($r->{headers}{'content-length'}, 5, 'content length');

$r = $t->get('/echo');
is($r->{status}, 200, 'no body');
is($r->{body}, '', 'none comes back');

$r = $t->post('/echo', '');
is("$r->{status} [$r->{body}]", '200 []', 'an empty body');

$r = $t->http('POST', '/echo', chunks => [ 'abc', 'def' ]);
is($r->{body}, 'abcdef', 'a chunked body');

$r = $t->http('HEAD', '/echo');
is($r->{status}, 200, 'HEAD');

my $big = join('', map { pack('N', $_) } 1 .. 500_000);
for my $where (qw(/echo /small-buffer /file)) {
    $r = $t->post($where, $big);
    ok($r->{body} eq $big, "2 MB through $where");
}

# keepalive and a pipeline: replies in order, each on its own
my $c = $t->connect;
$c->request('POST', '/echo', body => "number $_") for 1 .. 50;
is($c->response->{body}, "number $_", "pipelined $_") for 1 .. 50;

# a method that nginx does not know
is($t->http('PURGE', '/echo', body => 'x')->{body}, 'x', 'another method');

$c = $t->connect;
$c->send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
is($c->line, 'HTTP/1.1 100 Continue', 'Expect: 100-continue');
$c->line;
$c->send('abc');
is($c->response->{body}, 'abc', 'and then the reply');

$t->finish;
done_testing;
