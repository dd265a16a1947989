# aiq_cache semantic with a local model's vectors: words may be others, numbers, names and
# negations may not; while the model is not there the cache is an exact one.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Encoder;
use AIQ::Mock;
use AIQ::Test;
use JSON::PP ();

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);
my $bert = $t->dir . '/bert.gguf';
tiny_encoder('bert', $bert);

my $http = "
    aiq_provider mock  { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_provider local { dialect local; model tiny $bert; model words builtin:lexical; model none @{[ $t->dir ]}/none.gguf; }
    aiq_model chat  { target mock model=mock-chat; }
    aiq_model slow  { target mock model=mock-stream-10x100ms; }
    aiq_model bert  { target local model=tiny; }
    aiq_model words { target local model=words; }
    aiq_model none  { target local model=none; }";
$t->conf("$http
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/      { aiq_cache semantic=0.1 embed=bert; aiq_pass gateway; }
        location /words/   { aiq_cache semantic=0.1 embed=words; aiq_pass gateway /v1/; }
        location /none/    { aiq_cache semantic=0.1 embed=none; aiq_pass gateway /v1/; }
        location /dry/     { aiq_cache semantic=0.1 embed=bert dry_run; aiq_pass gateway /v1/; }
        location /metrics  { aiq_metrics; }
        location /health   { aiq_health; }
    }");
$t->start;

sub asked { return scalar(my @all = $mock->requests) }

my $last;
sub chat {
    my ($text, $path, @headers) = @_;
    my $before = asked();

    $last = $t->post(($path // '/v1') . '/chat/completions', $t->chat('chat', $text, temperature => 0),
        headers => \@headers);
    return ($last->{headers}{'x-aiq-cache'} // '-') . ' ' . (asked() - $before);
}
sub settled { my ($n) = @_; $t->wait_for(sub { $t->metric('aiq_semantic_entries') == $n }, 10, "$n questions") }

$t->wait_for(sub { $t->post('/v1/embeddings', '{"model":"bert","input":"a"}')->{status} == 200 }, 20, 'the model is there');

is(chat('How do I reset my metrics?'), 'MISS 1', 'the first');
my $first = $last;
settled(1);
is(chat('What are the steps to clear my metrics?'), 'SEMANTIC 0', 'other words for it');
is($last->{body}, $first->{body}, 'the same answer');
like($last->{headers}{'x-aiq-cache-similarity'}, qr/^0\.\d{4}$/, 'how near it is');
is(chat('How do I reset my metrics?'), 'HIT 0', 'the exact cache comes first');
is(chat("How don't I reset my metrics?"), 'MISS 1', 'a negation');
is(chat('How do I reset my 2 metrics?'), 'MISS 1', 'a number');
is(chat('How do I reset my metrics in Prometheus?'), 'MISS 1', 'a name');
settled(4);

# Another embedder is another partition, and the built-in one is strict by whatever name.
is(chat('What are the steps to drop my metrics?', '/words'), 'MISS 1', 'another embedder');
settled(5);
is(chat('What are the ways to drop my metrics?', '/words'), 'MISS 1', 'that takes no other words');
settled(6);
is(chat("please, what're the ways to drop my metrics", '/words'), 'SEMANTIC 0', 'but another way to put it');

# Without the model.
is(chat('where is it', '/none'), 'MISS 1', 'a model that cannot be loaded');
is(chat('where is it', '/none'), 'HIT 0', 'leaves the exact cache');
is(chat('where is it?', '/none'), 'MISS 1', 'alone');
settled(6);

# Who doesn't wait for the vector has it made while its provider answers.
sub slow {
    my ($text, $path, @headers) = @_;
    my $r = $t->post("$path/chat/completions", $t->chat('slow', $text, temperature => 0, stream => JSON::PP::true),
        headers => \@headers);
    return $r->{headers}{'x-aiq-cache'};
}
is(slow('where do the passwords go', '/v1', 'Cache-Control' => 'no-cache'), 'BYPASS', 'no-cache');
settled(7);
is(slow('so where do the passwords go', '/v1'), 'SEMANTIC', 'leaves its answer');

# Trying it.
is(slow('please where do the passwords go', '/dry'), 'MISS', 'dry_run');
$t->wait_for(sub { $t->metric('aiq_cache_hits_total{cache_name="semantic_dry_run"}') == 1 }, 10, 'a hit of dry_run');
pass('is counted');

# Many at a time, of which some leave.
my @all = map {
    my $c = $t->connect(seconds => 20);
    $c->request('POST', '/v1/chat/completions', body => $t->chat('chat', "what is the password $_", temperature => 0));
    $c;
} 1 .. 40;
$all[$_]->close for grep { $_ % 4 == 0 } 0 .. 39;
my @answers = map { $_ % 4 ? $all[$_]->response : () } 0 .. 39;
is(scalar(grep { $_->{status} == 200 } @answers), 30, 'who stays is answered');
is(scalar(grep { $_->{headers}{'x-aiq-cache'} ne 'MISS' } @answers), 0, 'each to its own number');

# Configuration.
for my $case (
    [ 'semantic embed=bert', 'must have a threshold with a model' ],
    [ 'semantic=0.9 embed=chat', '"chat" is no model of a "local" provider in .*:\d+' ],
    [ 'semantic=0.9 embed=other', '"other" is no model of a "local" provider in .*:\d+' ],
) {
    my ($rest, $why) = @$case;
    $t->conf("$http server { listen 127.0.0.1:%%PORT_0%%; location / { aiq_cache $rest; aiq_pass gateway; } }");
    my ($status, $text) = $t->test_conf;
    isnt($status, 0, $rest);
    like($text, qr/$why/, $why);
}

$t->finish;
done_testing();
