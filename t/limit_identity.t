# Limits by who asks are checked when that is known, those by address before.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    map $aiq_user $but_root { default $aiq_user; root ""; }
    aiq_limit_zone $aiq_user zone=user:1m rate=2r/d;
    aiq_limit_zone $aiq_tenant zone=tenant:1m rate=3r/d;
    aiq_limit_zone "$aiq_user $uri" zone=path:1m rate=1r/d;
    aiq_limit_zone $aiq_jwt_claim_team zone=team:1m rate=1r/d;
    aiq_limit_zone $but_root zone=map:1m rate=1r/d;
    aiq_limit_zone $http_x_address zone=address:1m rate=3r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /user/ { aiq_limit zone=user; aiq_limit zone=tenant; aiq_pass echo; }
        location /open/ { aiq_jwt off; aiq_limit zone=user; aiq_pass echo; }
        location /dry/ { aiq_jwt off; aiq_limit zone=user dry_run; aiq_pass echo; }
        location /path/ { aiq_limit zone=path; aiq_pass echo; }
        location /team/ { aiq_limit zone=team; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /map/ { aiq_limit zone=map; aiq_pass echo; }
        location /address/ { aiq_limit zone=address; aiq_pass echo; }
        location /any/ { satisfy any; allow all; aiq_limit zone=user; aiq_pass echo; }
        location = /metrics { aiq_jwt off; aiq_metrics; }
        location /both/ { aiq_limit zone=address; aiq_limit zone=path; aiq_pass echo; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200; } }');
$t->start;

sub status {
    my ($path, $user, @headers) = @_;
    my @token = $user ? AIQ::JWT::bearer($key->token(sub => $user, tenant => 'acme', team => "team of $user")) : ();
    my %arg = @token;
    return $t->get($path, headers => [ @{ $arg{headers} // [] }, @headers ])->{status};
}

is(status('/user/', 'ann'), 200, 'ann') for 1, 2;
is(status('/user/', 'ann'), 429, 'ann has had hers');
is(status('/user/', 'bob'), 200, 'bob, the last of the tenant: what was refused did not count');
is(status('/user/', 'bob'), 429, 'the tenant has had its');
is(status('/user/'), 401, 'nobody is not let in, and not counted');

is(status('/open/'), 403, 'no identity, where none is asked for: refused, not uncounted');
is(status('/dry/'), 200, 'but with dry_run');
is(status('/any/'), 403, 'satisfy any does not go around it');
is(status('/any/', 'bob'), 200, 'with an identity');

is(status('/path/a', 'ann'), 200, 'a key of several variables');
is(status('/path/a', 'ann'), 429, 'again');
is(status('/path/b', 'ann'), 200, 'with another path');
is(status('/team/', 'ann'), 200, 'a claim');
is(status('/team/', 'ann'), 429, 'again');
is(status('/team/', 'bob'), 200, 'another');
is(status('/map/', 'ann'), 200, 'what map makes of an identity');
is(status('/map/', 'ann'), 429, 'again');
is(status('/map/', 'root'), 200, 'an empty value of map is not counted') for 1, 2;

my @a = ('X-Address' => 'a');
is(status('/address/', '', @a), 401, 'who guesses') for 1 .. 3;
is(status('/address/', '', @a), 429, 'is stopped');
is(status('/address/', 'ann', @a), 429, 'and has it spoilt for his neighbours');

my @b = ('X-Address' => 'b');
is(status('/both/', 'ann', @b), 200, 'address and user');
is(status('/both/', 'ann', @b), 429, 'the user has had his') for 1 .. 3;
is(status('/both/', $_, @b), 200, "what was refused was given back to the address: $_") for 'bob', 'cid';
is(status('/both/', 'dan', @b), 429, 'until the address has had its');

my %odd = AIQ::JWT::bearer($key->token(sub => 'ann', tenant => 'a"b'));
is($t->get('/path/a', %odd)->{status}, 429, "somebody of a tenant with a name that is no word");
my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^llm_rate_limit_hits_total\{tenant_id="acme"\} 8$/m, 'metrics: whom it hit');
like($metrics, qr/^llm_rate_limit_hits_total\{tenant_id=""\} 3$/m, 'where nobody was known yet');
like($metrics, qr/^llm_rate_limit_hits_total\{tenant_id="other"\} 1$/m, 'and others');

$t->finish;
done_testing;
