# An answer that the client of Anthropic's API begins, by a local model: what comes behind it,
# what it counts, and what goes together with no beginning.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::GGUF;
use AIQ::Test;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";
my $talk = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    . "{{ '<|im_start|>assistant\n' }}";

with_template($demo, $t->dir . '/thinks.gguf', "$talk\{{ '<think>' }}");
with_template($demo, $t->dir . '/may.gguf', "$talk\{% if enable_thinking is not false %}{{ '<think>' }}{% endif %}");
$t->conf("
    aiq_provider local { dialect local; model demo $demo; model thinks %%DIR%%/thinks.gguf; model may %%DIR%%/may.gguf; }
    aiq_model demo { target local; }
    aiq_model thinks { target local; }
    aiq_model may { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the models are loaded');

my @question = ({ role => 'user', content => 'What is aiq?' });

sub ask {
    my ($path, $begun, %body) = @_;
    my @messages = (@question, defined $begun ? { role => 'assistant', content => $begun } : ());

    return $t->post("/v1/$path", JSON::PP::encode_json({ model => 'demo', messages => \@messages, %body }));
}

sub say { return ask('messages', shift, temperature => 0, max_tokens => 200, @_) }
sub text { return $_[0]{content}[0]{text} }
sub prompt { return $_[0]{usage}{input_tokens} + $_[0]{usage}{cache_read_input_tokens} }

# what comes behind it, and no more
my $whole = $t->json(say(undef));
my ($begun, $rest) = text($whole) =~ /^(\S+ \S+)( .+)$/s;
my $r = say($begun);
is($r->{status}, 200, 'an answer goes on') or diag $r->{body};
my $on = $t->json($r);
is(text($on), $rest, 'what comes behind its beginning');
is($on->{stop_reason}, 'end_turn', 'to the same end');
is(prompt($on) + $on->{usage}{output_tokens}, prompt($whole) + $whole->{usage}{output_tokens},
    'what was given counts as given');
my @parts = ({ type => 'thinking', thinking => 'Hm.', signature => 'x' },
    map { { type => 'text', text => $_ } } $begun =~ /^(\S+)(.*)$/s);
is(text($t->json(say(\@parts))), $rest, 'in blocks, without their thoughts');
is(text($t->json(say($begun, thinking => { type => 'disabled' }))), $rest, 'where thoughts are turned off');
is(text($t->json(say($begun, model => 'may'))), $rest, 'and by a model that can do without');
$r = say($begun, stream => JSON::PP::true);
is(join('', map { $t->json($_)->{delta}{text} // '' } $r->{body} =~ /^data: (.*)$/mg), $rest, 'in a stream');
is($t->json(say($begun, max_tokens => 2))->{usage}{output_tokens}, 2, 'max_tokens are of what is new');
is(text($t->json(say($begun, stop_sequences => [ substr($rest, 3, 4) ]))), substr($rest, 0, 3), 'and so are stop sequences');

is($t->json(ask('messages', undef, max_tokens => 5, messages => [ { role => 'assistant', content => 'aiq' } ]))->{usage}{output_tokens}, 5,
    'where nothing was asked');

# tools that need not be called
my @tools = (tools => [ { name => 'look', strict => JSON::PP::true, input_schema => { type => 'object', properties => {},
    additionalProperties => JSON::PP::false } } ]);
is($t->json(say($begun, @tools, max_tokens => 5))->{usage}{output_tokens}, 5, 'with tools that may be called');

# counted as it is read
is_deeply($t->json(ask('messages/count_tokens', $begun)), { input_tokens => prompt($on) }, 'its tokens are counted');
cmp_ok(prompt($on), '>', prompt($whole), 'more than without');

# in OpenAI's API it is an answer that has ended
$r = ask('chat/completions', $begun, temperature => 0, max_tokens => 200);
isnt($t->json($r)->{choices}[0]{message}{content}, $rest, 'in a chat the model answers anew');
cmp_ok($t->json($r)->{usage}{prompt_tokens}, '>', prompt($on), 'behind the turn that is over');

# what cannot be
for my $case (
    [ 'white space at its end', qr/^messages: final assistant content cannot end with trailing whitespace$/, "aiq \n" ],
    [ 'a block of it', qr/cannot end with trailing whitespace$/, [ { type => 'text', text => 'aiq ' } ] ],
    [ 'an empty one', qr/^messages: final assistant content cannot be empty$/, '' ],
    [ 'a thought alone', qr/cannot be empty$/, [ $parts[0] ] ],
    [ 'a call', qr/^messages: final assistant content cannot have tool calls/,
        [ { type => 'tool_use', id => 'a', name => 'look', input => {} } ], @tools ],
    [ 'a call that is asked for', qr/^'tool_choice' cannot ask for a call/, $begun, @tools, tool_choice => { type => 'any' } ],
    [ 'one of a tool', qr/^'tool_choice' cannot ask for a call/, $begun, @tools, tool_choice => { type => 'tool', name => 'look' } ],
    [ 'a schema', qr/^'output_config\.format' cannot be used/, $begun,
        output_config => { format => { type => 'json_schema', schema => { type => 'object' } } } ],
    [ 'thoughts', qr/^'thinking' cannot be enabled/, $begun, thinking => { type => 'enabled', budget_tokens => 1024 } ],
    [ 'thoughts as the model likes', qr/^'thinking' cannot be enabled/, $begun, thinking => { type => 'adaptive' } ],
    [ 'a model that cannot but think', qr/it thinks first/, $begun, model => 'thinks' ],
) {
    my ($name, $message, $content, %body) = @$case;
    my $refused = say($content, %body);
    my $error = $t->json($refused)->{error};

    is($refused->{status}, 400, $name);
    is($error->{type}, 'invalid_request_error', "$name: its type");
    like($error->{message}, $message, "$name: its message");
    is_deeply($t->json(ask('messages/count_tokens', $content, %body))->{error}, $error, "$name: where it is counted, too");
}

$t->finish;
done_testing;
