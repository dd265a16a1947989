# How a local model's tokens are chosen: OpenAI's parameters and what they change.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Command;
use AIQ::Test;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";
my ($true, $false) = (JSON::PP::true, JSON::PP::false);

$t->serve_demo;

sub ask {
    my (%more) = @_;
    my $text = delete $more{text} // 'What is aiq?';

    return $t->post('/v1/chat/completions', $t->chat('demo', $text, temperature => 0, max_tokens => 12, %more),
        headers => [ 'Content-Type' => 'application/json' ]);
}

sub choices { return $t->json(ask(@_))->{choices} }

sub id_of {
    my ($text) = @_;
    my $out = run([ aiq(), 'tokenize', '--model', $demo ], in => $text)->{out};

    return $out =~ /^(\d+)$/ ? $1 : die "'$text' is more than one token";
}

my $plain = choices()->[0]{message}{content};

# logprobs
my $choice = choices(logprobs => $true, top_logprobs => 3)->[0];
my @tokens = @{ $choice->{logprobs}{content} };
is(scalar @tokens, 12, 'logprobs: one for each token');
is(join('', map { $_->{token} } @tokens), $plain, 'logprobs: the tokens are the text');
is(join('', map { pack 'C*', @{ $_->{bytes} } } @tokens), $plain, 'logprobs: so are their bytes');
is(scalar(grep { @{ $_->{top_logprobs} } != 3 } @tokens), 0, 'top_logprobs: three each');
is(scalar(grep { $_->{top_logprobs}[0]{token} ne $_->{token} || $_->{top_logprobs}[0]{logprob} != $_->{logprob} } @tokens),
    0, 'top_logprobs: greedy takes the first');
is(scalar(grep { my @p = map { $_->{logprob} } @{ $_->{top_logprobs} }; $p[0] < $p[1] || $p[1] < $p[2] || $p[0] > 0 } @tokens),
    0, 'top_logprobs: the likeliest first');
is(choices(logprobs => $false)->[0]{logprobs}, undef, 'logprobs: not unasked');
$choice = choices(logprobs => $true)->[0];
is_deeply([ map { scalar @{ $_->{top_logprobs} } } @{ $choice->{logprobs}{content} } ], [ (0) x 12 ],
    'logprobs: without top_logprobs');

my $r = ask(logprobs => $true, top_logprobs => 1, stream => $true);
my @chunks = map { $t->json($_) } grep { $_ ne '[DONE]' } $r->{body} =~ /^data: (.*)$/mg;
my @streamed = map { @{ ($_->{choices}[0]{logprobs} // {})->{content} // [] } } @chunks;
is(join('', map { $_->{token} } @streamed), $plain, 'logprobs: in a stream');

# n
my @three = @{ choices(n => 3, text => 'Tell', temperature => 2, seed => 3) };
is_deeply([ map { $_->{index} } @three ], [ 0, 1, 2 ], 'n: their indices');
isnt($three[0]{message}{content}, $three[1]{message}{content}, 'n: other answers');
is_deeply([ map { $_->{message}{content} } @{ choices(n => 3, text => 'Tell', temperature => 2, seed => 3) } ],
    [ map { $_->{message}{content} } @three ], 'n: the same seed, the same answers');
is($three[0]{message}{content}, choices(text => 'Tell', temperature => 2, seed => 3)->[0]{message}{content},
    'n: the first is that of n 1');
my $usage = $t->json(ask(n => 2))->{usage};
is($usage->{completion_tokens}, 24, 'n: usage has the tokens of all');
is($usage->{prompt_tokens}, $t->json(ask())->{usage}{prompt_tokens}, 'n: and those of the prompt once');

$r = ask(n => 2, stream => $true, stream_options => { include_usage => $true });
@chunks = map { $t->json($_) } grep { $_ ne '[DONE]' } $r->{body} =~ /^data: (.*)$/mg;
my @text = ('', '');
for my $c (map { @{ $_->{choices} } } @chunks) {
    $text[$c->{index}] .= $c->{delta}{content} // '';
}
is_deeply(\@text, [ $plain, $plain ], 'n: streamed');
is(scalar(grep { ($_->{choices}[0]{finish_reason} // '') eq 'length' } @chunks), 2, 'n: each ends');
is($chunks[-1]{usage}{completion_tokens}, 24, 'n: one usage');

# bias and penalties
my $first = id_of($tokens[0]{token});
isnt(choices(max_tokens => 1, logit_bias => { $first => -100 })->[0]{message}{content}, $tokens[0]{token},
    'logit_bias: -100 is never');
my $x = id_of('x');
is(choices(max_tokens => 5, logit_bias => { $x => 100 })->[0]{message}{content}, 'xxxxx', 'logit_bias: 100 is always');
my $second = choices(max_tokens => 5, logit_bias => { $x => 100 }, frequency_penalty => 2, presence_penalty => 2)->[0]{message}{content};
is($second, 'xxxxx', 'penalties: they are added to the bias');
my $repeats = sub { my %n; my $most = 0; $n{$_}++ && $n{$_} > $most && ($most = $n{$_}) for map { $_->{token} } @{ $_[0]{logprobs}{content} }; $most };
my $loop = choices(max_tokens => 60, logprobs => $true, logit_bias => { $x => 12 })->[0];
my $broken = choices(max_tokens => 60, logprobs => $true, logit_bias => { $x => 12 }, frequency_penalty => 2)->[0];
cmp_ok($repeats->($broken), '<', $repeats->($loop), 'frequency_penalty: less of the same');
isnt(choices(max_tokens => 5, logit_bias => { $x => 50 }, repetition_penalty => 10)->[0]{message}{content}, 'xxxxx',
    'repetition_penalty: it divides');

# cuts
is(choices(temperature => 2, top_k => 1)->[0]{message}{content}, $plain, 'top_k 1 is greedy');
is(choices(temperature => 2, min_p => 0.999)->[0]{message}{content}, $plain, 'min_p near 1, too');
is(choices(temperature => 2, top_p => 0)->[0]{message}{content}, $plain, 'and top_p 0');

$t->finish;
done_testing;
