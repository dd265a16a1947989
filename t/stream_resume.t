# A stream can be read again, from any event on, as events and as JSON, while it runs and
# when it is over: always the same bytes, with no gap and no repeat.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);
my $key = AIQ::JWT->new('EdDSA');
my $seed = $ENV{AIQ_SEED} // int(rand(1 << 30));

srand($seed);
note("seed $seed");
$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models(qw(mock-stream-200x2ms mock-stream-20x50ms mock-stream-3x0ms mock-chat)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /off/        { aiq_stream_buffer 0; aiq_pass gateway /v1/; }
    }", workers => 2);
$t->start;

my %token = map { $_ => $key->token(sub => 'ann', tenant => $_) } qw(acme bolt);
my @acme = (Authorization => "Bearer $token{acme}");
my @sse  = (Accept => 'text/event-stream');

sub begin {
    my ($path, $model, %more) = @_;
    my $c = $t->connect;

    $c->request('POST', $path, headers => [@acme],
        body => $t->chat($model, 'hi', stream => JSON::PP::true, %more));
    return ($c, $c->head->{headers}{'x-aiq-stream'});
}

# What has come by the time that so many bytes have; all of it: undef.
sub take {
    my ($c, $most) = @_;
    my $text = '';

    while (!defined $most || length $text < $most) {
        my $piece = $c->piece // last;
        $text .= $piece;
    }
    return defined $most ? substr($text, 0, $most) : $text;
}

# Whole events, each [id, type, data].
sub events {
    my ($text) = @_;

    return map {
        my ($id) = /^id: (\d+)$/m;
        my ($type) = /^event: (.*)$/m;
        [ $id, $type // 'message', join("\n", /^data: (.*)$/mg) ]
    } grep { /^data: /m } $text =~ /(.*?\n)\n/sg;
}

sub follow {
    my ($id, $after, @headers) = @_;
    my $c = $t->connect;

    $c->request('GET', "/v1/streams/$id", headers => [ @acme, @sse, @headers,
        $after ? ('Last-Event-ID' => $after) : () ]);
    return ($c, $c->head->{status});
}

sub page {
    my ($id, $args) = @_;
    return $t->get("/v1/streams/$id?$args", headers => [@acme]);
}

# The frames.
my ($c, $id) = begin('/v1/chat/completions', 'mock-stream-3x0ms');
my $text = take($c);
like($id, qr/^strm_[0-9A-HJKMNP-TV-Z]{26}$/, 'the reply names its stream');
like($text, qr/\Aretry: 2000\nid: 1\ndata: \{[^\n]*\}\n\n/, 'the first event says how to come back');
my @all = events($text);
is_deeply([ map { $_->[0] } @all ], [ 1 .. @all ], 'events are numbered from 1');
is($all[-1][2], '[DONE]', '[DONE] is one of them');

# Again, whole.
my $status;
($c, $status) = follow($id);
is($status, 200, 'it can be read again');
is($c->{head}{headers}{'content-type'}, 'text/event-stream', 'as events');
is($c->{head}{headers}{'x-aiq-stream'}, $id, 'which are of this stream');
is(take($c), $text, 'to the byte');
is_deeply([ (follow($id, scalar @all))[1] ], [204], 'who has had all has no reason to come again');

# As JSON.
my $r = page($id, 'after=0');
is($r->{headers}{'content-type'}, 'application/json', 'as JSON');
my $page = $t->json($r);
is_deeply([ map { [ $_->{seq}, $_->{type}, $_->{data} ] } @{ $page->{data} } ], \@all, 'the same events');
like($page->{data}[0]{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'with the time');
is_deeply([ $page->{next}, $page->{done} ], [ scalar @all, JSON::PP::true ], 'and where to go on: nowhere');
$page = $t->json(page($id, "after=$#all"));
is_deeply([ map { $_->{data} } @{ $page->{data} } ], ['[DONE]'], 'from an event on');
is($t->http('HEAD', "/v1/streams/$id", headers => [ @acme, @sse ])->{status}, 200, 'HEAD');

# Other dialects.
for my $path (qw(/v1/messages /v1/responses)) {
    my $c = $t->connect;
    my %body = $path =~ /messages/ ? (messages => [ { role => 'user', content => 'hi' } ], max_tokens => 99)
                                   : (input => 'hi');
    $c->request('POST', $path, headers => [@acme],
        body => JSON::PP::encode_json({ model => 'mock-chat', stream => JSON::PP::true, %body }));
    my $id = $c->head->{headers}{'x-aiq-stream'};
    my $text = take($c);
    my @events = events($text);
    is_deeply([ map { $_->[0] } @events ], [ 1 .. @events ], "$path: numbered");
    is(take((follow($id))[0]), $text, 'and read again');
    $page = $t->json(page($id, 'after=2'));
    is_deeply([ map { [ $_->{seq}, $_->{type}, $_->{data} ] } @{ $page->{data} } ], [ @events[ 2 .. $#events ] ], 'with their names');
}

# Cut at random bytes, and back again and again, over both workers and loops.
for my $round (1 .. 8) {
    my ($c, $id) = begin('/v1/chat/completions', 'mock-stream-200x2ms');
    my ($got, $cuts) = ('', 0);
    for (;;) {
        my $some = take($c, $cuts < 12 ? int(rand(6000)) : undef);
        my @have = events($some);
        $some =~ s/\Aretry: 2000\n(?!id: 1\n)//;
        $got .= $1 if $some =~ /\A(.*\n\n)/s;    # what is not whole is thrown away
        last if @have && $have[-1][2] eq '[DONE]';
        $c->close;
        $cuts++;
        my ($seen) = reverse $got =~ /^id: (\d+)$/mg;
        ($c, $status) = follow($id, $seen);
        $status == 200 or last;
    }
    my $whole = take((follow($id))[0]);
    is(length($got), length($whole), "round $round: all bytes after $cuts cuts");
    ok($got eq $whole, 'and the same');
    is(scalar(events($whole)), 203, 'all events');
}

# Several at once, each at its own pace: one that reads nothing is nobody's concern.
($c, $id) = begin('/v1/chat/completions', 'mock-stream-20x50ms');
my @readers = map { (follow($id))[0] } 1 .. 5;
my @waits = map { my $w = $t->connect; $w->request('GET', "/v1/streams/$id?after=1&wait=20s", headers => [@acme]); $w } 1 .. 2;
my ($dead) = follow($id);
my ($gone) = follow($id);
$gone->close;
my $whole = take($c);
is(take($_), $whole, 'a reader has it all') for @readers;
is($t->json($_->response)->{data}[0]{seq}, 2, 'who waited for the second event has it') for @waits;

# Waiting.
($c, $id) = begin('/v1/chat/completions', 'mock-stream-20x50ms');
my ($next, $done, @polled) = (0, 0);
while (!$done) {
    my $page = $t->json(page($id, "after=$next&wait=20s"));
    ok(@{ $page->{data} } || $page->{done}, 'an answer has something') or last;
    push @polled, map { [ $_->{seq}, $_->{type}, $_->{data} ] } @{ $page->{data} };
    ($next, $done) = @{$page}{qw(next done)};
}
is_deeply(\@polled, [ events(take($c)) ], 'one after the other: the same again');

# Who may not, and what is none.
is($t->get("/v1/streams/$id", headers => [ Authorization => "Bearer $token{bolt}" ])->{status}, 404, 'not another tenant');
is($t->json($t->get("/v1/streams/$id", headers => [ Authorization => "Bearer $token{bolt}" ]))->{error}{code}, 'stream_not_found', 'for whom there is none');
is($t->get("/v1/streams/$id")->{status}, 401, 'nor nobody');
is(page($_, '')->{status}, 404, "no stream: $_") for qw(strm_x run_01JZZZZZZZZZZZZZZZZZZZZZZZ x), 'strm_' . '0' x 26;
for my $wrong ('after=x', 'after=-1', 'after=', 'wait=61s', 'wait=1h', 'wait=', 'after=99999') {
    $r = page($id, $wrong);
    is($r->{status}, 400, $wrong);
    like($t->json($r)->{error}{param}, qr/^(?:after|wait)$/, 'names it');
}
is($t->post("/v1/streams/$id", '', headers => [@acme])->{status}, 405, 'it is only read');

# Where none are kept.
($c, $id) = begin('/off/chat/completions', 'mock-stream-3x0ms');
is($id, undef, 'aiq_stream_buffer 0: no stream');
unlike(take($c), qr/^(?:id|retry):/m, 'and no numbers');

$t->finish;
done_testing();
