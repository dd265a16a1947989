# A model in the engine: OpenAI's objects, what it refuses, and its life over reloads.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";
my $conf = "
    aiq_provider local { dialect local; model one $demo; model two $demo; %s }
    aiq_model demo { target local model=one; }
    aiq_model twin { target local model=two; }
    %s
    log_format usage '\$aiq_model \$aiq_provider \$aiq_tokens_in \$aiq_tokens_out';
    server {
        listen 127.0.0.1:%%%%PORT_0%%%%;
        access_log %%%%DIR%%%%/logs/usage.log usage;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
        location /m { aiq_metrics; }
    }";
my ($true, $false) = (JSON::PP::true, JSON::PP::false);

$t->conf(sprintf($conf, '', ''));
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

sub ask {
    my ($model, $text, %more) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, $text, temperature => 0, %more),
        headers => [ 'Content-Type' => 'application/json' ]);
}

# whole
my $r = ask('demo', 'What is aiq?');
my $whole = $t->json($r);
is($r->{status}, 200, 'an answer');
like($whole->{id}, qr/^chatcmpl-\w{24}$/, 'id');
is($whole->{object}, 'chat.completion', 'object');
is($whole->{model}, 'demo', 'model: the name that the client used');
my $text = $whole->{choices}[0]{message}{content};
like($text, qr/nginx/, 'it knows something');
my $usage = $whole->{usage};
is($usage->{total_tokens}, $usage->{prompt_tokens} + $usage->{completion_tokens}, 'usage');
is($t->json(ask('twin', 'What is aiq?'))->{choices}[0]{message}{content}, $text, 'another name of it says the same');
$t->wait_for(sub { $t->read_file('logs/usage.log') =~ /^demo local $usage->{prompt_tokens} $usage->{completion_tokens}$/m },
    5, 'the access log has the usage');

# a stream
$r = ask('demo', 'What is aiq?', stream => $true, stream_options => { include_usage => $true });
my @data = $r->{body} =~ /^data: (.*)$/mg;
is(pop @data, '[DONE]', '[DONE]');
my @chunks = map { $t->json($_) } @data;
my $last = pop @chunks;
is_deeply([ $last->{choices}, $last->{usage} ], [ [], $usage ], 'the usage chunk');
is($chunks[0]{choices}[0]{delta}{role}, 'assistant', 'the role first');
is($chunks[-1]{choices}[0]{finish_reason}, 'stop', 'finish_reason last');
is(scalar(grep { $_->{object} ne 'chat.completion.chunk' || $_->{id} ne $chunks[0]{id} || !exists $_->{usage} } @chunks),
    0, 'all of one id, with usage');
is(join('', map { $_->{choices}[0]{delta}{content} // '' } @chunks), $text, 'the same text');

# what can be asked for
$r = $t->json(ask('demo', 'What is aiq?', max_tokens => 3));
is($r->{choices}[0]{finish_reason}, 'length', 'max_tokens');
is($r->{usage}{completion_tokens}, 3, 'max_tokens: their number');
my $stop = substr($text, 4, 5);
my $stopped = $t->json(ask('demo', 'What is aiq?', stop => [ 'never', $stop ]))->{choices}[0];
is($stopped->{message}{content}, substr($text, 0, 4), 'stop');
is_deeply([ @$stopped{qw(finish_reason stop_reason)} ], [ 'stop', $stop ], 'stop: which of them');
ok(!exists $whole->{choices}[0]{stop_reason}, 'only where one came');
my @seeded = map { $t->json(ask('demo', 'Hello', temperature => 1.5, seed => 7))->{choices}[0]{message}{content} } 1, 2;
is($seeded[0], $seeded[1], 'the same seed says the same');
$r = $t->post('/v1/chat/completions', JSON::PP::encode_json({ model => 'demo', temperature => 0, messages => [
    { role => 'user', content => [ { type => 'text', text => 'What is ' }, { type => 'text', text => 'aiq?' } ] } ] }),
    headers => [ 'Content-Type' => 'application/json' ]);
is($t->json($r)->{choices}[0]{message}{content}, $text, 'parts of text are joined');
is(ask('demo', 'Hi', tools => [], logprobs => $false, n => 1, user => 'x', response_format => { type => 'text' })->{status},
    200, 'what asks for nothing is fine');

# what cannot
for my $field ([ functions => [ {} ] ], [ web_search_options => {} ],
    [ modalities => ['audio'] ]) {
    my $e = $t->json(ask('demo', 'Hi', @$field))->{error};
    is("$e->{code} $e->{param}", "unsupported_parameter $field->[0]", "$field->[0] is refused by name");
}
$r = $t->post('/v1/chat/completions', JSON::PP::encode_json({ model => 'demo', messages => [
    { role => 'user', content => [ { type => 'image_url', image_url => {} } ] } ] }),
    headers => [ 'Content-Type' => 'application/json' ]);
is($t->json($r)->{error}{param}, 'messages[0].content', 'images are refused');
like($t->json($r)->{error}{message}, qr/^'messages\[0\]\.content' has a part that is not text/, 'and why');
for my $field ([ top_k => -1 ], [ n => 17 ], [ logprobs => 1 ], [ top_logprobs => 2 ], [ min_p => 1 ],
    [ logit_bias => { x => 1 } ], [ logit_bias => { 1 => 101 } ], [ logit_bias => { 99999999 => 1 } ],
    [ presence_penalty => 3 ], [ frequency_penalty => 'x' ], [ repetition_penalty => 0 ]) {
    my $e = $t->json(ask('demo', 'Hi', @$field))->{error};
    is("$e->{code} $e->{param}", "invalid_value $field->[0]", "$field->[0]: what it may be");
}
is($t->json(ask('demo', 'Hi', stop => $_))->{error}{param}, 'stop', 'a stop of ' . length) for '', 'x' x 1025;
$r = ask('demo', 'x ' x 3000);
is($r->{status}, 400, 'a prompt beyond the context');
is($t->json($r)->{error}{code}, 'context_length_exceeded', 'its code');

# leaving
my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', headers => [ 'Content-Type' => 'application/json' ],
    body => $t->chat('demo', 'What is aiq?', stream => $true, temperature => 2, max_tokens => 400));
$c->event if $c->head;
$c->close;
ok(eval { $t->wait_for(sub { $t->get('/m')->{body} =~ /^aiq_jobs_open 1$/m }, 10) }, 'a client that leaves ends its job');

# a reload with the same file keeps the model; one that cannot be loaded harms no other
$t->conf(sprintf($conf, 'model broken %%ROOT%%/README.md;', 'aiq_model broken { target local; }'));
$t->reload;
$t->wait_for(sub { grep { ($_->{message} // '') eq 'model cannot be loaded' } $t->engine_lines }, 10, 'its failure');
is(scalar(grep { ($_->{message} // '') eq 'model loaded' } $t->engine_lines), 1, 'the file was loaded once for all');
is(ask('demo', 'What is aiq?')->{status}, 200, 'and serves on');
# workers of before may still answer for a moment
$t->wait_for(sub { ($r = ask('broken', 'Hi'))->{status} != 404 }, 10, 'the new configuration');
is($r->{status}, 503, 'a model that cannot be loaded');
is($t->json($r)->{error}{code}, 'model_unavailable', 'its code');
unlike($r->{body}, qr/README/, 'without its path');
$r = $t->get('/health');
is($r->{status}, 200, 'the engine is healthy enough');
is($t->json($r)->{status}, 'degraded', 'but says so');

$t->finish;
done_testing;
