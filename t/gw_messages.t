# POST /v1/messages: what goes to a provider of Anthropic's dialect as it came, what
# another one gets, and how errors look.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Dialects;

plan(skip_all => 'the mock needs Node and the SDKs') if !AIQ::Dialects->available;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

$t->conf($mock->providers . "
    aiq_provider local { dialect local; model demo %%ROOT%%/demo/demo.gguf; }
    aiq_model native { target anthropic model=plain; }
    aiq_model other  { target openai model=plain; }
    aiq_model both   { target openai model=plain; target anthropic model=plain; }
    aiq_model broken { target openai model=broken; }
    aiq_model demo   { target local; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /health { aiq_health; } }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

my $hi = '"messages":[{"role":"user","content":"Hi"}]';

sub ask {
    my ($path, $body, @headers) = @_;
    return $t->post($path, $body, headers => \@headers);
}

# the same dialect
my $r = ask('/v1/messages', qq({"new_field": {"x" :1}, "model" : "native","max_tokens":9,$hi}),
    'anthropic-version' => '2099-01-01', 'anthropic-beta' => 'future', 'x-api-key' => 'the-clients');
is($r->{status}, 200, 'native: status');
is($t->json($r)->{content}[0]{text}, "Hello w\x{f6}rld!", 'native: the answer');
my $got = ($mock->requests)[-1];
is_deeply($got->{body}{new_field}, { x => 1 }, 'unknown fields pass');
is($got->{body}{model}, 'plain', 'the model has the name that the target gives it');
is($got->{headers}{'anthropic-version'}, '2099-01-01', "the client's version of the API");
is($got->{headers}{'anthropic-beta'}, 'future', 'and its betas');
is($got->{headers}{'x-api-key'}, 'sk-mock', "but the provider's key");
is($r->{headers}{'x-aiq-provider'}, 'anthropic', 'who has answered');

$r = ask('/v1/messages', qq({"model":"native","max_tokens":9,"stream":true,$hi}));
like($r->{headers}{'content-type'}, qr{^text/event-stream}, 'native: a stream');
my @events = $r->{body} =~ /^event: (\w+)$/mg;
is_deeply([ @events[0, 1, -1] ], [qw(message_start ping message_stop)], 'every event passes, with its name');

# another dialect
$r = ask('/v1/messages', qq({"model":"other","max_tokens":9,"stream":true,$hi}));
is(join(' ', $r->{body} =~ /^event: (\w+)$/mg),
    'message_start content_block_start ' . 'content_block_delta ' x 3 . 'content_block_stop message_delta message_stop',
    'another provider: the events of a text');
$got = ($mock->requests)[-1];
is($got->{path}, '/v1/chat/completions', 'it was asked in its own words');
is($got->{headers}{authorization}, 'Bearer sk-mock', 'with its key');
ok(!exists $got->{headers}{'anthropic-version'}, "and no word of Anthropic's");

$r = ask('/v1/messages', qq({"model":"other","max_tokens":9,"new_field":1,$hi}));
is($r->{status}, 400, 'what it cannot do: status');
is($t->json($r)->{error}{type}, 'invalid_request_error', 'type');
like($t->json($r)->{error}{message}, qr/'new_field'/, 'the message names the field');
is($t->json($r)->{request_id}, $r->{headers}{'x-request-id'}, 'and the request');

$r = ask('/v1/messages', qq({"model":"both","max_tokens":9,"new_field":1,$hi}));
is($r->{status}, 200, 'a target that can do it is asked instead');
is($r->{headers}{'x-aiq-provider'}, 'anthropic', 'which one');

# errors
$r = ask('/v1/messages', qq({"model":"broken","max_tokens":9,"stream":true,$hi}));
like($r->{body}, qr/\nevent: error\ndata: \{"type":"error","error":\{"type":"api_error"[^\n]*\}\n\n$/, 'an error in a stream is its last event');
unlike($r->{body}, qr/message_stop/, 'which then has no other end');
for (['{', qr/JSON/], [qq({"model":"native",$hi}), qr/max_tokens/], ['{"model":"native","max_tokens":1}', qr/messages/],
    ['{"model":"native","max_tokens":1,"messages":[{"role":"god","content":"x"}]}', qr/messages\[0\]\.role/]) {
    $r = ask('/v1/messages', $_->[0]);
    is($r->{status}, 400, "$_->[0]: status");
    like($t->json($r)->{error}{message}, $_->[1], "$_->[0]: message");
}

# a local model
$r = ask('/v1/messages', qq({"model":"demo","max_tokens":20,"temperature":0,"system":"Be short.",$hi}));
is($t->json($r)->{type}, 'message', 'a local model');
ok(length $t->json($r)->{content}[0]{text}, 'answers');
ok($t->json($r)->{usage}{output_tokens} > 0, 'with usage');
$r = ask('/v1/messages', qq({"model":"demo","max_tokens":20,"tools":[{"name":"a b","input_schema":{}}],$hi}));
is($r->{status}, 400, 'what it cannot take is a 400');
like($t->json($r)->{error}{message}, qr/Tool 0 must have a name/, 'that says why');
my $image = '{"type":"image","source":{"type":"url","url":"https://x/y"}}';
for ([qq("stop_sequences":[""],$hi), qr/^'stop_sequences' must be made of strings/], [qq("stop_sequences":"x",$hi), qr/^'stop_sequences' must be an array/],
    [qq("output_config":{"effort":"extreme"},$hi), qr/^'output_config\.effort' must be one of/],
    [qq("output_config":{"format":{"type":"json_schema","schema":{"type":"strin"}}},$hi), qr/^'output_config\.format': the schema's type/],
    [qq("system":"Look.","messages":[{"role":"user","content":[$image]}]), qr/^'messages' has a part that is not text/]) {
    $r = ask('/v1/messages', qq({"model":"demo","max_tokens":9,$_->[0]}));
    is($r->{status}, 400, "$_->[0]: status");
    like($t->json($r)->{error}{message}, $_->[1], "$_->[0]: named as the client names it");
}

$t->finish;
done_testing;
