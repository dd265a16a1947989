# aiq_jwt: a request with a good token passes, with anything else it gets 401, in
# front of the gateway as of proxy_pass.

use strict;
use warnings;
use lib 't/lib';

use MIME::Base64 qw(encode_base64url);
use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my %key = map { $_ => AIQ::JWT->new($_, kid => lc $_) } qw(HS256 RS256 ES256 EdDSA);

$t->write_file('jwks.json', AIQ::JWT::set(values %key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo { aiq_jwt "the echo"; aiq_pass echo; }
        location /v1/ { aiq_jwt api; aiq_pass gateway; }
        location /proxy/ { aiq_jwt api; proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location /open { aiq_jwt off; return 200 open; }
        location /arg { aiq_jwt api token=$arg_token; aiq_pass echo; }
        location /cookie { aiq_jwt api token=$cookie_token; aiq_pass echo; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        return 200 "auth=$http_authorization";
    }');
$t->start;

sub with { return $t->post($_[1] // '/echo', 'hello', AIQ::JWT::bearer($_[0])) }

sub is_refused {
    my ($what, $r, $message) = @_;

    is($r->{status}, 401, "$what: 401");
    like($r->{headers}{'www-authenticate'},
        qr/^Bearer realm="the echo", error="invalid_token", error_description="[^"]*$message/, "$what: said why");
}

for my $alg (sort keys %key) {
    my $token = $key{$alg}->token(sub => 'ann');
    is(with($token)->{body}, 'hello', "$alg: passes");
    is(with($token)->{body}, 'hello', "$alg: again, from the cache");
    my ($head, $payload, $signature) = split /\./, $token;
    is_refused("$alg, another payload",
        with(join '.', $head, encode_base64url('{"sub":"eve","exp":' . (time + 60) . '}'), $signature), 'signature');
    is_refused("$alg without its signature", with("$head.$payload."), 'signature');
}

# nothing, and what is nothing
my $r = $t->post('/echo', 'x');
is($r->{status}, 401, 'no token');
is($r->{headers}{'www-authenticate'}, 'Bearer realm="the echo"', 'no error where there was no token');
for my $value ('', 'B', 'Bearer', 'Bearer ', 'Bearer    ', 'Basic eDp5', 'BearerX', 'Digest a=b') {
    $r = $t->post('/echo', 'x', headers => [ Authorization => $value ]);
    is("$r->{status} $r->{headers}{'www-authenticate'}", '401 Bearer realm="the echo"', "no token: '$value'");
}
is_refused("'$_'", with($_), 'not a signed') for 'x', '.', '..', '...', 'a.b', 'a.b.c', 'a.b.c.d.e', '=.=.=';

# ways to write it
my $token = $key{ES256}->token(sub => 'ann');
for my $scheme ('bearer', 'BEARER', 'bEaReR') {
    is($t->post('/echo', 'x', headers => [ Authorization => "$scheme $token" ])->{status}, 200, $scheme);
}
is($t->post('/echo', 'x', headers => [ Authorization => "Bearer   $token  " ])->{status}, 200, 'more spaces');
is_refused('a space inside', with("$token x"), '');

# no algorithm, another algorithm
my $payload = '{"sub":"eve","exp":' . (time + 60) . '}';
for my $alg ('none', 'None', 'NONE', 'HS255') {
    is_refused("alg $alg", with($key{HS256}->sign(qq({"alg":"$alg"}), $payload)), 'algorithm');
    is_refused("alg $alg, unsigned", with(encode_base64url(qq({"alg":"$alg"})) . '.' . encode_base64url($payload) . '.'),
        'algorithm');
}
my $public = AIQ::JWT->new('HS256', secret => $t->read_file('jwks.json'));
is_refused('a public key as secret', with($public->sign('{"alg":"HS256"}', $payload)), 'signature');
is_refused('a kid of another key', with($key{HS256}->sign('{"alg":"HS256","kid":"es256"}', $payload)), 'key is not known');
is_refused('crit', with($key{HS256}->sign('{"alg":"HS256","crit":["exp"]}', $payload)), 'extension');
is_refused('two alg', with($key{HS256}->sign('{"alg":"HS256","alg":"HS256"}', $payload)), 'not a signed');
is_refused('a foreign key', with(AIQ::JWT->new('ES256', kid => 'es256')->token(sub => 'eve')), 'signature');
is_refused('no JSON', with($key{HS256}->sign('{"alg":"HS256"}', 'hello')), 'not a signed');
is_refused('a list', with($key{HS256}->sign('{"alg":"HS256"}', '[]')), 'not a signed');
is_refused('too deep', with($key{HS256}->sign('{"alg":"HS256"}', '{"exp":1,"a":' . '[' x 20 . ']' x 20 . '}')), 'not a signed');

# sizes
is(with($key{HS256}->token(more => 'x' x 4000))->{status}, 200, 'a token of 5 KB');
like($t->get('/arg?token=' . 'a.' x 3000)->{status}, qr/^401$/, '6 KB of dots');

# the gateway's dialect
$r = $t->post('/v1/chat/completions', '{}');
is($t->json($r)->{error}{code}, 'missing_token', 'OpenAI: code');
is($t->json($r)->{error}{type}, 'authentication_error', 'OpenAI: type');
$r = $t->post('/v1/messages', '{}', AIQ::JWT::bearer('x.y.z'));
is($t->json($r)->{error}{type}, 'authentication_error', 'Anthropic: type');

# in front of another server
is($t->get('/proxy/')->{status}, 401, 'proxy_pass: no token');
like($t->get('/proxy/')->{body}, qr/<html>/, "with nginx's page");
is($t->get('/proxy/', AIQ::JWT::bearer($token))->{body}, "auth=Bearer $token", 'a token passes, and is passed on');
is($t->get('/open')->{status}, 200, 'aiq_jwt off');

# nginx logs what it cannot read, so before that
ok(index($t->error_log, $token) < 0, 'the log has no token');
$r = $t->post('/echo', 'x', headers => [ Authorization => "Bearer $token", Authorization => 'Bearer x' ]);
is($r->{status}, 400, 'two Authorization headers');
$r = $t->post('/echo', 'x', headers => [ Authorization => 'Bearer x', Authorization => "Bearer $token" ]);
is($r->{status}, 400, 'in any order');

# other places
is($t->get("/arg?token=$token")->{status}, 200, 'token=$arg_token');
is($t->get('/arg', AIQ::JWT::bearer($token))->{status}, 401, 'and nowhere else');
is($t->get('/cookie', headers => [ Cookie => "a=b; token=$token" ])->{status}, 200, 'token=$cookie_token');
is($t->get('/cookie')->{headers}{'www-authenticate'}, 'Bearer realm="api"', 'its realm');

$t->finish;
done_testing;
