# /ws: a provider whose events are no JSON: the engine lives, and what was said is passed as a text
# or ends the chat with an error; others notice nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Script;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;
my $good = 'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}';
my $provider = AIQ::Script->new($t,
    word   => [ $good, 'data: hello', $good, 'data: [DONE]' ],
    half   => [ $good, 'data: {"choices":[{"index":0,"delta":{"content":"a', 'data: [DONE]' ],
    bytes  => [ $good, "data: {\"a\":\"\xff\xfe\"}", "data: \xff", 'data: [DONE]' ],
    number => [ $good, 'data: 17', 'data: [1', 'data: [DONE]' ]);

$t->conf("
    aiq_provider p { dialect openai; url @{[ $provider->url ]}; retry 1; }
    @{[ map { qq{aiq_model $_ { target p; }} } qw(word half bytes number) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location = /ws { aiq_websocket; aiq_pass events; }
    }");
$t->start;

my $ws = AIQ::WebSocket->new($t, '/ws');
is($ws->event->{type}, 'state', 'a connection');
for my $model (qw(word half bytes number)) {
    for my $qos ('best-effort', 'guaranteed') {
        my @types;
        $ws->say(type => 'chat', id => 'c', headers => { 'x-aiq-qos' => $qos },
            body => { model => $model, messages => [ { role => 'user', content => 'hi' } ] });
        while (my $e = $ws->event) {
            push @types, $e->{type};
            last if $e->{type} =~ /^(done|error)$/;
        }
        like("@types", qr/^(?:started (?:delta )*)?(?:done|error)$/, "$model, $qos: it ends");
    }
}
$ws->say(type => 'ping', id => 'p');
is($ws->event->{type}, 'pong', 'and the connection goes on');

$t->finish;
done_testing();
