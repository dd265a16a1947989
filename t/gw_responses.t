# POST /v1/responses: what a provider is asked, what a client gets on the wire, also when
# something breaks, and what a local model makes of it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_provider local { dialect local; model demo %%ROOT%%/demo/demo.gguf; }
    aiq_model chat   { target mock model=mock-chat input=1 output=10; }
    aiq_model hangs  { target mock model=mock-hang-mid; }
    aiq_model resets { target mock model=mock-reset-mid; }
    aiq_model fails  { target mock model=mock-400; }
    aiq_model demo   { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /budget/ { aiq_budget tenant 1usd/day; aiq_pass gateway /v1/; }
        location /health { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

sub ask {
    my ($model, $more, $path) = @_;
    return $t->post($path // '/v1/responses', qq({"model":"$model","input":"hi"$more}));
}

# whole, and as a stream
my $r = ask('chat', '');
is($r->{status}, 200, 'a response');
my $response = $t->json($r);
is("$response->{object} $response->{status}", 'response completed', 'is one');
is($response->{output}[0]{content}[0]{type}, 'output_text', 'with a text');
is($r->{headers}{'x-aiq-provider'}, 'mock', 'and who has answered');

$r = ask('chat', ',"stream":true');
like($r->{headers}{'content-type'}, qr{^text/event-stream}, 'a stream');
my @events = $r->{body} =~ /^event: (\S+)$/mg;
is_deeply([ @events[0 .. 4] ],
    [map { "response.$_" } qw(created in_progress output_item.added content_part.added output_text.delta)], 'its beginning');
is_deeply([ @events[-4 .. -1] ],
    [map { "response.$_" } qw(output_text.done content_part.done output_item.done completed)], 'its end');
is_deeply([ $r->{body} =~ /"sequence_number":(\d+)/g ], [ 0 .. $#events ], 'its events are numbered');
unlike($r->{body}, qr/\[DONE\]/, 'and nothing comes behind them');

# errors
$r = ask('chat', ',"store":true');
is("$r->{status} " . $t->json($r)->{error}{param}, '400 store', 'nothing is kept');
$r = ask('none', '');
is("$r->{status} " . $t->json($r)->{error}{code}, '404 model_not_found', 'no such model');
$r = ask('fails', '');
is($r->{status}, 400, "a provider's refusal");
ok($t->json($r)->{error}{message}, 'in its own words');
$r = ask('resets', ',"stream":true');
like($r->{body}, qr/\nevent: error\ndata: \{"type":"error","sequence_number":\d+,"code":"\w+","message":"[^\n]*\}\n\n$/,
    'an error in a stream is its last event');
unlike($r->{body}, qr/response\.completed/, 'which has no other end then');

# budgets: the cap is the provider's to know, and an image has no bound
is(ask('chat', '', '/budget/responses')->{status}, 200, 'within a budget');
$r = $t->post('/budget/responses', '{"model":"chat","input":[{"role":"user","content":[{"type":"input_text","text":"a"},'
    . '{"type":"input_image","image_url":"https://x/y"}]}]}');
is("$r->{status} " . $t->json($r)->{error}{code}, '400 unbounded_request', 'but not what has no bound');

# a local model
$response = $t->json(ask('demo', ',"instructions":"Be short.","max_output_tokens":16,"temperature":0'));
ok(length $response->{output}[0]{content}[0]{text}, 'a local model');
ok($response->{usage}{output_tokens} > 0, 'and its usage');
$r = ask('demo', ',"tools":[{"type":"function","name":"a b","parameters":{}}]');
is("$r->{status} " . $t->json($r)->{error}{param}, '400 tools[0].function.name', 'what it cannot take is a 400');
for ([ 'reasoning.effort' => '"reasoning":{"effort":"extreme"}' ], [ 'text.format' => '"text":{"format":{"type":"json_schema","name":"x","schema":{"type":"strin"}}}' ],
    [ 'input' => '"instructions":"Be short.","input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x/y"}]}]' ]) {
    my $more = $_->[0] eq 'input' ? $_->[1] : qq("input":"hi",$_->[1]);
    my $e = $t->json($t->post('/v1/responses', qq({"model":"demo",$more})))->{error};
    is($e->{param}, $_->[0], "$_->[0]: named as the client names it");
    like($e->{message}, qr/^'\Q$_->[0]\E'/, "$_->[0]: in the message, too");
}

# the engine dies
my $c = $t->connect(seconds => 30);
$c->request('POST', '/v1/responses', body => '{"model":"hangs","input":"hi","stream":true}');
is($c->head->{status}, 200, 'a stream that stands still');
my $text = '';
$text .= $c->piece while $text !~ /output_text\.delta/;
$t->kill_hard('engine');
$text .= $c->rest;
like($text, qr/\nevent: error\ndata: \{"type":"error","error":\{[^\n]*\}\}\n\n$/, 'ends with an error when the engine dies');

$t->finish;
done_testing;
