# "aiq_key" and "aiq_jwt" in one location: either suffices, neither is skipped.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $issuer = AIQ::JWT->new('HS256');

$t->write_file('jwks.json', AIQ::JWT::set($issuer));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt "tokens";
        aiq_key "keys";
        location / { aiq_pass gateway; }
        location /any/ { satisfy any; deny all; aiq_pass gateway; }
        location /cookie/ { aiq_jwt "tokens" token=$cookie_jwt; aiq_pass gateway; }
        location /key/ { aiq_jwt off; aiq_pass gateway; }
        location /jwt/ { aiq_key off; aiq_pass gateway; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->keys(1, aiq_good => '200 -1 acme ann developer key_1');
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

my $good = $issuer->token(sub => 'bob', tenant => 'umbrella', role => 'viewer');
my $ended = $issuer->token(sub => 'bob', tenant => 'umbrella', role => 'viewer', exp => time - 100, iat => time - 200);

# Who it is at the engine, or the status.
sub who {
    my ($path, @headers) = @_;
    my $r = $t->get($path, headers => \@headers);

    return $r->{status} if $r->{status} != 200;
    return join(' ', map { $e->last_open->{$_} // '-' } qw(tenant user role key_id));
}

my $by_key = 'acme ann developer key_1';
my $by_token = 'umbrella bob viewer -';

for my $path ('/', '/any/') {
    is(who($path, Authorization => 'Bearer aiq_good'), $by_key, "$path a key");
    is(who($path, 'x-api-key' => 'aiq_good'), $by_key, "$path a key in x-api-key");
    is(who($path, Authorization => "Bearer $good"), $by_token, "$path a token");
    is(who($path, Authorization => "Bearer $good", 'x-api-key' => 'aiq_good'), $by_key, "$path both: by the key");
    is(who($path, Authorization => "Bearer $good", 'x-api-key' => 'aiq_bad'), 401, "$path both, a bad key");
    is(who($path, Authorization => "Bearer $ended", 'x-api-key' => 'aiq_good'), $by_key, "$path both, a bad token");
    is(who($path, Authorization => "Bearer $good", 'x-api-key' => 'other'), $by_token, "$path what is no key of ours");
    is(who($path, Authorization => 'Bearer aiq_bad'), 401, "$path a bad key");
    is(who($path, Authorization => "Bearer $ended"), 401, "$path a bad token");
    is(who($path, Authorization => "Bearer aiq_$good"), 401, "$path a token that looks like a key");
    is(who($path), 401, "$path nothing");
}
is(who('/cookie/', Cookie => "jwt=$good"), $by_token, 'a token in a cookie');
is(who('/cookie/', Cookie => "jwt=$good", Authorization => 'Bearer aiq_good'), $by_key, 'with a key: by the key');
is(who('/cookie/', Authorization => "Bearer $good"), 401, 'a token at another place');
is(who('/key/', Authorization => "Bearer $good"), 401, 'keys only: a token');
is(who('/key/', Authorization => 'Bearer aiq_good'), $by_key, 'keys only: a key');
is(who('/jwt/', Authorization => 'Bearer aiq_good'), 401, 'tokens only: a key');
is(who('/jwt/', Authorization => "Bearer $good"), $by_token, 'tokens only: a token');

is($t->get('/')->{headers}{'www-authenticate'}, 'Bearer realm="tokens"', 'nothing: the realm of the tokens');
is($t->get('/', headers => [ 'x-api-key' => 'aiq_bad' ])->{headers}{'www-authenticate'},
    'Bearer realm="keys", error="invalid_token"', 'a bad key: the realm of the keys');

$t->finish;
done_testing;
