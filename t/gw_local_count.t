# Tokens counted by a local model: as many as the same request to /v1/messages has; what it
# refuses, and what it costs.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";

$t->conf("
    aiq_provider local { dialect local; model demo $demo; model broken %%ROOT%%/README.md; retry 1; }
    aiq_provider away { dialect openai; url http://127.0.0.1:%%PORT_1%%/v1; }
    aiq_model demo { target local; }
    aiq_model priced { target local model=demo input=1000 output=1000; }
    aiq_model broken { target local; }
    aiq_model second { target away; target local model=demo; }
    aiq_model words { target words; }
    aiq_provider words { dialect local; model words builtin:lexical; }
    log_format usage '\$aiq_model \$aiq_tokens_in \$aiq_tokens_out \$aiq_cost';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/usage.log usage;
        location /v1/ { aiq_pass gateway; }
        location /budget/ { aiq_budget tenant 1usd/day; aiq_pass gateway /v1/; }
        location /health { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

my @hi = (messages => [ { role => 'user', content => 'Hi' } ]);

sub ask {
    my ($path, %body) = @_;

    return $t->post($path, JSON::PP::encode_json({ model => 'demo', @hi, %body }));
}

sub count { return ask('/v1/messages/count_tokens', @_) }

# as many as the message itself has
my $tool = { name => 'look', description => 'Looks', input_schema => { type => 'object', properties => { a => { type => 'string' } } } };
my %last;
for my $case (
    [ 'a question' ],
    [ 'a system prompt', system => [ { type => 'text', text => 'Be short.' }, { type => 'text', text => 'Be kind.' } ] ],
    [ 'a longer talk', messages => [ { role => 'user', content => 'What is aiq?' }, { role => 'assistant', content => 'An engine.' },
        { role => 'user', content => [ { type => 'text', text => 'And ngïnx?' } ] } ] ],
    [ 'tools', tools => [ $tool ] ],
    [ 'tools that may not be called', tools => [ $tool ], tool_choice => { type => 'none' } ],
    [ 'a result', tools => [ $tool ], messages => [ { role => 'user', content => 'Hi' },
        { role => 'assistant', content => [ { type => 'tool_use', id => 'a', name => 'look', input => { a => 'x' } } ] },
        { role => 'user', content => [ { type => 'tool_result', tool_use_id => 'a', content => 'done' } ] } ] ],
    [ 'no thoughts', thinking => { type => 'disabled' } ],
) {
    my ($name, %body) = @$case;
    my $r = count(%body);
    my $usage = $t->json(ask('/v1/messages', %body, max_tokens => 1))->{usage};

    is($r->{status}, 200, $name) or diag $r->{body};
    is_deeply($t->json($r), { input_tokens => $usage->{input_tokens} + $usage->{cache_read_input_tokens} }, "$name: its tokens");
    $last{$name} = $t->json($r)->{input_tokens};
}
cmp_ok($last{'a system prompt'}, '>', $last{'a question'}, 'a system prompt counts');
cmp_ok($last{tools}, '>=', $last{'tools that may not be called'}, 'tools count where they may be called');
is($t->json(count(model => 'second'))->{input_tokens}, $last{'a question'}, 'the target that can count does');

# what cannot be counted, in Anthropic's words
for my $case (
    [ 'no messages', 400, 'invalid_request_error', qr/^'messages' must be/, messages => [] ],
    [ 'a role that there is none of', 400, 'invalid_request_error', qr/^'messages\[0\]\.role' must be/,
        messages => [ { role => 'x', content => 'y' } ] ],
    [ 'an image', 400, 'invalid_request_error', qr/a part that is not text/, messages => [ { role => 'user', content => [
        { type => 'image', source => { type => 'base64', media_type => 'image/png', data => 'AAAA' } } ] } ] ],
    [ 'a tool without a name', 400, 'invalid_request_error', qr/^'tools\[0\]' must be a tool with a name/, tools => [ {} ] ],
    [ 'a prompt beyond the context', 400, 'invalid_request_error', qr/does not fit the model's context of \d+ tokens/,
        messages => [ { role => 'user', content => 'x ' x 3000 } ] ],
    [ 'a model for vectors', 400, 'invalid_request_error', qr/it does not chat/, model => 'words' ],
    [ 'a model that cannot be loaded', 503, 'overloaded_error', qr/not available now/, model => 'broken' ],
    [ 'no such model', 404, 'not_found_error', qr/'nobody' does not exist/, model => 'nobody' ],
) {
    my ($name, $status, $type, $message, %body) = @$case;
    my $r = count(%body);
    my $said = $t->json(ask('/v1/messages', %body, max_tokens => 1))->{error};

    is($r->{status}, $status, $name);
    is($t->json($r)->{error}{type}, $type, "$name: its type");
    like($t->json($r)->{error}{message}, $message, "$name: its message");
    is_deeply($t->json($r)->{error}, $said, "$name: as for the message itself");
}

# it costs nothing, and a budget that could not pay for the answer does not matter after it
my $long = 'nginx ' x 40;
is(ask('/budget/messages/count_tokens', model => 'priced', messages => [ { role => 'user', content => $long } ])->{status}, 200,
    'within a budget') for 1 .. 4;
$t->wait_for(sub { 4 == (() = $t->read_file('logs/usage.log') =~ /^priced /mg) }, 10, 'all is in the log');
is_deeply([ grep { /^priced/ } split /\n/, $t->read_file('logs/usage.log') ], [ ('priced 0 0 0.000000000') x 4 ], 'to count costs nothing');

$t->finish;
done_testing;
