# Vectors of texts from a model in the engine: what may be asked for, what is
# answered, what is refused and counted.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use Test::More;
use AIQ::Encoder;
use AIQ::Test;

my $t = AIQ::Test->new;
my $bert = "$t->{dir}/bert.gguf";

tiny_encoder('bert', $bert);
$t->conf("
    aiq_provider local { dialect local; model chat %%ROOT%%/demo/demo.gguf;
                         model tiny $bert; model words builtin:lexical; }
    aiq_model bert   { target local model=tiny input=1; }
    aiq_model words  { target local model=words; }
    aiq_model demo   { target local model=chat; }
    aiq_model either { target local model=chat; target local model=tiny backup; }
    log_format usage '\$aiq_model \$aiq_provider \$aiq_tokens_in \$aiq_tokens_out \$aiq_cost';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/usage.log usage;
        location /v1/ { aiq_max_body_size 4m; aiq_pass gateway; }
        location /budget/ { aiq_budget tenant 1usd/day; aiq_pass gateway /v1/; }
        location /health { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the models are loaded');

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub ask {
    my ($model, $input, %more) = @_;

    return $t->post($more{path} // '/v1/embeddings',
        $json->encode({ model => $model, defined $input ? (input => $input) : (), %{ $more{with} // {} } }));
}

sub vectors { return map { $_->{embedding} } @{ $t->json($_[0])->{data} } }

sub dot {
    my ($x, $y) = @_;
    my $sum = 0;

    $sum += $x->[$_] * $y->[$_] for 0 .. $#$x;
    return $sum;
}

# the answer
my $r = ask('bert', [ 'What is the password?', 'where are the metrics' ]);
is($r->{status}, 200, 'an answer') or diag $r->{body};
my $whole = $t->json($r);
is($whole->{object}, 'list', 'object');
is($whole->{model}, 'bert', 'model: the name that the client used');
is_deeply([ map { [ $_->{object}, $_->{index} ] } @{ $whole->{data} } ], [ [ 'embedding', 0 ], [ 'embedding', 1 ] ],
    'a vector for each, in order');
is_deeply($whole->{usage}, { prompt_tokens => 13, total_tokens => 13 }, 'usage, with what begins and ends a text');
my @two = vectors($r);
is(scalar @{ $two[0] }, 64, 'its length');
cmp_ok(abs(dot($_, $_) - 1), '<', 1e-6, 'normed') for @two;

# one text, tokens
is_deeply([ vectors(ask('bert', 'what IS the password?')) ], [ $two[0] ], 'a string, and no case');
my @ids = (5, 6, 7, 12, 88);
is_deeply([ vectors(ask('bert', \@ids)) ], [ $two[0] ], 'the ids of its tokens');
is_deeply([ vectors(ask('bert', [ \@ids, [ 2, @ids, 3 ] ])) ], [ @two[0, 0] ], 'several such, with what stands around them or without');

# the format
my $base64 = $t->json(ask('bert', 'where are the metrics', with => { encoding_format => 'base64' }))->{data}[0]{embedding};
my @floats = unpack('f<*', decode_base64($base64));
is(scalar @floats, 64, 'base64');
cmp_ok(abs($floats[$_] - $two[1][$_]), '<', 1e-9, "base64: $_") for 0, 31, 63;
is(ask('bert', 'a', with => { encoding_format => 'float', dimensions => 64, user => 'x' })->{status}, 200, 'what it has may be said');
is_deeply([ map { scalar @$_ } vectors(ask('bert', [ ('a b c') x 2048 ])) ], [ (64) x 2048 ], 'two thousand texts');

# the lexical one
my @words = vectors(ask('words', [ 'How do I reset my password?', 'how can I reset the password', 'Where are the metrics?', '' . '?' ]));
is(scalar @{ $words[0] }, 512, 'lexical: its length');
cmp_ok(dot(@words[0, 1]), '>', dot(@words[0, 2]) + 0.2, 'lexical: what shares words is near');
is(dot(@words[3, 3]), 0, 'lexical: no words, no direction');

# refusals
sub refused {
    my ($name, $got, $code, $param, $text) = @_;
    my $e = $t->json($got)->{error};

    is_deeply([ $got->{status}, $e->{code}, $e->{param} ], [ 400, $code, $param ], $name) or diag $got->{body};
    like($e->{message}, $text, "$name: it says why") if $text;
    return;
}
refused('no input', ask('bert', undef), 'missing_required_parameter', 'input');
refused('an object', ask('bert', {}), 'invalid_type', 'input');
refused('a mixture', ask('bert', [ 'a', 1 ]), 'invalid_type', 'input');
refused('nothing', ask('bert', []), 'invalid_value', 'input', qr/1 to 2048/);
refused('too many', ask('bert', [ ('a') x 2049 ]), 'invalid_value', 'input');
refused('an empty text', ask('bert', ''), 'invalid_value', 'input', qr/'input': it is empty/);
refused('an empty one of several', ask('bert', [ 'a', '' ]), 'invalid_value', 'input[1]', qr/it is empty/);
refused('a long text', ask('bert', [ 'a', 'b', 'a ' x 63 ]), 'context_length_exceeded', 'input[2]', qr/more than 64 tokens/);
refused('no such token', ask('bert', [ 4, 1e6 ]), 'invalid_value', 'input', qr/no token of this id/);
refused('no token', ask('bert', [ [ 4 ], [ 1.5 ] ]), 'invalid_value', 'input[1]');
refused('tokens for words', ask('words', [ 4 ]), 'invalid_value', 'input', qr/takes texts/);
refused('another length', ask('bert', 'a', with => { dimensions => 32 }), 'invalid_value', 'dimensions', qr/'dimensions' must be 64/);
refused('another format', ask('bert', 'a', with => { encoding_format => 'hex' }), 'invalid_value', 'encoding_format');
refused('of a model for chats', ask('demo', 'a'), 'unsupported_endpoint', 'model', qr/does not make embeddings/);
refused('a chat with it', $t->post('/v1/chat/completions', $t->chat('bert', 'Hi')), 'unsupported_endpoint', 'model', qr/does not chat/);
refused('completions', $t->post('/v1/completions', '{"model":"bert","prompt":"a"}'), 'unsupported_endpoint', 'model');
is_deeply([ vectors(ask('either', 'what is the password?')) ], [ $two[0] ], 'a further target that can, does');

# what it costs
is(ask('bert', 'a b', path => '/budget/embeddings')->{status}, 200, 'within a budget');
$t->wait_for(sub { $t->read_file('logs/usage.log') =~ /^bert local 13 0 0\.000013000$/m }, 5, 'the access log has usage and cost');

# a client that leaves ends nothing else
my $gone = $t->connect;
$gone->request('POST', '/v1/embeddings', body => $json->encode({ model => 'bert', input => [ ('what is the password') x 2048 ] }));
$gone->close;
is_deeply([ vectors(ask('bert', 'what is the password?')) ], [ $two[0] ], 'another request goes on');

$t->finish;

# the configuration
my $other = AIQ::Test->new;
$other->conf('aiq_provider p { dialect local; model a builtin:neural; }');
my ($status, $text) = $other->test_conf;
like($text, qr/there is no model "builtin:neural", only "builtin:lexical"/, 'a model that is not built in');

done_testing;
