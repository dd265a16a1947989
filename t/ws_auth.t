# Who may open a WebSocket, and for how long: tokens from an argument or a cookie, and what
# is taken back closes what is open with 1008, but nobody else's.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Admin;
use AIQ::JWT;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;
my ($old, $new) = map { AIQ::JWT->new('ES256', kid => $_) } qw(old new);

$t->conf('
    log_format ws \'"$aiq_user" "$aiq_status" $aiq_websocket_close\';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/access.log ws;
        aiq_jwt_key_request /jwks;
        aiq_jwt_key_cache 1s;
        location /header   { aiq_jwt api; aiq_pass echo; aiq_websocket; }
        location /argument { aiq_jwt api token=$arg_access_token; aiq_pass echo; aiq_websocket; }
        location /cookie   { aiq_jwt api token=$cookie_token; aiq_pass echo; aiq_websocket; }
        location /key      { aiq_key api; aiq_pass echo; aiq_websocket; }
        location = /jwks   { internal; alias %%DIR%%/jwks.json; }
    }');
$t->write_file('jwks.json', AIQ::JWT::set($old, $new));
$t->start;

sub token  { return $_[0]->token(sub => $_[1]) }
sub bearer { return (headers => [ Authorization => "Bearer $_[0]" ]) }
sub works {
    my ($ws, $what) = @_;
    $ws->text($what);
    is($ws->message, $what, $what);
}
sub ask { return AIQ::WebSocket->ask($t, @_)->{status} }

is(ask('/header'), 401, 'no token');
is(ask('/argument?access_token=x'), 401, 'one that is none');
my $token = token($old, 'ann');
my $ann = AIQ::WebSocket->new($t, '/header', bearer($token));
works($ann, 'a token in the header');
works(AIQ::WebSocket->new($t, "/argument?access_token=$token"), 'in an argument');
works(AIQ::WebSocket->new($t, '/cookie', headers => [ Cookie => "token=$token" ]), 'in a cookie');
my $bob = AIQ::WebSocket->new($t, '/header', bearer(token($new, 'bob')));
works($bob, 'a token of another key');

# the issuer takes a key back
$t->write_file('jwks.json', AIQ::JWT::set($new));
$t->wait_for(sub { ask('/header', bearer(token($new, 'eve'))) == 101 && ask('/header', bearer(token($old, 'eve'))) == 401 },
    10, 'the key is taken back');
is($ann->closed, 1008, 'what its tokens have opened is closed');
$ann->close(1008);
ok($ann->ended, 'and ends');
works($bob, 'others go on');
$t->wait_for(sub { $t->read_file('access.log') =~ /"ann" "token_revoked" 1008/ }, 10, 'the log tells');
pass('the log tells');

# an API key
my $admin = AIQ::Admin->new($t);
$admin->json(qw(tenants create acme));
my ($one, $two) = map { $admin->json(qw(keys create --tenant acme)) } 1, 2;
my @ws = map { AIQ::WebSocket->new($t, '/key', bearer($_->{key})) } $one, $two;
works($_, 'an API key') for @ws;
$admin->json(qw(keys revoke), $one->{id});
is($ws[0]->closed, 1008, 'a key that is revoked closes, too');
works($ws[1], 'but not others');

$t->finish;
done_testing();
