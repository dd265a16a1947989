# /ws: topics. Events for all who listen, each once and in order, from now on or from where one was.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api token=$arg_access_token;
        location / { aiq_websocket; aiq_pass events; }
    }', workers => 2);
$t->start;

sub query { return '?access_token=' . $key->token(sub => 'ann', tenant => $_[0] // 'acme', role => $_[1] // 'developer') }
sub open_ws {
    my $ws = AIQ::WebSocket->new($t, '/ws' . query(@_));

    $ws->event;
    return $ws;
}
sub publish {
    my ($name, $type, $data) = @_;
    my $r = $t->post("/v1/topics/$name" . query(), JSON::PP->new->utf8->allow_nonref->encode({ type => $type, data => $data }));

    is($r->{status}, 202, "$type is published") or diag $r->{body};
    return $t->json($r)->{seq};
}

my @ws = map { open_ws() } 1 .. 3;
my $other = open_ws('bolt');
for my $ws (@ws, $other) {
    $ws->say(type => 'subscribe', id => 'd', topic => 'deploys');
    my $e = $ws->event;
    is_deeply([ @$e{qw(type id topic)} ], [qw(started d deploys)], 'subscribed');
}
my $first = publish('deploys', 'begun', { version => 7, note => "\x{e9}\n" });
publish('deploys', 'done', [ 1, 'two', undef ]);
for my $ws (@ws) {
    my ($one, $two) = map { $ws->event } 1, 2;
    is_deeply([ @$one{qw(type id topic event seq data)} ],
        [ 'event', 'd', 'deploys', 'begun', $first, { version => 7, note => "\x{e9}\n" } ], 'an event') or diag explain $one;
    like($one->{timestamp}, qr/^\d{4}-.*Z$/, 'with its time');
    is_deeply([ @$two{qw(event seq data)} ], [ 'done', $first + 1, [ 1, 'two', undef ] ], 'and the next');
}
$other->say(type => 'ping');
is($other->event->{type}, 'pong', "another tenant's topic of that name is another");

# One leaves, one dies; the third hears on.
$ws[0]->say(type => 'unsubscribe', id => 'd');
is($ws[0]->event->{type}, 'unsubscribed', 'unsubscribed');
$ws[1]->drop;
publish('deploys', 'third', 3);
is($ws[2]->event->{data}, 3, 'who stays hears on');
$ws[0]->say(type => 'ping');
is($ws[0]->event->{type}, 'pong', 'who has left does not');

# Back where one was.
$ws[0]->say(type => 'subscribe', id => 'd2', topic => 'deploys', after => $first);
is($ws[0]->event->{seq}, $first, 'subscribed again');
is_deeply([ map { $ws[0]->event->{event} } 1, 2 ], [qw(done third)], 'hears what it has missed');
$ws[0]->say(type => 'subscribe', id => 'old', topic => 'deploys', after => 1);
is_deeply([ map { $ws[0]->event->{type} } 1, 2 ], [qw(started gap)], 'what is gone is said to be');

# Whose it is.
$ws[0]->say(type => 'subscribe', id => 'p', topic => 'aiq.admin.providers');
my $e;
do { $e = $ws[0]->event } until $e->{id} eq 'p';
is($e->{data}{error}{code}, 'permission_denied', 'topics for admins');
$ws[2]->say(type => 'subscribe', id => "s$_", topic => "t$_") for 1 .. 64;
do { $e = $ws[2]->event } until $e->{type} eq 'error';
is($e->{data}{error}{code}, 'too_many_streams', 'no more of them than it may');

$_->drop for $other, @ws[0, 2];
is(AIQ::WebSocket::misfits(), '', 'all of it fits the schema');
$t->finish;
done_testing;
