# When the client of a stream leaves: others can read on, it can come back for a while, and
# what the provider has done is paid for by its own word, where that may be waited for.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

# each case has a model of its own, so that its usage is found
sub model { my ($name, $kind) = @_; return "aiq_model $name { target mock model=mock-$kind input=1 output=10; }" }

$t->conf("
    aiq_provider mock  { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_provider local { dialect local; model demo %%ROOT%%/demo/demo.gguf; }
    aiq_model demo { target local; }
    @{[ model('goes-on',  'stream-30x30ms') ]}
    @{[ model('drained',  'stream-100x30ms') ]}
    @{[ model('cut',      'stream-10000x30ms') ]}
    @{[ model('too-long', 'stream-10000x30ms-2') ]}
    @{[ model('shared',   'stream-30x30ms') ]}
    @{[ model('back',     'stream-10000x30ms') ]}
    @{[ model('revoked',  'stream-10000x30ms') ]}
    @{[ model('silent',   'hang-mid') ]}
    @{[ model('early',    'stream-10000x30ms') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /drain/      { aiq_stream_grace 0; aiq_abort_drain 30s; aiq_pass gateway /v1/; }
        location /short/      { aiq_stream_grace 0; aiq_abort_drain 200ms; aiq_pass gateway /v1/; }
        location /cut/        { aiq_stream_grace 0; aiq_abort_drain 0; aiq_pass gateway /v1/; }
        location /grace/      { aiq_stream_grace 1500ms; aiq_abort_drain 0; aiq_pass gateway /v1/; }
        location /key/        { aiq_key all; aiq_pass gateway /v1/; }
        location /plain/      { aiq_stream_buffer 0; aiq_abort_drain 30s; aiq_pass gateway /v1/; }
        location /api/        { aiq_key all; aiq_pass control; }
        location /metrics     { aiq_metrics; }
        location /health      { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

# topics are streams, too
sub streams_open { return $t->metric('aiq_streams_open') }
my $before = streams_open();

my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));
my $key = $admin->json(qw(keys create));

sub begin {
    my ($path, $model, %more) = @_;
    my $c = $t->connect;

    $c->request('POST', "${path}chat/completions", body => $t->chat($model, 'hi', stream => JSON::PP::true), %more);
    my $id = $c->head->{headers}{'x-aiq-stream'};
    $c->event for 1 .. 3;
    return ($c, $id);
}

sub follow {
    my ($id) = @_;
    my $c = $t->connect;

    $c->request('GET', "/v1/streams/$id", headers => [ Accept => 'text/event-stream' ]);
    $c->head;
    return $c;
}

# All that is left of a stream, its last event the last.
sub rest {
    my ($c) = @_;
    my @events;

    while (defined(my $event = $c->event)) {
        push @events, $event;
    }
    return @events;
}

sub usage {
    my ($model) = @_;

    return $t->wait_for(sub {
        my $r = $t->get('/api/v1/usage?group_by=model', headers => AIQ::Admin::bearer($root->{key}));
        (grep { $_->{model} eq $model } @{ $t->json($r)->{data} })[0];
    }, 20, "usage of $model");
}

sub billed {
    my ($model, $estimated, $what) = @_;
    my $usage = usage($model);

    is($usage->{estimated}, $estimated, $what);
    return $usage;
}

# In its time of grace it goes on, and who comes back has missed nothing.
my ($c, $id) = begin('/v1/', 'goes-on');
$c->close;
my @events = rest(follow($id));
is($events[-1], '[DONE]', 'a stream whose client has left goes on to its end');
is(scalar @events, 33, 'all of it can be read');
is(billed('goes-on', 0, 'billed as the provider says')->{tokens_out}, 30, 'which is all of it');

# Without that, the provider may still say what it costs.
($c, $id) = begin('/drain/', 'drained');
$c->close;
is(billed('drained', 0, 'read to its end for its usage')->{tokens_out}, 100, 'which is all of it');
@events = rest(follow($id));
is($t->json($events[-1])->{error}{code}, 'stream_abandoned', 'its events have ended with an error');
cmp_ok(scalar @events, '<', 103, 'before the provider did');
is($mock->stats->{aborted}, 0, 'no call was cut off yet');

# Nor that: the provider is cut off.
($c) = begin('/cut/', 'cut');
$c->close;
cmp_ok(billed('cut', 1, 'cut off: an estimate')->{tokens_out}, '<', 1000, 'of what came');
is($mock->stats->{aborted}, 1, 'the provider has noticed');

# Only for so long.
($c) = begin('/short/', 'too-long');
$c->close;
billed('too-long', 1, 'too long: an estimate');
is($mock->stats->{aborted}, 2, 'the provider is cut off then');

# Others read on.
($c, $id) = begin('/cut/', 'shared');
my $other = follow($id);
$other->event;
$c->close;
@events = rest($other);
is($events[-1], '[DONE]', 'what somebody else reads goes on');
billed('shared', 0, 'and is billed as the provider says');
is($mock->stats->{aborted}, 2, 'it was not cut off');

# Back in time, then not again.
($c, $id) = begin('/grace/', 'back');
$c->close;
$c = follow($id);
$c->event for 1 .. 70;    # longer than the time of grace
pass('who comes back in time can stay');
$c->close;
billed('back', 1, 'once nobody is back in time it ends');
is($mock->stats->{aborted}, 3, 'and is cut off');

# Who asked may not any more: nobody reads on, and nobody takes that for the end.
($c, $id) = begin('/key/', 'revoked', headers => AIQ::Admin::bearer($key->{key}));
$other = follow($id);
$other->event;
$admin->json('keys', 'revoke', $key->{id});
@events = rest($other);
is($t->json($events[-1])->{error}{code}, 'stream_abandoned', 'a key is revoked: its stream ends with an error');
billed('revoked', 1, 'and is billed by an estimate');

# The same while a page is waited for, which is the last to leave.
$key = $admin->json(qw(keys create));
$c = $t->connect;
$c->request('POST', '/key/chat/completions', headers => AIQ::Admin::bearer($key->{key}),
    body => $t->chat('silent', 'hi', stream => JSON::PP::true));
$id = $c->head->{headers}{'x-aiq-stream'};
my $page = { next => 0 };
do { $page = $t->json($t->get("/v1/streams/$id?after=$page->{next}&wait=100ms")) } while @{ $page->{data} };
my $waits = $t->connect;
$waits->request('GET', "/v1/streams/$id?after=$page->{next}&wait=60s");
$admin->json('keys', 'revoke', $key->{id});
$page = $t->json($waits->response);
is(scalar @{ $page->{data} }, 1, 'a page that was waited for comes at once');
is($t->json($page->{data}[0]{data})->{error}{code}, 'stream_abandoned', 'with the error');

# A stream that nobody can come back to, and a whole answer.
($c, $id) = begin('/plain/', 'early');
is($id, undef, 'a stream without a name');
$c->close;
$t->wait_for(sub { streams_open() == $before }, 10, 'no stream is open');
is($mock->stats->{open}, 2, 'is waited for, too');

# A model of our own costs nothing: there is nothing to wait for.
($c) = begin('/drain/', 'demo');
$c->close;
$t->wait_for(sub { $t->metric('aiq_jobs_open') == 2 }, 20, 'our own model stops');
pass('our own model stops at once');

$t->finish;
done_testing();
