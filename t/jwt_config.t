# nginx -t says what is wrong with keys and directives, and where.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $good = AIQ::JWT->new('HS256');

$t->expect_in_log(qr/\[emerg\]/);
$t->write_file('good.json', AIQ::JWT::set($good));
$t->write_file('single.json', JSON::PP::encode_json($good->jwk));
$t->write_file('empty.json', '');
$t->write_file('none.json', '{"keys":[]}');
$t->write_file('weak.json', AIQ::JWT::set(AIQ::JWT->new('HS256', secret => 'secret')));
$t->write_file('twice.json', '{"keys":[],"keys":[]}');
$t->write_file('unused.json', AIQ::JWT::set(AIQ::JWT->new('HS256', use => 'enc')));
$t->write_file('large.json', ' ' x 300000);

sub says {
    my ($http, $expected) = @_;

    $t->conf($http);
    my ($status, $text) = $t->test_conf;
    if (!defined $expected) {
        is($status, 0, "accepted: $http") or diag($text);
        return;
    }
    isnt($status, 0, "refused: $http");
    like($text, qr/\Q$expected\E.* in \S*nginx\.conf:\d+|\Q$expected\E.* in \S+:\d+/, 'why and where');
}

sub location { return "server { listen 127.0.0.1:%%PORT_0%%; location / { $_[0] } }" }
sub file { return "aiq_jwt_key_file %%DIR%%/$_[0].json;" }

says(file('good') . location('aiq_jwt api;'));
says(file('single') . file('good') . location('aiq_jwt api;'));
says(location('aiq_jwt off;'));
says('aiq_jwt off;' . location(''));
says(location('aiq_jwt api;'), 'no "aiq_jwt_key_file" or "aiq_jwt_key_request" is defined for "aiq_jwt"');
says('aiq_jwt api;' . location(''), 'no "aiq_jwt_key_file" or');
says(file('missing'), 'missing.json" failed (2: No such file or directory)');
says('aiq_jwt_key_file %%DIR%%;', '" ');
says(file('empty'), 'empty.json" is not valid JSON');
says(file('none'), 'none.json" has no key that can be used');
says(file('unused'), 'unused.json" has no key that can be used');
says(file('weak'), 'weak.json" has a secret that is too short, 32 bytes are needed');
says(file('good') . file('weak'), 'weak.json" has a secret that is too short');
says(file('twice'), 'twice.json" is not valid JSON');
says(file('large'), 'large.json" is too large');
says('aiq_jwt_key_request keys;', 'invalid URI "keys", it must begin with "/"');
says('aiq_jwt_key_request /a; aiq_jwt_key_request /b;', '"aiq_jwt_key_request" directive is duplicate');
says('aiq_jwt_key_cache 0;', '"aiq_jwt_key_cache" directive must be at least 1s');
says('aiq_jwt a; aiq_jwt b;', '"aiq_jwt" directive is duplicate');
says('aiq_jwt a token=x;', 'invalid parameter "token=x"');
says('aiq_jwt a header=$x;', 'invalid parameter "header=$x"');
says('aiq_jwt_require error=401;', '"aiq_jwt_require" directive has nothing to require');
says('aiq_jwt_require $uri error=402;', 'invalid parameter "error=402"');
says('aiq_jwt_require yes;', 'invalid variable name "yes"');
says('aiq_jwt_claim_set name claim;', 'invalid variable name "name"');
says('aiq_jwt_claim_set $uri claim;', 'the duplicate "uri" variable');
says('aiq_jwt_claim_set $x claim;' . location('return 200 $x$aiq_jwt_claim_y;'));
says('aiq_jwt_identity tenant=;', 'invalid parameter "tenant="');
says('aiq_jwt_identity group=x;', 'invalid parameter "group=x"');
says('aiq_jwt_identity user=a user=b;', '"aiq_jwt_identity" directive is duplicate');
says('aiq_jwt_issuer "";', 'empty name');
says('aiq_auth_cache 1m; aiq_auth_cache 1m;', '"aiq_auth_cache" directive is duplicate');
says('aiq_auth_cache 8k;', 'invalid size "8k"');
says('aiq_auth_cache x;', 'invalid size "x"');

# the message names no secret
$t->conf(file('weak'));
my (undef, $text) = $t->test_conf;
unlike($text, qr/c2VjcmV0|secret"/, 'no secret in a message');

$t->finish;
done_testing;
