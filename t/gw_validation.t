# What a chat request must look like, and what the caller is told otherwise.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-chat') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        client_max_body_size 0;
        location /v1/ { aiq_pass gateway; }
        location /small/ { aiq_pass gateway /v1/; aiq_max_body_size 1k; }
    }");
$t->start;

my @json = (headers => [ 'Content-Type' => 'application/json' ]);
my $user = '[{"role":"user","content":"hi"}]';

sub refused {
    my ($name, $body, $param, $code, $status) = @_;
    my $r = $t->post('/v1/chat/completions', $body, @json);
    my $e = ($t->json($r) // {})->{error} // {};

    is($r->{status}, $status // 400, "$name: status");
    is($e->{param}, $param, "$name: param");
    is($e->{code},  $code,  "$name: code");
    is($e->{type}, 'invalid_request_error', "$name: type");
    like($e->{message}, qr/^\S.*\.$/, "$name: a sentence");
    like($r->{headers}{'content-type'}, qr{^application/json}, "$name: JSON");
}

sub chat { return '{"model":"mock-chat","messages":' . $user . ",$_[0]}" }
sub with_messages { return '{"model":"mock-chat","messages":' . "$_[0]}" }

# no JSON
my $deep = '[' x 100_000 . ']' x 100_000;
refused('empty',         '',                       undef, 'invalid_json');
refused('text',          'hello',                  undef, 'invalid_json');
refused('array',         '[]',                     undef, 'invalid_json');
refused('cut',           '{"model":"mock-chat"',   undef, 'invalid_json');
refused('trailing',      chat('"n":1') . 'x',      undef, 'invalid_json');
refused('nested',        chat("\"x\":$deep"),      undef, 'invalid_json');
refused('invalid UTF-8', chat("\"x\":\"\xff\""),   undef, 'invalid_json');
refused('NUL',           chat("\"x\":\"a\0b\""),   undef, 'invalid_json');
refused('NUL outside',   chat('"n":1') . "\0",     undef, 'invalid_json');
refused('two models',    '{"model":"a","model":"b","messages":[]}', undef, 'invalid_json');

# fields that every request has
refused('no model',       "{\"messages\":$user}",             'model', 'missing_required_parameter');
refused('model: number',  "{\"model\":1,\"messages\":$user}", 'model', 'invalid_type');
refused('unknown model',  "{\"model\":\"x\",\"messages\":$user}", 'model', 'model_not_found', 404);
refused('odd model',      "{\"model\":\"a\\u0000\\n\\\"\",\"messages\":$user}", 'model', 'model_not_found', 404);
refused('no messages',    '{"model":"mock-chat"}',            'messages', 'missing_required_parameter');
refused('messages: text', with_messages('"hi"'),              'messages', 'invalid_type');
refused('no message',     with_messages('[]'),                'messages', 'invalid_value');
refused('a text',         with_messages('["hi"]'),            'messages[0]', 'invalid_type');
refused('no role',        with_messages('[{"content":"x"}]'), 'messages[0].role', 'missing_required_parameter');
refused('role: number',   with_messages('[{"role":1}]'),      'messages[0].role', 'invalid_type');
refused('role: unknown',  with_messages('[{"role":"god","content":"x"}]'), 'messages[0].role', 'invalid_value');
refused('no content',     with_messages('[{"role":"user","content":"x"},{"role":"user"}]'),
    'messages[1].content', 'missing_required_parameter');
refused('content: null',   with_messages('[{"role":"user","content":null}]'), 'messages[0].content', 'invalid_type');
refused('content: number', with_messages('[{"role":"user","content":7}]'),    'messages[0].content', 'invalid_type');
refused('content: []',     with_messages('[{"role":"user","content":[]}]'),   'messages[0].content', 'invalid_value');
refused('part: text',      with_messages('[{"role":"user","content":["x"]}]'), 'messages[0].content[0]', 'invalid_type');
refused('part: no type',   with_messages('[{"role":"user","content":[{}]}]'),
    'messages[0].content[0].type', 'missing_required_parameter');
refused('part: no text',   with_messages('[{"role":"user","content":[{"type":"text"}]}]'),
    'messages[0].content[0].text', 'missing_required_parameter');

# options
refused($_->[0], chat($_->[1]), $_->[2], $_->[3]) for (
    [ 'stream: text',       '"stream":"yes"',          'stream',         'invalid_type' ],
    [ 'stream_options',     '"stream_options":{}',     'stream_options', 'invalid_value' ],
    [ 'stream_options: []', '"stream":true,"stream_options":[]', 'stream_options', 'invalid_type' ],
    [ 'include_usage: 1',   '"stream":true,"stream_options":{"include_usage":1}',
        'stream_options.include_usage', 'invalid_type' ],
    [ 'max_tokens: 0',      '"max_tokens":0',          'max_tokens',     'invalid_value' ],
    [ 'max_tokens: 1.5',    '"max_tokens":1.5',        'max_tokens',     'invalid_value' ],
    [ 'max_tokens: text',   '"max_tokens":"9"',        'max_tokens',     'invalid_type' ],
    [ 'max_completion_tokens', '"max_completion_tokens":-1', 'max_completion_tokens', 'invalid_value' ],
    [ 'temperature: 3',     '"temperature":3',         'temperature',    'invalid_value' ],
    [ 'temperature: text',  '"temperature":"hot"',     'temperature',    'invalid_type' ],
    [ 'top_p: 1.1',         '"top_p":1.1',             'top_p',          'invalid_value' ],
    [ 'n: 0',               '"n":0',                   'n',              'invalid_value' ],
    [ 'seed: 1.5',          '"seed":1.5',              'seed',           'invalid_value' ],
    [ 'stop: number',       '"stop":1',                'stop',           'invalid_type' ],
    [ 'stop: five',         '"stop":["1","2","3","4","5"]', 'stop',      'invalid_value' ],
    [ 'stop: [1]',          '"stop":[1]',              'stop',           'invalid_type' ],
);

# the rest of HTTP
my $r = $t->get('/v1/nothing');
is($r->{status}, 404, 'unknown path');
is($t->json($r)->{error}{code}, 'not_found', 'unknown path: code');

$r = $t->get('/v1/chat/completions');
is($r->{status}, 405, 'wrong method');
is($t->json($r)->{error}{code}, 'method_not_allowed', 'wrong method: code');

for my $how ([ body => chat('"n":1,"x":"' . 'y' x 2000 . '"') ], [ chunks => [ chat('"x":"' . 'y' x 2000 . '"') ] ]) {
    $r = $t->http('POST', '/small/chat/completions', @$how, @json);
    is($r->{status}, 413, "a body over the limit: $how->[0]");
    is($t->json($r)->{error}{code}, 'body_too_large', "a body over the limit: $how->[0]: code");
}

# nothing of that has reached the provider, and the worker serves on
is(scalar(grep { $_->{head} =~ /^POST/ } $mock->requests), 0, 'the provider has seen nothing of it');
for my $body (chat('"temperature":2,"top_p":0,"n":null,"stop":"x","unknown":{"deep":[1]}'),
    with_messages('[{"role":"assistant","content":null,"tool_calls":[]},{"role":"developer","content":[{"type":"text","text":"x"},{"type":"image_url","image_url":{}}]}]')) {
    is($t->post('/v1/chat/completions', $body, @json)->{status}, 200, 'a good request');
    is(($mock->requests)[-1]{body}, $body, 'went out as it came');
}

$t->finish;
done_testing;
