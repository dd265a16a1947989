# What a token's claims must say, and what they become: times, audience, issuer,
# requirements, variables.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('HS256');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_jwt_claim_set $mail user mail;
    aiq_jwt_claim_set $first_name user "first name";
    aiq_jwt_claim_set $upper_case UPPER;
    map $aiq_jwt_claim_scope $may_chat { "~\bchat\b" 1; default 0; }
    log_format claims "$status $aiq_status $aiq_jwt_claim_sub $aiq_tenant $aiq_user $aiq_role";
    aiq_jwt api;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { access_log %%DIR%%/logs/claims.log claims; proxy_pass http://127.0.0.1:%%PORT_1%%;
                     proxy_set_header X-Tenant $aiq_tenant; proxy_set_header X-User $aiq_user;
                     proxy_set_header X-Role $aiq_role; proxy_set_header X-Mail $mail;
                     proxy_set_header X-Name $first_name; proxy_set_header X-Upper $upper_case;
                     proxy_set_header X-Claim $aiq_jwt_claim_a; }
        location /leeway { aiq_jwt_leeway 0; empty_gif; }
        location /more { aiq_jwt_leeway 1h; empty_gif; }
        location /long { aiq_jwt_max_lifetime 0; empty_gif; }
        location /audience { aiq_jwt_audience api other; empty_gif; }
        location /issuer { aiq_jwt_issuer https://id/ https://id2/; empty_gif; }
        location /require { aiq_jwt_require $may_chat; empty_gif; }
        location /require/401 { aiq_jwt_require $may_chat error=401; empty_gif; }
        location /require/two { aiq_jwt_require $aiq_jwt_claim_a $may_chat; aiq_jwt_require $mail error=401; empty_gif; }
        location /names { aiq_jwt_identity tenant=org user=email role=level; proxy_pass http://127.0.0.1:%%PORT_1%%;
                          proxy_set_header X-Tenant $aiq_tenant; proxy_set_header X-User $aiq_user;
                          proxy_set_header X-Role $aiq_role; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        aiq_jwt off;
        return 200 "tenant=$http_x_tenant user=$http_x_user role=$http_x_role mail=$http_x_mail name=$http_x_name upper=$http_x_upper claim=$http_x_claim more=$http_x_evil";
    }');
$t->start_nginx;

my $now = time;

sub with {
    my ($path, %claims) = @_;
    return $t->get($path, AIQ::JWT::bearer($key->token(%claims)));
}

sub is_refused {
    my ($what, $r, $message) = @_;

    is($r->{status}, 401, "$what: 401");
    like($r->{headers}{'www-authenticate'}, qr/error="invalid_token", error_description="[^"]*$message/, "$what: why");
}

# times; the exact edges are in t/unit/test_jwt.c
is(with('/')->{status}, 200, 'exp and iat');
is_refused('no exp', with('/', exp => undef), 'claims');
is_refused("exp $_", with('/', exp => $_), 'claims') for 'soon', -1, 1e20;
is_refused('expired', with('/', exp => $now - 100), 'expired');
is(with('/', exp => time - 3)->{status}, 200, 'expired within the leeway');
is_refused('without leeway', with('/leeway', exp => time - 3), 'expired');
is(with('/more', exp => $now - 3500)->{status}, 200, 'a larger leeway');
is_refused('nbf', with('/', nbf => $now + 1000), 'not valid yet');
is(with('/more', nbf => $now + 1000)->{status}, 200, 'nbf within the leeway');
is_refused('iat in the future', with('/', iat => $now + 1000), 'not valid yet');
is_refused('two hours', with('/', iat => $now, exp => $now + 7200), 'too long');
is_refused('two hours from now', with('/', iat => undef, exp => $now + 7200), 'too long');
is(with('/long', exp => $now + 1e6)->{status}, 200, 'no limit');

# a token that has passed is checked again
my $short = $key->token(exp => time + 4);
is($t->get('/leeway', AIQ::JWT::bearer($short))->{status}, 200, 'good for a few seconds');
$t->wait_for(sub { $t->get('/leeway', AIQ::JWT::bearer($short))->{status} == 401 }, 20, 'the end of a token');
pass('and no longer');
my $hours = $key->token(exp => $now + 7200);
is($t->get('/long', AIQ::JWT::bearer($hours))->{status}, 200, 'a long token, where it may be');
is($t->get('/leeway', AIQ::JWT::bearer($hours))->{status}, 401, 'and not elsewhere, though it is known');

# audience and issuer
is(with('/audience', aud => 'api')->{status}, 200, 'aud');
is(with('/audience', aud => [ 'x', 'other' ])->{status}, 200, 'aud in a list');
is_refused('aud ' . ($_ // 'none'), with('/audience', aud => $_), 'audience') for undef, 'ap', 'apis', [], [ 'x' ], 7, { api => 1 };
my $known = $key->token(aud => 'x');
is($t->get('/', AIQ::JWT::bearer($known))->{status}, 200, 'an audience that is not asked for');
is($t->get('/audience', AIQ::JWT::bearer($known))->{status}, 401, 'is asked for elsewhere, though it is known');
is(with('/issuer', iss => $_)->{status}, 200, "iss $_") for 'https://id/', 'https://id2/';
is_refused('iss ' . ($_ // 'none'), with('/issuer', iss => $_), 'issuer') for undef, 'https://id', [ 'https://id/' ];

# identity
sub who { my ($path, %claims) = @_; my $r = with($path, %claims);
          return $r->{status} == 200 ? $r->{body} =~ s/ mail=.*//r : $r->{status} }
is(who('/', sub => 'ann'), 'tenant=default user=ann role=user', 'sub');
is(who('/', sub => 'ann', tenant => 'acme', role => 'admin'), 'tenant=acme user=ann role=admin', 'tenant and role');
is(who('/', tenant_id => 42), 'tenant=42 user= role=user', 'tenant_id, a number');
is(who('/', tenant => 'a', tenant_id => 'b'), 'tenant=a user= role=user', 'tenant is first');
is(who('/names', sub => 'ann', tenant => 'x', role => 'admin', org => 'acme', email => 'a@b', level => 'viewer'),
    'tenant=acme user=a@b role=viewer', 'claims of other names');
is(who('/names', sub => 'ann', tenant => 'x', tenant_id => 'y', role => 'admin'), 'tenant=default user= role=user',
    'and only those');
is(who('/', role => $_), 403, "role $_") for 'root', 'Admin', 'admin ';
for my $bad ('', [ 'admin' ], { a => 1 }, "a\nb", 'x' x 257, JSON::PP::true()) {
    is(who('/', $_ => $bad), 401, "$_ that is none") for 'tenant', 'sub', 'role';
}
my $r = with('/', role => 'root');
like($r->{headers}{'www-authenticate'}, qr/error="insufficient_scope"/, 'an unknown role: said so');

# requirements
is(with('/require', scope => 'read chat')->{status}, 200, 'required and there');
$r = with('/require', scope => 'read');
is($r->{status}, 403, 'required and not there');
like($r->{headers}{'www-authenticate'}, qr/^Bearer realm="api", error="insufficient_scope"/, 'insufficient_scope');
is(with('/require/401')->{status}, 401, 'error=401');
is(with('/require/two', a => 1, scope => 'chat', user => { mail => 'a' })->{status}, 200, 'all of them');
is(with('/require/two', scope => 'chat', user => { mail => 'a' })->{status}, 403, 'the first is missing');
is(with('/require/two', a => 1, user => { mail => 'a' })->{status}, 403, 'the second');
is(with('/require/two', a => 1, scope => 'chat')->{status}, 401, 'the third');
is(with('/require/two', a => 0, scope => 'chat', user => { mail => 'a' })->{status}, 403, '0 is not enough');

# variables
sub claim { my ($value) = @_; my ($text) = with('/', a => $value)->{body} =~ /claim=(.*) more=/; return $text }
is(claim('text'), 'text', 'a string');
is(claim(7), '7', 'a number');
is(claim(1.5), '1.5', 'a fraction');
is(claim(JSON::PP::true()), 'true', 'a boolean');
is(claim([ 'a', 'b', 3 ]), 'a,b,3', 'a list');
is(claim([]), '', 'an empty list');
is(claim({ b => [ 1 ] }), '{"b":[1]}', 'an object');
is(claim(undef), '', 'nothing');
is(claim("a\r\nX-Evil: 1"), '', 'a value that would be another header');
is(claim([ 'a', "b\nX-Evil: 1" ]), '', 'in a list');
$r = with('/', user => { mail => 'a@b', 'first name' => 'Ann' }, UPPER => 'x');
like($r->{body}, qr/ mail=a\@b name=Ann upper=x /, 'aiq_jwt_claim_set');
$r = with('/', user => 'x', UPPER => undef);
like($r->{body}, qr/ mail= name= upper= /, 'a path that leads nowhere');
with('/', sub => 'ann', tenant => 'acme');
$t->get('/', AIQ::JWT::bearer('x.y.z'));
$t->wait_for(sub { $t->read_file('logs/claims.log') =~ /401/ }, 10, 'the log');
like($t->read_file('logs/claims.log'), qr/^200 - ann acme ann user$/m, 'in the log');
like($t->read_file('logs/claims.log'), qr/^401 invalid_token - - - -$/m, 'in the log of a refusal');

$t->finish;
done_testing;
