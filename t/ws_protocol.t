# /ws: chats over one WebSocket. What the client says and what it hears, who may, and what a
# client gets who makes mistakes.

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
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ $mock->models(qw(mock-stream-5x1ms mock-stream-200x20ms mock-400 mock-500 mock-reset-mid)) ]}
    aiq_model mock-stream-3x0ms { target mock input=1 output=10; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location = /ws   { aiq_jwt api token=\$arg_access_token; aiq_websocket; aiq_abort_drain 0; aiq_pass events; }
        location /small/ { aiq_max_body_size 1k; aiq_websocket; aiq_pass events /; }
        location /v1/    { aiq_pass gateway; }
        location /none/  { aiq_pass events /; }
    }");
$t->start;

sub token { return $key->token(sub => 'ann', tenant => 'acme', @_) }
sub open_ws { return AIQ::WebSocket->new($t, '/ws?access_token=' . token(@_)) }
sub chat {
    my ($ws, $id, $model, %more) = @_;
    my $headers = delete $more{headers};
    return $ws->say(type => 'chat', id => $id, $headers ? (headers => $headers) : (),
        body => { model => $model, messages => [ { role => 'user', content => 'hi' } ], %more });
}

# The events up to the last one of a chat.
sub whole {
    my ($ws) = @_;
    my @events;

    while (my $e = $ws->event) {
        push @events, $e;
        return @events if $e->{type} =~ /^(done|error|cancelled|unsubscribed)$/;
    }
    return @events;
}
sub text_of { return join '', map { $_->{data}{choices}[0]{delta}{content} // '' } grep { $_->{type} eq 'delta' } @_ }
sub refused {
    my ($ws, $message, $status, $code, $param, $what) = @_;
    $ws->text(ref $message ? JSON::PP::encode_json($message) : $message);
    my $e = $ws->event;
    is_deeply([ $e->{type}, $e->{data}{status}, $e->{data}{error}{code}, $e->{data}{error}{param} ],
        [ 'error', $status, $code, $param ], $what) or diag explain $e;
    return $e;
}

# The first message is the state.
my $ws = open_ws();
my $e = $ws->event;
is($e->{type}, 'state', 'the first message is the state');
is_deeply([ @{ $e->{data} }{qw(tenant user role)} ], [ qw(acme ann user) ], 'who it is');
like($e->{data}{connection}, qr/^\w{8}/, 'the connection');
ok($e->{data}{heartbeat_ms} > 0 && $e->{data}{limits}{chats} > 0, 'heartbeat and limits');
is($e->{seq}, 1, 'the first event of the connection');
like($e->{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'when');

$ws->say(type => 'ping', id => 'p');
$e = $ws->event;
is_deeply([ @$e{qw(type id seq)} ], [ 'pong', 'p', 2 ], 'ping and pong');

# A chat.
chat($ws, 'c1', 'mock-stream-3x0ms');
my @all = whole($ws);
is_deeply([ $all[0]{type}, $all[0]{id}, $all[0]{seq} ], [ 'started', 'c1', 0 ], 'a chat has started');
like($all[0]{stream}, qr/^strm_/, 'and is a stream');
is($all[0]{data}{headers}{'x-aiq-provider'}, 'mock', 'with what a reply says in its headers');
is_deeply([ map { $_->{seq} } @all[ 1 .. $#all ] ], [ 1 .. $#all ], 'its events have numbers, up to the last');
is_deeply([ map { @$_{qw(id stream)} } @all ], [ map { ('c1', $all[0]{stream}) } @all ], 'and its names');
is($all[1]{data}{object}, 'chat.completion.chunk', 'what a stream says is their data');
is($all[-1]{type}, 'done', 'the last one says so');
cmp_ok($all[-1]{data}{usage}{tokens_out}, '>', 0, 'with the usage');
like($all[-1]{data}{usage}{cost_usd}, qr/^0\.\d+$/, 'and its price');
my $plain = $t->post('/v1/chat/completions', $t->chat('mock-stream-3x0ms', 'hi', stream => JSON::PP::true))->{body};
is(text_of(@all), join('', map { JSON::PP::decode_json($_)->{choices}[0]{delta}{content} // '' }
    grep { $_ ne '[DONE]' } $plain =~ /^data: (.*)$/mg), 'the same text as over HTTP');

chat($ws, 'c1', 'mock-stream-3x0ms', stream => JSON::PP::false, n => 1);
is((whole($ws))[-1]{type}, 'done', 'an id can be used again; "stream" is always true');

# Two at once, each in its order.
chat($ws, $_, 'mock-stream-5x1ms') for qw(a b);
my %seq;
for (my $over = 0; $over < 2;) {
    $e = $ws->event;
    is($e->{seq}, $seq{ $e->{id} } // 0, "$e->{id} $e->{seq}") if $e->{type} ne 'delta' || $e->{seq} % 4 == 0;
    $seq{ $e->{id} } = $e->{seq} + 1;
    $over += $e->{type} eq 'done';
}

# Cancelled: the provider is left at once.
chat($ws, 'long', 'mock-stream-200x20ms');
$ws->event for 1 .. 4;
$ws->say(type => 'cancel', id => 'long');
$e = (whole($ws))[-1];
is($e->{type}, 'cancelled', 'a chat is cancelled');
$t->wait_for(sub { $mock->stats->{aborted} >= 1 }, 10, 'the provider is left');
refused($ws, { type => 'cancel', id => 'long' }, 404, 'not_found', 'id', 'what is over cannot be cancelled');

# What goes wrong is an event, and the connection goes on.
for my $case ([ 'mock-400', 400, undef ], [ 'mock-500', 502, undef ]) {
    chat($ws, 'x', $case->[0]);
    my @events = whole($ws);
    is_deeply([ scalar @events, $events[0]{type}, $events[0]{id}, $events[0]{data}{status} ],
        [ 1, 'error', 'x', $case->[1] ], "$case->[0] is an error") or diag explain \@events;
    ok($events[0]{data}{error}{message}, 'with a message');
}
chat($ws, 'x', 'nobody');
$e = $ws->event;
is_deeply([ $e->{data}{status}, @{ $e->{data}{error} }{qw(code param)} ], [ 404, 'model_not_found', 'model' ], 'no such model');
chat($ws, 'x', 'mock-reset-mid');
@all = whole($ws);
is($all[0]{type}, 'started', 'a stream that breaks has started');
is($all[-1]{type}, 'error', 'and ends with an error');
ok($all[-1]{stream} && $all[-1]{seq} > 0, 'which is an event of it');

my @mistakes = (
    [ 'x',                                                    400, 'invalid_json',               undef,     'no JSON' ],
    [ '[]',                                                   400, 'invalid_json',               undef,     'no object' ],
    [ {},                                                     400, 'missing_required_parameter', 'type',    'no type' ],
    [ { type => 'sing' },                                     400, 'invalid_value',              'type',    'an unknown type' ],
    [ { type => 'ping', id => 'a b' },                        400, 'invalid_value',              'id',      'an id with a space' ],
    [ { type => 'ping', id => 'a' x 65 },                     400, 'invalid_value',              'id',      'a long id' ],
    [ { type => 'ping', id => 7 },                            400, 'invalid_type',               'id',      'an id that is a number' ],
    [ { type => 'ping', more => 1 },                          400, 'unknown_parameter',          undef,     'an unknown field' ],
    [ { type => 'ping', body => {} },                         400, 'unknown_parameter',          'body',    'a field of another message' ],
    [ { type => 'chat', id => 'a' },                          400, 'missing_required_parameter', 'body',    'no body' ],
    [ { type => 'chat', body => {} },                         400, 'missing_required_parameter', 'id',      'no id' ],
    [ { type => 'chat', id => 'a', body => [] },              400, 'invalid_type',               'body',    'a body that is none' ],
    [ { type => 'chat', id => 'a', body => {} },              400, 'missing_required_parameter', 'model',   'an empty body' ],
    [ { type => 'chat', id => 'a', body => {}, headers => { Host => 'x' } }, 400, 'invalid_value', 'headers', 'a header that is none of ours' ],
    [ { type => 'chat', id => 'a', body => {}, headers => { 'x-aiq-qos' => "a\nb" } }, 400, 'invalid_value', 'headers', 'a header with a line end' ],
    [ { type => 'cancel', id => 'a' },                        404, 'not_found',                  'id',      'nothing of this id' ],
);
refused($ws, @$_) for @mistakes;
$ws->binary('{"type":"ping"}');
is($ws->event->{data}{error}{code}, 'invalid_json', 'no text');
$ws->say(type => 'ping');
is($ws->event->{type}, 'pong', 'the connection goes on');
$ws->close(1000);
is($ws->closed, 1000, 'it closes');

# Who may.
is(AIQ::WebSocket->ask($t, '/ws')->{status}, 401, 'no token, no WebSocket');
my $r = $t->get('/ws?access_token=' . token());
is($r->{status}, 426, 'no WebSocket, no answer');
is(AIQ::WebSocket->ask($t, '/none/ws')->{status}, 426, 'where aiq_websocket is not, there is none');
$ws = open_ws(role => 'viewer');
is($ws->event->{data}{role}, 'viewer', 'a viewer may connect');
chat($ws, 'c', 'mock-stream-3x0ms');
$e = $ws->event;
is_deeply([ @$e{qw(type id)}, $e->{data}{status}, $e->{data}{error}{code} ], [ 'error', 'c', 403, 'permission_denied' ],
    'but not chat') or diag explain $e;

# Too much.
$ws = open_ws();
$ws->event;
chat($ws, "c$_", 'mock-stream-200x20ms') for 1 .. 17;
do { $e = $ws->event } until $e->{type} eq 'error';
is($e->{data}{error}{code}, 'too_many_chats', 'no more chats at a time than it may');
$ws->drop;

$ws = AIQ::WebSocket->new($t, '/small/ws');
$ws->event;
refused($ws, { type => 'ping', id => 'a' x 2000 }, 413, 'message_too_large', undef, 'a message beyond aiq_max_body_size');
$ws->text('x') for 1 .. 40;
is($ws->closed, 1008, 'too many mistakes end the connection');
$ws = open_ws();
$ws->text('{"type":"ping"}') for 1 .. 300;
is($ws->closed, 1008, 'and so do too many messages');

is(AIQ::WebSocket::misfits(), '', 'all of it fits the schema');
$t->finish;
done_testing;
