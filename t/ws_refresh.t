# A token of an open WebSocket: the connection ends with it, unless the client shows another one
# of the same caller in time. A refused one changes nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my ($key, $next, $stranger) = map { AIQ::JWT->new('EdDSA', kid => $_) } qw(one two three);

$t->write_file('jwks.json', AIQ::JWT::set($key, $next));
$t->conf("
    log_format ws '\$aiq_user \$aiq_role \$aiq_status \$aiq_websocket_close';
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ $mock->models(qw(mock-stream-400x20ms mock-stream-3x0ms)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/access.log ws;
        aiq_jwt_key_request /jwks;
        aiq_jwt_key_cache 1s;
        aiq_jwt_leeway 0;
        location = /jwks  { internal; alias %%DIR%%/jwks.json; }
        location = /ws    { aiq_jwt api token=\$arg_access_token; aiq_jwt_audience me;
                            aiq_jwt_require \$aiq_jwt_claim_paid; aiq_websocket; aiq_pass events; }
        location = /still { aiq_jwt api token=\$arg_access_token; aiq_websocket; aiq_websocket_ping 0; aiq_pass echo; }
        location = /open  { aiq_websocket; aiq_pass events /ws; }
    }");
$t->start;

sub token {
    my ($seconds, %claims) = @_;
    return (delete $claims{key} // $key)->token(exp => time + $seconds, sub => 'ann', tenant => 'acme', aud => 'me',
        paid => 1, %claims);
}
sub open_ws {
    my ($token, $path) = @_;
    return AIQ::WebSocket->new($t, ($path // '/ws') . "?access_token=$token");
}
sub chat {
    my ($ws, $id, $model) = @_;
    $ws->say(type => 'chat', id => $id, body => { model => $model, messages => [ { role => 'user', content => 'hi' } ] });
}
sub answer_to {
    my ($ws, $id) = @_;
    while (my $e = $ws->event) {
        return $e if ($e->{id} // '') eq $id;
    }
    return;
}
sub show {
    my ($ws, $token) = @_;
    $ws->say(type => 'auth', id => 'a', token => $token);
    return answer_to($ws, 'a');
}

# Its end.
my $ws = open_ws(token(4));
my $e = $ws->event;
like($e->{data}{expires_at}, qr/^\d{4}-.*Z$/, 'the state says when the token ends');
my $echo = open_ws(token(4), '/still');
chat($ws, 'c', 'mock-stream-400x20ms');
my $stays = open_ws(token(4));
$stays->event;
chat($stays, 'c', 'mock-stream-400x20ms');

# In the middle of a chat a new one.
$e = show($stays, token(600, key => $next));
is($e->{type}, 'auth', 'another token is taken') or diag explain $e;
cmp_ok($e->{data}{expires_at}, 'gt', '2026', 'and says how long it holds');
my $n = 0;
while (my $event = $ws->event) { $n++ }
cmp_ok($n, '>', 10, 'a connection lasts as long as its token');
is_deeply([ @$ws{qw(code reason)} ], [ 1008, 'The token has expired.' ], 'and no longer');
is($echo->closed, 1008, 'whatever it is for');
my $last;
while (my $event = $stays->event) { $last = $event; last if $event->{type} eq 'done' }
is($last->{type}, 'done', 'a stream outlives its token with another one');
is($last->{seq}, 403, 'and is whole');

# Refused ones change nothing.
for my $case (
    [ 'x',                                    'no token',                    401, 'invalid_token' ],
    [ token(-10),                             'an expired one',              401, 'invalid_token' ],
    [ token(600, key => $stranger),           'one that is badly signed',    401, 'invalid_token' ],
    [ token(600, sub => 'bob'),               "another user's",              401, 'invalid_token' ],
    [ token(600, tenant => 'bolt'),           "another tenant's",            401, 'invalid_token' ],
    [ token(600, aud => 'you'),               'one for others',              401, 'invalid_token' ],
    [ token(600, paid => 0),                  'one that is required more of', 403, 'permission_denied' ],
    [ token(600, role => 'emperor'),          'an unknown role',             403, 'permission_denied' ],
) {
    $e = show($stays, $case->[0]);
    is_deeply([ $e->{type}, $e->{data}{status}, $e->{data}{error}{code} ], [ 'error', @$case[ 2, 3 ] ], "refused: $case->[1]")
        or diag explain $e;
}
chat($stays, 'again', 'mock-stream-3x0ms');
is(answer_to($stays, 'again')->{type}, 'started', 'the connection goes on');
for (1 .. 30) {
    $e = show($stays, token(600));
    last if $e->{type} eq 'error';
}
is($e->{data}{error}{code}, 'rate_limit_exceeded', 'not more than so many a minute');

# A role is that of the last one.
$ws = open_ws(token(600));
$ws->event;
is(show($ws, token(600, role => 'viewer'))->{data}{role}, 'viewer', 'a new role');
chat($ws, 'c', 'mock-stream-3x0ms');
is(answer_to($ws, 'c')->{data}{error}{code}, 'permission_denied', 'holds for what comes');
is(show($ws, token(600, role => 'admin'))->{data}{role}, 'admin', 'and so does another');
is(show($ws, token(4, role => 'admin'))->{type}, 'auth', 'the last one holds, also where it ends first');
is($ws->closed, 1008, 'and ends the connection');
$ws->close(1008);
$t->wait_for(sub { $t->read_file('access.log') =~ /^ann admin token_expired 1008$/m }, 10, 'the log tells');

$ws = AIQ::WebSocket->new($t, '/open');
is($ws->event->{data}{expires_at}, undef, 'without a token nothing ends');
is(show($ws, token(600))->{data}{error}{code}, 'invalid_token', 'nor is one wanted');

# The key of the last one counts.
$ws = open_ws(token(600));
$ws->event;
is(show($ws, token(600, key => $next))->{type}, 'auth', 'a token by another key');
my $old = open_ws(token(600));
$old->event;
$t->write_file('jwks.json', AIQ::JWT::set($next));
$t->wait_for(sub { AIQ::WebSocket->ask($t, '/ws?access_token=' . token(600))->{status} == 401 }, 10, 'the key is taken back');
is($old->closed, 1008, 'a key that is taken back ends what its tokens hold open');
$ws->say(type => 'ping', id => 'p');
is(answer_to($ws, 'p')->{type}, 'pong', 'but not what has another token by now');

unlike($t->read_file('access.log') . join('', map { $t->read_file("logs/$_") } grep { -f $t->dir . "/logs/$_" } qw(engine.log)),
    qr/eyJ[\w-]{20,}/, 'no token is in the logs');
$_->drop for $stays, $echo, $ws, $old;
is(AIQ::WebSocket::misfits(), '', 'all of it fits the schema');
$t->finish;
done_testing;
