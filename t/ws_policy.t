# What holds for a chat over /ws is what holds for a request at its location: budgets, limits of
# tokens, the cache, an API key and what it may; and who pays is the same.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model cheap { target mock model=mock-stream-3x0ms input=1 output=10; }
    aiq_model long  { target mock model=mock-stream-10000x20ms input=1 output=10; }
    aiq_model other { target mock model=mock-stream-3x1ms input=1 output=10; }
    aiq_limit_zone \$http_x_who zone=who:1m rate=120t/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /limited/ { aiq_websocket; aiq_limit zone=who; aiq_pass events /; }
        location /cached/  { aiq_websocket; aiq_cache exact ttl=1m; aiq_pass events /; }
        location /key/     { aiq_key all; aiq_websocket; aiq_budget tenant 0.002usd/day; aiq_abort_drain 0; aiq_pass events /; }
        location /api/     { aiq_key all; aiq_pass control; }
        location /metrics  { aiq_metrics; }
    }");
$t->start;

my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));
$admin->json(qw(tenants create acme));
my $key = $admin->json(qw(keys create --tenant acme --models), 'cheap,long');

sub open_ws {
    my ($path, @headers) = @_;
    my $ws = AIQ::WebSocket->new($t, $path, headers => \@headers);

    $ws->event;
    return $ws;
}
my $n = 0;
sub begin {
    my ($ws, $model, %more) = @_;
    $ws->say(type => 'chat', id => 'c' . ++$n, body => { model => $model, max_tokens => 30,
        messages => [ { role => 'user', content => 'hi' } ], %more });
}
sub events {
    my ($ws) = @_;
    my @events;

    while (my $e = $ws->event) {
        push @events, $e;
        last if $e->{type} =~ /^(done|error|cancelled)$/;
    }
    return @events;
}
sub ask { my ($ws, @chat) = @_; begin($ws, @chat); return (events($ws))[-1] }
sub usage {
    my ($args) = @_;
    $t->wait_for_usage;
    return $t->json($t->get("/api/v1/usage?$args", headers => AIQ::Admin::bearer($root->{key})))->{data};
}

# Tokens of whoever has opened the connection.
my $ws = open_ws('/limited/ws', 'X-Who' => 'ann');
my $e;
for (1 .. 30) {
    $e = ask($ws, 'cheap');
    last if $e->{type} eq 'error';
}
is_deeply([ $e->{data}{status}, $e->{data}{error}{code} ], [ 429, 'rate_limit_exceeded' ], 'a limit of tokens') or diag explain $e;
cmp_ok($e->{data}{retry_after}, '>', 60, 'says when to come again');
is(ask(open_ws('/limited/ws', 'X-Who' => 'bob'), 'cheap')->{type}, 'done', "others' is another");
$ws->drop;

# The cache.
$ws = open_ws('/cached/ws');
my @first = do { begin($ws, 'cheap'); events($ws) };
my @second = do { begin($ws, 'cheap'); events($ws) };
is($first[0]{data}{headers}{'x-aiq-cache'}, 'MISS', 'asked once');
is($second[0]{data}{headers}{'x-aiq-cache'}, 'HIT', 'the answer is kept');
is_deeply([ map { $_->{data} } grep { $_->{type} eq 'delta' } @second ],
    [ map { $_->{data} } grep { $_->{type} eq 'delta' } @first ], 'and the same');
is($second[-1]{data}{usage}{cost_usd}, '0.000000000', 'for nothing');
$ws->say(type => 'chat', id => 'fresh', headers => { 'cache-control' => 'no-cache' },
    body => { model => 'cheap', max_tokens => 30, messages => [ { role => 'user', content => 'hi' } ] });
is((events($ws))[0]{data}{headers}{'x-aiq-cache'}, 'BYPASS', 'unless a header of the message says otherwise');
$ws->drop;

# A key: its models, and who pays.
my @key = (Authorization => "Bearer $key->{key}");
$ws = open_ws('/key/ws', @key);
is(ask($ws, 'other')->{data}{error}{code}, 'model_not_found', "a model that is not the key's");
$e = ask($ws, 'cheap');
is($e->{type}, 'done', 'one that is');
my ($acme) = grep { $_->{model} eq 'cheap' } @{ usage('tenant=acme&group_by=model') };
is_deeply([ $acme->{requests}, $acme->{cost_usd} ], [ 1, $e->{data}{usage}{cost_usd} ], 'is paid by its tenant') or diag explain $acme;

begin($ws, 'long', max_tokens => 20);
$ws->event for 1 .. 5;
$ws->say(type => 'cancel', id => "c$n");
is((events($ws))[-1]{type}, 'cancelled', 'a chat is cancelled');
$t->wait_for(sub { grep { $_->{model} eq 'long' } @{ usage('tenant=acme&group_by=model') } }, 10, 'what it has done is billed');

for (1 .. 40) {
    $e = ask($ws, 'cheap');
    last if $e->{type} eq 'error';
}
is_deeply([ $e->{data}{status}, $e->{data}{error}{code} ], [ 402, 'budget_exceeded' ], 'a budget') or diag explain $e;

# Its chats end with it.
my $two = $admin->json(qw(keys create --tenant default));
$ws = open_ws('/key/ws', Authorization => "Bearer $two->{key}");
begin($ws, 'long', max_tokens => 20);
$ws->event for 1 .. 3;
my $aborted = $mock->stats->{aborted};
$admin->json(qw(keys revoke), $two->{id});
is($ws->closed, 1008, 'a key that is revoked closes the connection');
$t->wait_for(sub { $mock->stats->{aborted} > $aborted }, 10, 'and ends its chats');
$ws->close(1008);

$t->finish;
done_testing;
