# "satisfy any": a token, or what another access module wants.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->write_file('htpasswd', "ann:{PLAIN}secret\n");
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /any/deny { satisfy any; deny all; aiq_jwt api; aiq_pass echo; }
        location /any/allow { satisfy any; allow all; aiq_jwt api; aiq_pass echo; }
        location /any/basic { satisfy any; auth_basic site; auth_basic_user_file %%DIR%%/htpasswd; aiq_jwt api; aiq_pass echo; }
        location /all/allow { allow all; aiq_jwt api; aiq_pass echo; }
        location /all/deny { deny all; aiq_jwt api; aiq_pass echo; }
        location /any/engine { satisfy any; allow all; aiq_jwt api; aiq_pass gateway /v1/; }
        location /any/require { satisfy any; allow all; aiq_jwt api; aiq_jwt_require $aiq_jwt_claim_scope;
                                add_header X-Who "[$aiq_user $aiq_jwt_claim_sub]" always; aiq_pass echo; }
        location /moved { aiq_jwt api; try_files /nothing /any/moved; }
        location /any/moved { satisfy any; allow all; aiq_jwt api; aiq_jwt_audience other;
                              add_header X-Who "[$aiq_user $aiq_jwt_claim_sub]" always; aiq_pass echo; }
        location /any/key { satisfy any; aiq_key keys; aiq_jwt api; aiq_pass echo; }
        location /limited { limit_except GET { aiq_jwt api; } aiq_pass echo; }
    }');
$t->start;

my @good = AIQ::JWT::bearer($key->token(sub => 'ann'));
my @bad = AIQ::JWT::bearer('x.y.z');
my @basic = (headers => [ Authorization => 'Basic YW5uOnNlY3JldA==' ]);

sub status { my ($path, @arg) = @_; return $t->get($path, @arg)->{status} }

is(status('/any/deny', @good), 200, 'any: a token is enough');
is(status('/any/deny'), 401, 'any: no token');
is(status('/any/deny', @bad), 401, 'any: a bad token');
is(status('/any/allow'), 200, 'any: an address is enough');
my $r = $t->get('/any/allow', @bad);
is($r->{status}, 200, 'any: also with a bad token');
ok(!$r->{headers}{'www-authenticate'}, 'and nothing is asked of the client');
is(status('/any/basic', @good), 200, 'any: a token beside auth_basic');
is(status('/any/basic', @basic), 200, 'any: auth_basic beside a token');
is(status('/any/basic'), 401, 'any: neither');
$r = $t->get('/any/engine', @bad);
is("$r->{status} " . $t->json($r)->{error}{code}, '404 not_found', "what was outvoted is not the request's error");
is($t->get('/any/require', AIQ::JWT::bearer($key->token(sub => 'ann', scope => 'x')))->{headers}{'x-who'}, '[ann ann]',
    'any: who has what is required');
$r = $t->get('/any/require', @good);
is($r->{status}, 200, 'any: a token without what is required, but an address');
is($r->{headers}{'x-who'}, '[ ]', 'is nobody');
$r = $t->get('/moved', AIQ::JWT::bearer($key->token(sub => 'ann')));
is("$r->{status} $r->{headers}{'x-who'}", '200 [ ]', 'any: a token that passed before a redirect, and not after it');
is(status('/any/key', @good), 200, 'any: a token beside API keys');
$r = $t->get('/any/key', AIQ::JWT::bearer('aiq_nosuchkey'));
is("$r->{status} " . $t->json($r)->{error}{code}, '401 invalid_api_key', 'any: what is no token may be a key');
is(status('/all/allow', @good), 200, 'all: both');
is(status('/all/allow'), 401, 'all: no token');
is(status('/all/deny', @good), 403, 'all: the address is denied');
is(status('/limited'), 200, 'limit_except: GET needs none');
is($t->post('/limited', 'x')->{status}, 401, 'limit_except: POST does');
is($t->post('/limited', 'x', @good)->{status}, 200, 'limit_except: and with it passes');

$t->finish;
done_testing;
