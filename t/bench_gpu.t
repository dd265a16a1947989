#!/usr/bin/perl

# The benchmark of devices, on what is at hand: the CPU, and CUDA's sources emulated. What
# there is not is said, and no failure.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;

use AIQ::Command;

my $build = $ENV{AIQ_BUILD_DIR} || 'build';
my $gpu = "$build/bench/gpu";

for my $device ('cpu', -e "$build/t/cuda/libaiq_emulated.so" ? 'emulated' : ()) {
    my $r = run([$gpu, 'tiny', $device, "$build/t/cuda", 20, 4, '1,3']);
    is($r->{status}, 0, "$device: it ran") or diag($r->{err});
    my $said = JSON::PP::decode_json($r->{out});
    cmp_ok($said->{prefill_tps}, '>', 0, "$device: prefill");
    is_deeply([sort keys %{ $said->{decode_tps} }], [1, 3], "$device: a figure for each batch");

    # 2 layers of two matrices of 64 x 64, two of 32 x 64, three of 64 x 128, and 256 x 64
    is($said->{weight_bytes}, 2 * (2 * (2 * 4096 + 2 * 2048 + 3 * 8192) + 16384), "$device: bytes of weights");
    is($said->{flop}, $said->{weight_bytes}, "$device: a product and a sum for each of two bytes");
    is($said->{kv_bytes}, 2 * 2 * 2 * 16 * 2, "$device: bytes of keys and values");

    $r = run([$gpu, 'topk', $device, "$build/t/cuda", 100, 24, 10]);
    is($r->{status}, 0, "$device: it searched") or diag($r->{err});
    $said = JSON::PP::decode_json($r->{out});
    cmp_ok($said->{topk_ms}, '>', 0, "$device: the nearest");
    is($said->{bytes}, 100 * 24 * 2, "$device: bytes of vectors");
}

my $r = run([$gpu, 'tiny', 'cuda:7', "$build/t", 20, 4, '1']);
is($r->{status}, 0, 'no device is no failure') or diag($r->{err});
is($r->{out}, qq|{"none":"there is no device cuda:7"}\n|, 'it is said');

is(run([$gpu, 'tiny'])->{status}, 2, 'arguments that are missing');

done_testing();
