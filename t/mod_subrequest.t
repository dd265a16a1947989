# aiq_pass does not serve subrequests: they are refused, and nothing else breaks.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my $auth_request = `$t->{nginx} -V 2>&1` =~ /http_auth_request_module/;    # not in every build

$t->write_file('html/page.html', '[<!--# include virtual="/echo" -->]');
my $auth = $auth_request ? 'location /auth { auth_request /echo; aiq_pass echo; }' : '';
$t->conf("
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { root %%DIR%%/html; ssi on; }
        location /echo { aiq_pass echo; }
        $auth
        location /mirrored { mirror /echo; aiq_pass echo; }
    }");
$t->start;

like($t->get('/page.html')->{body}, qr/^\[.*501.*\]$/s, 'SSI');
SKIP: {
    skip('this nginx has no auth_request', 2) unless $auth_request;
    my $r = $t->get('/auth');
    is($r->{status}, 500, 'auth_request');
    is($t->json($r)->{error}{code}, 'internal_error', 'in our dialect');
}
is($t->post('/mirrored', 'body')->{body}, 'body', 'mirror of a location of ours');
like($t->error_log, qr/"aiq_pass" does not serve subrequests/, 'the log says why');
is($t->post('/echo', 'x')->{body}, 'x', 'the next request');

$t->finish;
done_testing;
