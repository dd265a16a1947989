# aiq_cache semantic: a question that was asked in other words is answered by what was answered
# then, within its partition and through its gates; the exact cache comes first.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--log-level', 'debug' ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model chat { target mock model=mock-chat input=1 output=10; }
    @{[ $mock->models(qw(mock-stream-2x0ms mock-no-done mock-400)) ]}
    log_format cache '\$aiq_cache \$aiq_cost';
    aiq_cache semantic embed=lexical;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/cache.log cache;
        location /v1/      { aiq_pass gateway; }
        location /keys/    { aiq_key all; aiq_pass gateway /v1/; }
        location /short/   { aiq_cache semantic embed=lexical ttl=300ms; aiq_pass gateway /v1/; }
        location /near/    { aiq_cache semantic=0.9999 embed=lexical; aiq_pass gateway /v1/; }
        location /exact/   { aiq_cache exact; aiq_pass gateway /v1/; }
        location /more/    { aiq_cache semantic embed=lexical tools temperature; aiq_pass gateway /v1/; }
        location /dry/     { aiq_cache semantic embed=lexical dry_run; aiq_pass gateway /v1/; }
        location /api/     { aiq_key all; aiq_pass control; }
        location /metrics  { access_log off; aiq_metrics; }
    }");
$t->start;

sub asked { return scalar(my @all = $mock->requests) }

my $last;
sub ask {
    my ($path, $body, @headers) = @_;
    my $before = asked();

    $last = $t->post($path, $body, headers => \@headers);
    return ($last->{headers}{'x-aiq-cache'} // '-') . ' ' . (asked() - $before);
}
sub body { my ($text, %more) = @_; return $t->chat(delete $more{model} // 'chat', $text, temperature => 0, %more) }
sub chat { my ($text, @headers) = @_; return ask('/v1/chat/completions', body($text), @headers) }

# An answer gets into the index after its client has it.
my $n;
sub settled { my ($n) = @_; $t->wait_for(sub { $t->metric('aiq_semantic_entries') == $n }, 10, "$n questions") }

# Other words.
is(chat('What is the capital of France?'), 'MISS 1', 'the first');
my $first = $last;
is($first->{headers}{$_}, undef, "has no $_") for qw(age x-aiq-cache-entry x-aiq-cache-similarity);
settled(1);
is(chat("what's the capital of France"), 'SEMANTIC 0', 'in other words');
is($last->{body}, $first->{body}, 'the same answer');
is($last->{headers}{$_}, $first->{headers}{$_}, $_) for qw(content-type content-length x-aiq-provider x-aiq-model);
like($last->{headers}{age}, qr/^\d$/, 'its age');
is($last->{headers}{'x-aiq-cost'}, '0.000000000', 'it costs nothing');
like($last->{headers}{'x-aiq-cache-similarity'}, qr/^0\.[89]\d\d\d$/, 'how near it is');
like($last->{headers}{'x-aiq-cache-entry'}, qr/^ent_[0-9a-f]{16}$/, 'and its name');
is(chat('What is the capital of France?'), 'HIT 0', 'the exact cache comes first');
is($last->{headers}{'x-aiq-cache-entry'}, undef, 'and has no such name');
is(chat("what's the capital of France"), 'SEMANTIC 0', 'what was answered so is none of the exact cache');

# What asks something else.
is(chat('What is the capital of Spain?'), 'MISS 1', 'another name');
is(chat('What is not the capital of France?'), 'MISS 1', 'a negation');
is(chat('How far is it from Paris to Rome?'), 'MISS 1', 'a direction');
is(chat('How far is it from Rome to Paris?'), 'MISS 1', 'and back');
is(chat('Give me 5 facts about France.'), 'MISS 1', 'a number');
is(chat('Give me 6 facts about France.'), 'MISS 1', 'another one');
settled(7);

# What else has a say, divides.
my $said = 'Please tell me the capital of France.';
is(ask('/v1/chat/completions', body($said, top_p => 0.5)), 'MISS 1', 'other settings');
is(ask('/v1/chat/completions', body($said, response_format => { type => 'json_object' })), 'MISS 1', 'another format');
is(ask('/v1/chat/completions', body($said, model => 'mock-stream-2x0ms')), 'MISS 1', 'another model');
sub talk {
    my (@messages) = @_;
    return JSON::PP->new->canonical->encode({ model => 'chat', temperature => 0,
        messages => [ map { { role => $_->[0], content => $_->[1] } } @messages ] });
}
is(ask('/v1/chat/completions', talk([ system => 'Be short.' ], [ user => 'Who are you?' ])), 'MISS 1', 'instructions');
is(ask('/v1/chat/completions', talk([ system => 'Be long.' ], [ user => 'Who are you' ])), 'MISS 1', 'others');
is(ask('/v1/chat/completions', talk([ user => 'Hi, I am Ann.' ], [ assistant => 'Hi!' ], [ user => 'Who am I?' ])), 'MISS 1', 'a history');
is(ask('/v1/chat/completions', talk([ user => 'Hi, I am Bob.' ], [ assistant => 'Hi!' ], [ user => 'who am I' ])), 'MISS 1', 'another');
settled(14);
is(ask('/v1/chat/completions', talk([ user => 'Hi, I am Bob.' ], [ assistant => 'Hi!' ], [ user => 'Please, who am I?' ])), 'SEMANTIC 0', 'the same');
is(ask('/v1/chat/completions', talk([ user => 'Who am I?' ], [ assistant => 'Who am I?' ])), 'MISS 1', 'no question');
is(ask('/exact/chat/completions', body('Tell me, what is the capital of France?')), 'MISS 1', 'aiq_cache exact');
is(ask('/near/chat/completions', body("What's the capital of France?")), 'MISS 1', 'a higher threshold');

# Answers that are drawn at random, and those with tools.
my @tools = (tools => [ { type => 'function', function => { name => 'f', parameters => { type => 'object' } } } ]);
for my $case ([ 'without a temperature', {} ], [ 'with one', { temperature => 0.1 } ], [ 'with tools', { temperature => 0, @tools } ]) {
    my ($name, $more) = @$case;
    my @two = map { $t->chat('chat', $_, %$more) } 'How many moons has Mars?', 'how many moons has Mars';
    is(ask('/v1/chat/completions', $_), 'MISS 1', $name) for @two;
    $n = $t->metric('aiq_semantic_entries');
    is(ask('/more/chat/completions', $t->chat('chat', 'How many moons has Venus?', %$more)), 'MISS 1', "$name, allowed");
    settled($n + 1);
    is(ask('/more/chat/completions', $t->chat('chat', 'how many moons has Venus', %$more)), 'SEMANTIC 0', 'asked again');
}

# Other dialects, and streams.
my $message = '{"model":"chat","max_tokens":9,"temperature":0,"messages":[{"role":"user","content":%s}],"stream":%s}';
my $input = '{"model":"chat","temperature":0,"input":%s,"stream":%s}';
for my $case (
    [ '/v1/chat/completions', $message, '"%s"' ],
    [ '/v1/chat/completions', $message, '[{"type":"text","text":"%s"}]' ],
    [ '/v1/messages', $message, '"%s"' ],
    [ '/v1/messages', $message, '[{"type":"text","text":"%s"}]' ],
    [ '/v1/responses', $input, '"%s"' ],
    [ '/v1/responses', $input, '[{"role":"user","content":[{"type":"input_text","text":"%s"}]}]' ],
) {
    my ($path, $body, $content) = @$case;
    for my $stream (qw(true false)) {
        my @two = map { sprintf($body, sprintf($content, $_), $stream) } 'Why is the sky blue?', 'why is the sky \u0062lue';
        $n = $t->metric('aiq_semantic_entries');
        is(ask($path, $two[0]), 'MISS 1', "$path $content $stream");
        my $one = $last;
        settled($n + 1);
        is(ask($path, $two[1]), 'SEMANTIC 0', 'again');
        is($last->{body}, $one->{body}, 'the same body');
        is($last->{headers}{'content-type'}, $one->{headers}{'content-type'}, 'the same type');
    }
}
is(ask('/v1/embeddings', '{"model":"chat","input":"Why is the sky blue?"}'), 'MISS 1', 'no chat');
is(ask('/v1/embeddings', '{"model":"chat","input":"why is the sky blue"}'), 'MISS 1', 'has no questions');

# What is no whole answer is not kept.
$n = $t->metric('aiq_semantic_entries');
for my $model (qw(mock-400 mock-no-done)) {
    is(ask('/v1/chat/completions', body($_, model => $model, stream => JSON::PP::true)), 'MISS 1', $model)
        for 'Is it a whole answer?', 'is it a whole answer';
}
settled($n);

# Cache-Control.
is(chat("What's the capital of France, please?", 'Cache-Control' => 'no-store'), 'BYPASS 1', 'no-store');
is(chat("What's the capital of France, please?", 'Cache-Control' => 'no-cache'), 'BYPASS 1', 'no-cache');
is(chat("Please: what is the capital of France?"), 'SEMANTIC 0', 'without');

# Time.
is(ask('/short/chat/completions', body('Is this an old answer?', seed => 1)), 'MISS 1', 'kept for 300 ms');
$t->wait_for(sub { ask('/short/chat/completions', body('is this an old answer', seed => 1)) eq 'MISS 1' }, 10, 'too old');
pass('too old after that');

# Trying it.
my $hits = $t->metric('aiq_cache_hits_total{cache_name="semantic_dry_run"}');
is(ask('/dry/chat/completions', body('How tall is the Eiffel Tower?')), 'MISS 1', 'dry_run');
$t->wait_for(sub { ask('/dry/chat/completions', body('how tall is the Eiffel Tower, please')); $t->metric('aiq_cache_hits_total{cache_name="semantic_dry_run"}') > $hits
    || (ask('/dry/chat/completions', body('how tall is the Eiffel Tower, please'), 'Cache-Control' => 'no-cache') && 0) }, 10, 'is counted');
isnt($last->{headers}{'x-aiq-cache'}, 'SEMANTIC', 'but asks the provider');
my ($line) = grep { $_->{message} eq 'the semantic cache would have answered' } $t->engine_lines;
like($line->{entry}, qr/^ent_/, 'the log has the entry');
cmp_ok($line->{similarity}, '>', 0.7, 'and how near it was');
ok($line->{request_id}, 'and the request');

# Tenants, and what they say of an answer.
my $admin = AIQ::Admin->new($t);
my %key;
for my $tenant (qw(acme bolt)) {
    $admin->json('tenants', 'create', $tenant);
    $key{$tenant} = [ Authorization => 'Bearer ' . $admin->json('keys', 'create', '--tenant', $tenant)->{key} ];
}
$key{viewer} = [ Authorization => 'Bearer ' . $admin->json('keys', 'create', '--tenant', 'acme', '--role', 'viewer')->{key} ];
$n = $t->metric('aiq_semantic_entries');
is(ask('/keys/chat/completions', body('What is our secret?'), @{ $key{acme} }), 'MISS 1', 'a tenant');
settled($n + 1);
is(ask('/keys/chat/completions', body('what is our secret'), @{ $key{bolt} }), 'MISS 1', 'another one');
is(ask('/keys/chat/completions', body('what is our secret'), @{ $key{acme} }), 'SEMANTIC 0', 'its own');
my $entry = $last->{headers}{'x-aiq-cache-entry'};

sub judge {
    my ($id, $body, $who) = @_;
    return $t->post("/api/v1/cache/entries/$id/feedback", $body, headers => $key{$who});
}
for my $case (
    [ $entry, '{"correct":false}', 'bolt', 404, 'of another tenant' ],
    [ $entry, '{"correct":false}', 'viewer', 403, 'who may not execute' ],
    [ 'ent_0000000000000001', '{"correct":false}', 'acme', 404, 'no such entry' ],
    [ 'ent_x', '{"correct":false}', 'acme', 404, 'no id' ],
    [ $entry, '{}', 'acme', 400, 'nothing said' ],
    [ $entry, '{"correct":"no"}', 'acme', 400, 'no boolean' ],
    [ $entry, '{"correct":true,"x":1}', 'acme', 400, 'unknown fields' ],
    [ $entry, '[', 'acme', 400, 'no JSON' ],
    [ $entry, '{"correct":' . ' ' x 2000 . 'true}', 'acme', 413, 'too long' ],
    [ $entry, '{"correct":true}', 'acme', 200, 'right' ],
) {
    my ($id, $body, $who, $status, $name) = @$case;
    is(judge($id, $body, $who)->{status}, $status, "feedback: $name");
}
is(ask('/keys/chat/completions', body('what is our secret'), @{ $key{acme} }), 'SEMANTIC 0', 'it stays');
my $answer = judge($entry, '{"correct":false}', 'acme');
is($answer->{status}, 200, 'wrong');
is_deeply($t->json($answer), { id => $entry, correct => JSON::PP::false, removed => JSON::PP::true }, 'what became of it');
is(judge($entry, '{"correct":false}', 'acme')->{status}, 404, 'it is gone');
is(ask('/keys/chat/completions', body('what is our secret, please'), @{ $key{acme} }), 'MISS 1', 'for all');
is($t->metric("aiq_semantic_feedback_total{correct=\"$_\"}"), 1, "counted: $_") for qw(true false);
cmp_ok($t->metric("aiq_semantic_refused_total{difference=\"$_\"}"), '>', 0, "counted: $_") for qw(numbers negation names order);

# Usage, the log, and a reload.
like($t->read_file('logs/cache.log'), qr/^SEMANTIC 0\.000000000$/m, '$aiq_cache');
$t->reload;
is(chat("so what's the capital of France?"), 'SEMANTIC 0', 'a reload forgets nothing');

# The next engine has what this one had.
$t->stop('engine');
$t->start_engine;
$t->wait_for(sub { $t->metric('aiq_semantic_entries') }, 10, 'read again');
is(chat("Can you tell me what's the capital of France?"), 'SEMANTIC 0', 'another engine');
is($last->{body}, $first->{body}, 'has the same answer');

# Configuration.
for my $case (
    [ 'aiq_cache semantic;', 'must name what questions are compared by' ],
    [ 'aiq_cache semantic=0 embed=lexical;', 'invalid threshold' ],
    [ 'aiq_cache semantic=1.1 embed=lexical;', 'invalid threshold' ],
    [ 'aiq_cache semantic=x embed=lexical;', 'invalid threshold' ],
    [ 'aiq_cache semantics embed=lexical;', 'invalid threshold' ],
    [ 'aiq_cache semantic embed=;', 'invalid parameter "embed="' ],
    [ 'aiq_cache semantic embed=other;', 'must have a threshold' ],
    [ 'aiq_cache semantic embed=lexical ttl=0;', 'invalid time' ],
    [ 'aiq_cache exact dry_run;', 'invalid parameters' ],
) {
    $t->conf($case->[0]);
    my ($status, $text) = $t->test_conf;
    isnt($status, 0, $case->[0]);
    like($text, qr/$case->[1]/, $case->[1]);
}

$t->finish;
done_testing();
