# Each family of models writes calls of tools its own way, and some think first: a template says
# which. Here it is the demo model in other templates, held to its format by a grammar.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Command;
use AIQ::GGUF;
use AIQ::Test;

my $t = AIQ::Test->new;
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    . "{{ '<|im_start|>assistant\n' }}";
my $tools = '{% if tools %}{{ tools | tojson }}{% endif %}';
my %models = (
    hermes  => "{# <tool_call> #}$tools$turns",
    mistral => "{# [TOOL_CALLS] #}$tools$turns",
    named   => "{# [TOOL_CALLS] [ARGS] #}$tools$turns",
    llama   => "{# <|python_tag|> #}$tools$turns",
    phi     => "{# <|tool|> #}$tools$turns",
    thinks  => "$turns<think>\n",
    may     => "$turns<think>\n{% if enable_thinking is defined and not enable_thinking %}</think>\n{% endif %}",
);
for my $name (keys %models) {
    with_template("$AIQ::Test::ROOT/demo/demo.gguf", $t->dir . "/$name.gguf", $models{$name});
}

$t->conf('aiq_provider local { dialect local; ' . join(' ', map { "model $_ %%DIR%%/$_.gguf;" } sort keys %models) . '}'
    . join("\n", map { "aiq_model $_ { target local model=$_; }" } sort keys %models) . "
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 30, 'the models are loaded');

my $tool = { type => 'function', function => { name => 'switch', parameters => { type => 'object', required => ['on'],
    properties => { on => { type => 'boolean' } }, additionalProperties => $false } } };

sub ask {
    my ($model, %body) = @_;

    return $t->post('/v1/chat/completions', JSON::PP::encode_json({ model => $model, max_tokens => 100, temperature => 0,
        messages => [ { role => 'user', content => 'What is aiq?' } ], %body }),
        headers => [ 'Content-Type' => 'application/json' ]);
}

for my $name (grep { !/^(thinks|may)$/ } sort keys %models) {
    my %required = (max_tokens => 200, tools => [$tool], tool_choice => 'required', parallel_tool_calls => $false);
    my $r = ask($name, %required);
    my $message = $t->json($r)->{choices}[0]{message};
    my $call = $message->{tool_calls}[0]{function};

    is($call->{name}, 'switch', "$name: a call") or diag $r->{body};
    like($call->{arguments}, qr/^\{\s*"on"\s*:\s*(true|false)\s*\}$/, "$name: its arguments");
    ok(!defined $message->{content}, "$name: and no text");

    my @deltas = map { $t->json($_)->{choices}[0]{delta} } grep { $_ ne '[DONE]' }
        ask($name, %required, stream => $true)->{body} =~ /^data: (.*)$/mg;
    is(join('', map { $_->{tool_calls}[0]{function}{arguments} // '' } @deltas), $call->{arguments}, "$name: streamed");
    is(join('', map { $_->{content} // '' } @deltas), '', "$name: without text");

    my $text = $t->json(ask($name, tools => [$tool]))->{choices}[0]{message};
    ok(length($text->{content} // '') || $text->{tool_calls}, "$name: text where it does not call");

    my @talk = ({ role => 'user', content => 'x' }, $message, { role => 'tool', content => 'ok',
        tool_call_id => $message->{tool_calls}[0]{id} });
    is(ask($name, tools => [$tool], messages => \@talk)->{status}, 200, "$name: it goes on");
}

sub thought_tokens { return $_[0]{usage}{completion_tokens_details}{reasoning_tokens} }

# where one call is allowed, its end is that of the answer; the model is made to begin with a brace, and that is a
# call in Llama's format
my $brace = run([ aiq(), 'tokenize', '--model', $t->dir . '/llama.gguf' ], in => '{')->{out} + 0;
my %begins = (tools => [$tool], logit_bias => { $brace => 100 }, max_tokens => 200);
my $alone = $t->json(ask('llama', %begins, parallel_tool_calls => $false))->{choices}[0];
is($alone->{finish_reason}, 'tool_calls', 'the only call ends the answer') or diag explain $alone;
is_deeply([ map { $_->{function}{name} } @{ $alone->{message}{tool_calls} } ], ['switch'], 'it is one');
is($t->json(ask('llama', %begins))->{choices}[0]{finish_reason}, 'length', 'where several are allowed the model speaks on');
my $endless = { type => 'function', function => { name => 'f', parameters => { '$ref' => '#' } } };
is(ask('llama', %begins, tools => [$endless], parallel_tool_calls => $false)->{status}, 200,
    'a schema that nothing can meet is no matter where it is not strict');

# the prompt begins a thought that does not end
my $answer = $t->json(ask('thinks'));
my $message = $answer->{choices}[0]{message};
ok(length $message->{reasoning_content}, 'a thought');
ok(!defined $message->{content}, 'is no text');
is(thought_tokens($answer), $answer->{usage}{completion_tokens}, 'all of its tokens are thoughts');
my @chunks = map { $t->json($_) } grep { $_ ne '[DONE]' }
    ask('thinks', stream => $true, stream_options => { include_usage => $true })->{body} =~ /^data: (.*)$/mg;
is(join('', map { $_->{choices}[0]{delta}{reasoning_content} // '' } @chunks), $message->{reasoning_content}, 'streamed');
is(thought_tokens($chunks[-1]), thought_tokens($answer), 'with the same usage');
my $response = $t->json($t->post('/v1/responses', JSON::PP::encode_json({ model => 'thinks', input => 'What is aiq?',
    max_output_tokens => 20, temperature => 0 }), headers => [ 'Content-Type' => 'application/json' ]));
is($response->{usage}{output_tokens_details}{reasoning_tokens}, 20, 'and as a response');
is(thought_tokens($t->json(ask('hermes'))), 0, 'a model that does not think has none');
my $format = { type => 'json_schema', json_schema => { name => 'x', schema => { enum => [ 'yes', 'no' ] } } };
$message = $t->json(ask('thinks', response_format => $format))->{choices}[0]{message};
like($message->{content}, qr/^"(yes|no)"$/, 'an answer in a format is none');

# who may think does not where the client says so, each in its own words
sub post { return $t->json($t->post(shift, JSON::PP::encode_json({ model => 'may', @_ }),
    headers => [ 'Content-Type' => 'application/json' ])) }
my @question = (messages => [ { role => 'user', content => 'What is aiq?' } ], temperature => 0);
for my $case (
    [ 'chat', sub { my $m = post('/v1/chat/completions', @question, max_tokens => 9, @_)->{choices}[0]{message};
        defined $m->{reasoning_content} ? 'thinking' : 'text' }, [ reasoning_effort => 'none' ], [ reasoning_effort => 'low' ] ],
    [ 'messages', sub { post('/v1/messages', @question, max_tokens => 9, @_)->{content}[0]{type} },
        [ thinking => { type => 'disabled' } ], [ thinking => { type => 'enabled', budget_tokens => 2000 } ] ],
    [ 'messages with an effort', sub { post('/v1/messages', @question, max_tokens => 9, @_)->{content}[0]{type} },
        [ thinking => { type => 'disabled' }, output_config => { effort => 'max' } ], [ output_config => { effort => 'max' } ] ],
    [ 'responses', sub { post('/v1/responses', input => 'What is aiq?', max_output_tokens => 16, temperature => 0,
        @_)->{output}[0]{type} eq 'reasoning' ? 'thinking' : 'text' },
        [ reasoning => { effort => 'none' } ], [ reasoning => { effort => 'high' } ] ],
    ) {
    my ($name, $ask, $no, $yes) = @$case;
    is($ask->(@$no), 'text', "$name: no thoughts");
    is($ask->(@$yes), 'thinking', "$name: thoughts");
    is($ask->(), 'thinking', "$name: as the model does unasked");
}

$t->finish;
done_testing;
