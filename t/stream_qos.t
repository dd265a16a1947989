# X-AIQ-QoS: what it takes, and what a guaranteed stream is while its engine lives: it goes on
# without its client, keeps all of it for whoever is slow or comes late, and a failure before
# its first event is a plain error.

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

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_stream_buffer 16k;
    aiq_stream_grace 0;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ $mock->models(qw(mock-stream-20x10ms mock-stream-1000x0ms mock-stream-50x30ms mock-500 mock-400 mock-reset-mid mock-chat)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /off/        { aiq_stream_buffer 0; aiq_pass gateway /v1/; }
        location = /metrics   { aiq_jwt off; aiq_metrics; }
    }");
$t->start;

my %token = map { $_ => $key->token(sub => 'ann', tenant => $_) } qw(acme bolt);
my @acme = (Authorization => "Bearer $token{acme}");

sub ask {
    my ($path, $model, $qos, %more) = @_;

    return $t->post($path, $t->chat($model, 'hi', stream => JSON::PP::true, %more),
        headers => [ @acme, 'Content-Type' => 'application/json', defined $qos ? ('X-AIQ-QoS' => $qos) : () ]);
}

sub begin {
    my ($model) = @_;
    my $c = $t->connect;

    $c->request('POST', '/v1/chat/completions', headers => [ @acme, 'X-AIQ-QoS' => 'guaranteed' ],
        body => $t->chat($model, 'hi', stream => JSON::PP::true));
    return ($c, $c->head->{headers}{'x-aiq-stream'});
}

sub again {
    my ($id, %arg) = @_;

    return $t->get("/v1/streams/$id" . ($arg{args} // ''),
        headers => [ $arg{who} ? (Authorization => "Bearer $token{$arg{who}}") : @acme, @{ $arg{headers} // [ Accept => 'text/event-stream' ] } ]);
}

# What is asked.
for my $case ([ '/v1/chat/completions', 'exactly-once', {}, 'another value' ],
    [ '/v1/chat/completions', 'guaranteed', { stream => JSON::PP::false }, 'a whole answer' ],
    [ '/off/chat/completions', 'guaranteed', {}, 'where streams are not kept' ])
{
    my ($path, $qos, $more, $what) = @$case;
    my $r = ask($path, 'mock-stream-20x10ms', $qos, %$more);
    is($r->{status}, 400, "$what: refused");
    is($t->json($r)->{error}{param}, 'x-aiq-qos', 'and the header is named');
}
is(ask('/v1/chat/completions', 'mock-chat', 'best-effort', stream => JSON::PP::false)->{status}, 200, 'best-effort: as ever');

# The same as another stream.
my $plain = ask('/v1/chat/completions', 'mock-stream-20x10ms');
my $r = ask('/v1/chat/completions', 'mock-stream-20x10ms', 'guaranteed');
is($r->{status}, 200, 'guaranteed: a stream');
my $id = $r->{headers}{'x-aiq-stream'};
like($id, qr/^strm_/, 'with a name');
is_deeply([ $r->{body} =~ /^id: (.*)$/mg ], [ $plain->{body} =~ /^id: (.*)$/mg ], 'numbered as any');
like($r->{body}, qr/data: \[DONE\]\n\n\z/, 'to its end');
is(again($id)->{body}, $r->{body}, 'again, to the byte');
is(again($id, who => 'bolt')->{status}, 404, 'not for another tenant');
is(again($id, headers => [ Accept => 'text/event-stream', 'Last-Event-ID' => 999 ])->{status}, 400, 'not beyond its end');
my ($last) = reverse $r->{body} =~ /^id: (.*)$/mg;
is(again($id, headers => [ Accept => 'text/event-stream', 'Last-Event-ID' => $last ])->{status}, 204, 'nothing more after its end');

# Its client leaves at once.
my ($c, $left) = begin('mock-stream-50x30ms');
$c->piece;
$c->close;
$r = again($left);
like($r->{body}, qr/\Aretry: 2000\nid: 1\n.*data: \[DONE\]\n\n\z/s, 'it goes on without a client');

# More than memory keeps, for one who has not read yet, and then for one who comes late.
my ($slow, $long) = begin('mock-stream-1000x0ms');
like(again($long)->{body}, qr/data: \[DONE\]\n\n\z/, 'it waits for nobody');
my $text = $slow->rest;
is_deeply([ $text =~ /^id: (.*)$/mg ], [ 1 .. 1003 ], 'who was slow has all of it');
is(again($long)->{body}, $text, 'and so has who comes late');

# As JSON.
my @seq;
my $page = { next => 0 };
do {
    $page = $t->json(again($long, args => "?after=$page->{next}", headers => []));
    push @seq, map { $_->{seq} } @{ $page->{data} };
} until $page->{done};
is_deeply(\@seq, [ 1 .. 1003 ], 'by pages, too');

# After a restart it is there.
$t->stop('engine');
$t->start_engine;
$t->wait_for_links(2);
is(again($id)->{status}, 200, 'there after a restart');
is(again($long)->{body}, $text, 'to the byte');
@seq = ();
$page = { next => 0 };
do {
    my $r = again($long, args => "?after=$page->{next}&wait=5s", headers => []);
    $page = $t->json($r);
    push @seq, map { $_->{seq} } @{ $page->{data} };
} until $page->{done};
is_deeply(\@seq, [ 1 .. 1003 ], 'by pages, too');
is(again($id, who => 'bolt')->{status}, 404, 'still not for another tenant');
is(again('strm_' . '0' x 26)->{status}, 404, 'what never was is not found');

# Failures.
$r = ask('/v1/chat/completions', 'mock-500', 'guaranteed');
is($r->{status}, 502, 'a failure before the first event is a plain error') or diag $r->{body};
is($r->{headers}{'x-aiq-stream'}, undef, 'without a name');
$r = ask('/v1/chat/completions', 'mock-400', 'guaranteed');
is($r->{status}, 400, 'so is a refusal');
is($r->{headers}{'x-aiq-stream'}, undef, 'without a name');
$r = ask('/v1/chat/completions', 'mock-reset-mid', 'guaranteed');
like($r->{body}, qr/"code":"provider_error"/, 'in the middle it is an event');
is(again($r->{headers}{'x-aiq-stream'})->{body}, $r->{body}, 'which is kept');

$t->wait_for(sub { $t->metric('aiq_streams_guaranteed') == 0 }, 10, 'none goes on');
is($t->metric('aiq_streams_unstored_bytes'), 0, 'nothing waits for the store');
cmp_ok($t->metric('aiq_streams_stored_events_total'), '>', 0, 'events were stored');

$t->finish;
done_testing();
