# A guaranteed stream outlives its engine: killed in the middle, the next one goes on with it,
# and a reader has all of it in all, each event once.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
push @{ $t->{engine_args} }, '--device', 'fake', '--kernels', "$t->{build}/t";
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock  { dialect openai; url @{[ $mock->url ]}; }
    aiq_provider local { dialect local; model demo %%ROOT%%/demo/demo.gguf; }
    aiq_model chat { target mock model=mock-stream-10x20ms; }
    aiq_model once  { target mock model=mock-first-1-endless; }    # then one of 8 tokens
    aiq_model again { target mock model=mock-first-1-endless-2; }
    aiq_model demo { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /health      { aiq_health; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

my $links = 1;

sub begin {
    my ($model, $path, %more) = @_;
    my $c = $t->connect;

    my @headers = ('X-AIQ-QoS' => 'guaranteed', %{ delete $more{headers} // {} });
    $c->request('POST', $path // '/v1/chat/completions', headers => \@headers,
        body => $t->chat($model, 'Tell me about nginx.', stream => JSON::PP::true, %more));
    return ($c, $c->head->{headers}{'x-aiq-stream'});
}

# Whole events, each [id, data], until there are so many or the stream breaks.
sub take {
    my ($c, $most) = @_;
    my $text = '';

    while (!defined $most || (() = $text =~ /^id:/mg) < $most) {
        my $piece = eval { $c->piece } // last;
        $text .= $piece;
    }
    return map {
        my ($id) = /^id: (\d+)$/m;
        defined $id ? [ $id, join("\n", /^data: (.*)$/mg) ] : ();
    } $text =~ /(.*?\n)\n/sg;
}

sub follow {
    my ($id, $after) = @_;
    my $c = $t->connect;

    $c->request('GET', "/v1/streams/$id",
        headers => [ Accept => 'text/event-stream', $after ? ('Last-Event-ID' => $after) : () ]);
    return $c->head->{status} == 200 ? $c : undef;
}

sub text {
    return join '', map { my $e = $t->json($_->[1]); ref $e && $e->{choices} && @{ $e->{choices} } ? $e->{choices}[0]{delta}{content} // '' : '' } @_;
}

sub restart {
    $t->kill_hard('engine');
    $t->start_engine;
    $t->wait_for_links(++$links);
    $t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');
}

# What was read and what comes after, as one.
sub whole {
    my ($id, @first) = @_;
    my $c = follow($id, $first[-1][0]);    # undef: that was all

    my @all = (@first, $c ? take($c) : ());
    is_deeply([ map { $_->[0] } @all ], [ 1 .. @all ], 'each event once, in order');
    my @again = take(follow($id));
    is_deeply(\@again, \@all, 'and so again, from the beginning');
    return @all;
}

my ($c, $id) = begin('chat');
my @all = take($c);
is($all[-1][1], '[DONE]', 'to its end');
sub tokens { return join('', map { " token$_" } 1 .. $_[0]) }
is(text(@all), tokens(10), 'with all that was said');

subtest 'a provider, where that is allowed' => sub {
    ($c, $id) = begin('once', undef, headers => { 'X-AIQ-Continue' => 'allow' });
    my @first = take($c, 20);
    restart();
    my @all = whole($id, @first);
    is($all[-1][1], '[DONE]', 'to its end');
    my ($mark) = grep { $_->[1] =~ /"continued"/ } @all;
    ok($mark, 'who goes on is marked');
    my $before = text(grep { $_->[0] < $mark->[0] } @all);
    is($before, tokens(scalar(() = $before =~ /token/g)), 'what was said before');
    is(text(grep { $_->[0] > $mark->[0] } @all), tokens(8), 'the mock says all of its own');
    my $asked = $t->json(($mock->requests)[-1]{body});
    is($asked->{messages}[-1]{content}, $before, 'after what was said');
};

subtest 'a provider, where that is not' => sub {
    ($c, $id) = begin('again');
    my @first = take($c, 20);
    restart();
    my @all = whole($id, @first);
    is($t->json($all[-1][1])->{error}{code}, 'stream_broken_off', 'an error ends it');
};

# A model's, whose device hangs in that step, until its engine is killed; and the same unhurt.
sub cut_at {
    my ($step, %params) = @_;

    $ENV{AIQ_FAKE} = "hang=$step";
    restart();
    my ($c, $id) = begin('demo', undef, %params);
    my @first = take($c, 2);
    $ENV{AIQ_FAKE} = '';
    restart();
    my @all = whole($id, @first);
    is($all[-1][1], '[DONE]', 'to its end');
    my ($mark) = grep { $_->[1] =~ /"continued"/ } @all;
    ok($mark, 'who goes on is marked');
    ($c) = begin('demo', undef, %params);
    return (text(take($c)), text(@all), text(grep { $_->[0] < $mark->[0] } @all));
}

# Token by token: where nothing is left to chance the text is the same. Not always where it was
# cut within a word, whose beginning may be other tokens than the whole of it.
for my $step (4, 8, 12) {
    subtest "a model, greedy, cut at step $step" => sub {
        my ($want, $text, $before) = cut_at($step, temperature => 0);
        isnt($before, '', 'something was said');
        is(substr($want, 0, length $before), $before, 'the same beginning');
        is($text, $want, 'the same text') if substr($want, length $before) =~ /\A(?!\w)/;
    };
}

subtest 'a model, random' => sub { cut_at(8, temperature => 2, seed => 1) };

$t->finish;
done_testing();
