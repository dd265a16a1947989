# aiq_jwt token=message: a WebSocket whose first message has the token. It is good for all that a
# token in the handshake is; before it nothing is at the engine, and who is refused is closed.

use strict;
use warnings;
use lib 't/lib';

use Compress::Raw::Zlib;
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::JWT;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;
my ($key, $stranger) = map { AIQ::JWT->new('ES256', kid => $_) } qw(one two);

$t->conf('
    log_format ws \'"$aiq_user" $status "$aiq_status" $aiq_websocket_close $request_uri\';
    aiq_limit_zone $remote_addr zone=address:1m conn=12;
    aiq_limit_zone $aiq_user zone=user:1m conn=1;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/access.log ws;
        aiq_jwt_key_request /jwks;
        aiq_jwt_leeway 1s;
        location = /jwks   { internal; alias %%DIR%%/jwks.json; }
        location = /echo   { aiq_jwt api token=message; aiq_jwt_audience me; aiq_jwt_require $aiq_jwt_claim_paid;
                             aiq_pass echo; aiq_websocket; aiq_websocket_max_message 64k;
                             aiq_websocket_deflate on; aiq_limit zone=address; }
        location = /once   { aiq_jwt api token=message; aiq_pass echo; aiq_websocket; aiq_limit zone=user; }
        location = /quick  { aiq_jwt api token=message; aiq_pass echo; aiq_websocket; aiq_websocket_token_timeout 300ms; }
        location = /either { aiq_key api; aiq_jwt api token=message; aiq_pass echo; aiq_websocket; }
        location = /ws     { aiq_jwt api token=message; aiq_pass events; aiq_websocket; }
        location = /page   { aiq_jwt api token=message; error_page 401 /sorry; aiq_pass echo; aiq_websocket; }
        location = /sorry  { return 200 "sorry"; }
        location = /limits { aiq_jwt off; return 204; }
    }');
$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->start;

sub token { my ($user, %more) = @_; return $key->token(sub => $user, aud => 'me', paid => 1, %more) }
sub auth  { return JSON::PP::encode_json({ type => 'auth', token => $_[0] }) }
sub ws    { my ($path, @more) = @_; return AIQ::WebSocket->new($t, $path, @more) }
sub shown {
    my ($path, $text, @more) = @_;
    my $ws = ws($path, @more);
    $ws->text($text);
    return $ws;
}
sub works {
    my ($ws, $what) = @_;
    $ws->text($what);
    is($ws->message, $what, $what);
    $ws->close(1000);
    $ws->closed;
}
sub refused {
    my ($ws, $code, $reason, $what) = @_;
    is($ws->message, undef, "$what: no message");
    is($ws->{code}, $code, "$what: $code");
    like($ws->{reason}, $reason, "$what: why");
    $ws->close($code);
    ok($ws->ended, "$what: and ends");
}
sub frame { return AIQ::WebSocket::frame_of(@_) }
use constant { FIN => 0x80, RSV1 => 0x40, TEXT => 1 };

# the token comes, in one piece or in many, and what stands behind it is for the service
my $good = auth(token('ann'));
works(shown('/echo', $good), 'a token in the first message');
my $ws = ws('/echo');
$ws->frame(TEXT, substr($good, 0, 40));
$ws->ping('still here');
$ws->frame(0, substr($good, 40, 100));
$ws->frame(FIN, substr($good, 140));
works($ws, 'a token in fragments');
is_deeply($ws->{pongs}, ['still here'], 'and a ping between them is answered');
$ws = ws('/echo', behind => frame(FIN | TEXT, $good) . join('', map { frame(FIN | TEXT, "message $_") } 1 .. 20));
is_deeply([ map { $ws->message } 1 .. 20 ], [ map { "message $_" } 1 .. 20 ], 'messages sent at once, behind the handshake');
$ws->drop;
$ws = ws('/echo');
my $long = 'x' x 60000;
$ws->raw(frame(FIN | TEXT, $good) . frame(FIN | TEXT, $long) x 5);
is(join(' ', map { length($ws->message) } 1 .. 5), '60000 60000 60000 60000 60000', 'long ones, too');
$ws->drop;

my $z = Compress::Raw::Zlib::Deflate->new(-WindowBits => -15);
my ($deflated, $rest) = ('', '');
$z->deflate($good, $deflated);
$z->flush($rest, Z_SYNC_FLUSH);
$ws = ws('/echo', headers => [ 'Sec-WebSocket-Extensions' => 'permessage-deflate' ]);
$ws->frame(FIN | RSV1 | TEXT, substr($deflated . $rest, 0, -4));
works($ws, 'a token that is compressed');

# whatever refuses it closes it
refused(shown('/echo', 'hello'), 1008, qr/^The first message must be an "auth"/, 'no JSON');
refused(shown('/echo', '{"type":"auth"}'), 1008, qr/"auth" with a token/, 'no token');
refused(shown('/echo', '{"type":"chat","token":"x"}'), 1008, qr/must be/, 'another message');
refused(shown('/echo', '{"type":"auth","token":"x.y.z","more":1}'), 1008, qr/must be/, 'an unknown field');
refused(shown('/echo', auth('x.y.z')), 1008, qr/not a signed/, 'a token that is none');
refused(shown('/echo', auth($stranger->token(sub => 'eve', aud => 'me', paid => 1))), 1008, qr/key is not known/, 'a stranger');
refused(shown('/echo', auth(token('ann', exp => time - 100))), 1008, qr/has expired/, 'an old one');
refused(shown('/echo', auth(token('ann', aud => 'you'))), 1008, qr/another audience/, 'for others');
refused(shown('/echo', auth(token('ann', paid => 0))), 1008, qr/does not permit/, 'one that is not enough');
refused(shown('/echo', auth(token('ann', role => 'king'))), 1008, qr/role/, 'an unknown role');
refused(shown('/page', auth('x.y.z')), 1008, qr/not a signed/, 'with an error page');
refused(shown('/echo', 'x' x 20000), 1009, qr/too large/, 'too large');
$ws = ws('/echo');
$ws->binary($good);
refused($ws, 1003, qr/must be text/, 'binary');
refused(ws('/quick'), 1008, qr/in time/, 'a token that does not come');
$ws = ws('/echo');
$ws->close(1000, 'never mind');
is($ws->closed, 1000, 'who closes before is answered');

# without a WebSocket there is no message
my $r = $t->get('/echo');
is($r->{status}, 401, 'a plain request is refused as any');
is(JSON::PP::decode_json($r->{body})->{error}{code}, 'missing_token', 'for it has no token');
is(AIQ::WebSocket->ask($t, '/echo', drop => ['Sec-WebSocket-Key'])->{status}, 400, 'a wrong handshake as ever');

# limits: by address before the token, by identity behind it
$t->wait_for(sub { $t->get('/limits')->{status} == 204 }, 1, 'a quiet moment');
my $first = shown('/once', auth(token('bob')));
$first->text('one');
is($first->message, 'one', 'the first one of a user');
refused(shown('/once', auth(token('bob'))), 1008, qr/./, 'a second one of his');
works(shown('/once', auth(token('eve'))), 'but not of another user');
$first->drop;
my (@many, $status);
for (1 .. 13) {
    my $one = AIQ::WebSocket->ask($t, '/echo');
    push @many, $one;
    $status = $one->{status};
}
is($status, 429, 'who shows none counts by address');
$_->drop for @many;

# API keys
my $admin = AIQ::Admin->new($t);
$admin->json(qw(tenants create acme));
my $api = $admin->json(qw(keys create --tenant acme));
works(shown('/either', auth($api->{key})), 'an API key in the first message');
works(shown('/either', auth(token('ann'))), 'or a token');
works(ws('/either', headers => [ 'X-Api-Key' => $api->{key} ]), 'a key in the handshake asks for no message');
refused(shown('/either', auth('aiq_nobody')), 1008, qr/key/, 'an unknown key');

# /ws says who it takes the client for; another token in time goes on
$ws = shown('/ws', auth(token('ann', tenant => 'acme')));
my $state = $ws->event;
is_deeply([ @{ $state->{data} }{qw(tenant user role)} ], [qw(acme ann user)], 'the engine knows who it is');
like($state->{data}{expires_at}, qr/^\d{4}-/, 'and for how long');
$ws->say(type => 'auth', id => 'a', token => token('ann', tenant => 'acme', exp => time + 4));
is($ws->event->{type}, 'auth', 'another token');
is($ws->closed, 1008, 'a connection lasts as long as its token');
like($ws->{reason}, qr/expired/, 'which is why');
$ws->close(1008);
$ws->ended;

# the engine is gone while the token is on its way
$ws = ws('/echo');
$t->kill_hard('engine');
$ws->text($good);
like($ws->closed, qr/^101[23]$/, 'no engine: to be tried again');

# what is logged
$t->wait_for(sub { $t->read_file('access.log') =~ m{"-" 101 "ok" 1000 /echo} }, 10, 'the log');
my $log = $t->read_file('access.log');
like($log, qr{"ann" 101 "ok" 1000 /echo}, 'the log tells who it was');
like($log, qr{"-" 101 "invalid_token" 1008 /echo}, 'who was refused, and why');
like($log, qr{"-" 101 "missing_token" 1008 /quick}, 'and who said nothing');
unlike($t->error_log . $log . $t->engine_log, qr/eyJ/, 'tokens are in no log');

# nginx -t
$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { aiq_jwt_key_file %%DIR%%/jwks.json;
                     aiq_jwt api token=message; return 204; }
    }');
my ($rc, $out) = $t->test_conf;
isnt($rc, 0, 'a location without aiq_websocket has no message');
like($out, qr{"token=message" of "aiq_jwt" in \S+:\d+ needs "aiq_websocket" in the location "/"}, 'which nginx -t says');

$t->finish;
done_testing();
