# /ws: a stream goes on over another connection, exactly behind the last event that came, or is
# read along; it is its tenant's, and who reads it slowly delays nobody.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Socket qw(SOL_SOCKET SO_RCVBUF);
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ $mock->models(qw(mock-stream-60x10ms mock-held-2 mock-stream-3x0ms mock-stream-300x20ms mock-stream-30000x0ms)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%% sndbuf=16k;
        aiq_jwt api token=\$arg_access_token;
        location /        { aiq_websocket; aiq_abort_drain 0; aiq_pass events; }
        location = /brief { aiq_websocket; aiq_abort_drain 0; aiq_stream_grace 100ms; aiq_pass events /ws; }
        location /v1/chat { aiq_pass gateway; }
    }", workers => 2);
$t->start;

sub token { return $key->token(sub => 'ann', tenant => $_[0] // 'acme') }
sub open_ws {
    my ($tenant, $path) = @_;
    my $ws = AIQ::WebSocket->new($t, ($path // '/ws') . '?access_token=' . token($tenant));

    $ws->{state} = $ws->event;
    return $ws;
}
sub chat {
    my ($ws, $id, $model) = @_;
    $ws->say(type => 'chat', id => $id,
        body => { model => $model, messages => [ { role => 'user', content => 'hi' } ] });
}
sub events {
    my ($ws, $most) = @_;
    my @events;

    while (!defined $most || @events < $most) {
        push @events, $ws->event // last;
        last if $events[-1]{type} =~ /^(done|error|cancelled|unsubscribed)$/;
    }
    return @events;
}
# The numbers of so many events that decoding them would take long; $last is the last one.
my $last;
sub numbers {
    my ($ws, $type) = @_;
    my @numbers;

    while (defined($last = $ws->message)) {
        push @numbers, $last =~ /"seq":(\d+)/;
        last if $last =~ /^\{"type":"$type"/;
    }
    return @numbers;
}
sub text_of { return join '', map { $_->{data}{choices}[0]{delta}{content} // '' } grep { $_->{type} eq 'delta' } @_ }
sub resume {
    my ($ws, $id, $stream, $after) = @_;
    $ws->say(type => 'resume', id => $id, stream => $stream, defined $after ? (after => $after) : ());
}

# The connection is cut in the middle.
my $ws = open_ws();
chat($ws, 'c', 'mock-held-2');
my @first = events($ws, 3);
my $stream = $first[0]{stream};
$ws->drop;
$ws = open_ws();
my ($mine, @others) = @{ $ws->{state}{data}{streams} };
is_deeply([ @$mine{qw(stream model qos)} ], [ $stream, 'mock-held-2', 'best-effort' ], 'the state tells of it');
cmp_ok($mine->{seq}, '>=', $first[-1]{seq}, 'and how far it is');
like($mine->{started_at}, qr/^\d{4}-.*Z$/, 'and since when');
is(scalar(@others), 0, 'and of nothing else');
is_deeply(open_ws('bolt')->{state}{data}{streams}, [], 'but not another tenant');
resume($ws, 'again', $stream, $first[-1]{seq});
$mock->go;
my @rest = events($ws);
is_deeply([ @{ $rest[0] }{qw(type id stream seq)} ], [ 'started', 'again', $stream, $first[-1]{seq} ], 'resumed');
is($rest[-1]{type}, 'done', 'to its end');
shift @rest;
is_deeply([ map { $_->{seq} } @first, @rest ], [ 0 .. $rest[-1]{seq} ], 'no gap, no repeat');
my @times = map { $_->{timestamp} } @rest;
is_deeply(\@times, [ sort @times ], 'in the order of their times');

resume($ws, 'all', $stream);
my @all = events($ws);
is(text_of(@all), text_of(@first, @rest), 'the whole of it is the same');
is_deeply([ map { $_->{data} } grep { $_->{type} eq 'delta' } @all ],
    [ map { $_->{data} } grep { $_->{type} eq 'delta' } @first, @rest ], 'event by event');
is(text_of(@all), join('', map { " token$_" } 1 .. 8), 'and that is all that was said');
resume($ws, 'last', $stream, $rest[-1]{seq});
is_deeply([ map { $_->{type} } events($ws) ], [qw(started done)], 'nothing is behind the last event');
resume($ws, 'far', $stream, 100000);
is((events($ws))[0]{data}{error}{param}, 'after', 'nor can one begin there');

# Whose it is.
resume($ws, 'x', 'strm_01KAK2Z5M1QX4VR8T0W3C6F9HD');
is($ws->event->{data}{error}{code}, 'stream_not_found', 'no such stream');
my $bolt = open_ws('bolt');
resume($bolt, 'x', $stream);
is($bolt->event->{data}{error}{code}, 'stream_not_found', "another tenant's is none");

# A second screen reads along, from HTTP, too; each has all of it.
chat($ws, 'shared', 'mock-stream-60x10ms');
my $e = $ws->event;
my $second = open_ws();
resume($second, 's', $e->{stream});
my $http = $t->connect;
$http->request('GET', "/v1/streams/$e->{stream}?access_token=" . token(), headers => [ Accept => 'text/event-stream' ]);
$http->head;
my ($one, $two) = map { text_of(events($_)) } $ws, $second;
is($one, $two, 'two WebSockets read the same');
my $sse = '';
while (defined(my $piece = $http->piece)) { $sse .= $piece }
is(join('', map { JSON::PP::decode_json($_)->{choices}[0]{delta}{content} // '' } grep { $_ ne '[DONE]' }
    $sse =~ /^data: (.*)$/mg), $one, 'and so does an EventSource');
chat($bolt, 'plain', 'mock-stream-3x0ms');
is((events($bolt))[-1]{type}, 'done', 'others are not delayed');

# Who reads along may leave it to the others, or end it for all.
chat($ws, 'long', 'mock-stream-300x20ms');
$e = $ws->event;
resume($second, 's', $e->{stream});
events($second, 3);
$second->say(type => 'unsubscribe', id => 's');
is((events($second))[-1]{type}, 'unsubscribed', 'one reads no more');
$ws->event for 1 .. 5;
resume($second, 's', $e->{stream});
events($second, 3);
my $aborted = $mock->stats->{aborted};
$second->say(type => 'cancel', id => 's');
is((events($second))[-1]{type}, 'cancelled', 'one ends it');
$e = (events($ws))[-1];
is_deeply([ $e->{type}, $e->{data}{error}{code} ], [ 'error', 'stream_abandoned' ], 'and it ends for all') or diag explain $e;
$t->wait_for(sub { $mock->stats->{aborted} > $aborted }, 10, 'the provider is left');

# nginx is told to read its configuration again: the next worker finds the stream.
chat($ws, 'r', 'mock-held-2');
my @before = events($ws, 3);
$t->reload;
push @before, events($ws);
is($ws->{code}, 1012, 'a reload sends a client away');
$ws = open_ws();
resume($ws, 'r', $before[0]{stream}, $before[-1]{seq});
$mock->go;
my @after = events($ws);
shift @after;
is_deeply([ map { $_->{seq} } @before, @after ], [ 0 .. $after[-1]{seq} ], 'which goes on, with no gap and no repeat');
is($after[-1]{type}, 'done', 'to the end');

# Nobody comes back in time.
my $brief = open_ws('acme', '/brief');
chat($brief, 'c', 'mock-stream-300x20ms');
$stream = $brief->event->{stream};
$aborted = $mock->stats->{aborted};
$brief->drop;
$t->wait_for(sub { $mock->stats->{aborted} > $aborted }, 10, 'a chat without its client ends after aiq_stream_grace');
resume($ws, 'late', $stream);
$e = (events($ws))[-1];
is_deeply([ $e->{type}, $e->{data}{error}{code} ], [ 'error', 'stream_abandoned' ], 'its last event says so');

# A client that does not read is bounded, delays nobody, and is told what it has missed.
my $slow = open_ws();
setsockopt($slow->http->socket, SOL_SOCKET, SO_RCVBUF, 16384) or die $!;
chat($ws, 'fast', 'mock-stream-30000x0ms');
$e = $ws->event;
resume($slow, 's', $e->{stream});
my @fast = numbers($ws, 'done');
is_deeply(\@fast, [ 1 .. 30003 ], 'who reads has all of it');
my @slow = numbers($slow, 'error');
like($last, qr/"stream_truncated"/, 'who does not is told');
pop @slow;
is_deeply(\@slow, [ 0 .. $#slow ], 'and has no gap before that');
chat($slow, 'c', 'mock-stream-3x0ms');
is((events($slow))[-1]{type}, 'done', 'its connection goes on');

$_->drop for $ws, $second, $bolt, $slow;
is(AIQ::WebSocket::misfits(), '', 'all of it fits the schema');
$t->finish;
done_testing;
