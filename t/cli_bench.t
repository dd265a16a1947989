#!/usr/bin/perl

# aiq bench: how many tokens a second, as text and as JSON.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;

use AIQ::Command;

my @bench = (aiq(), 'bench', '--model', "$FindBin::Bin/../demo/demo.gguf", '--prompt-tokens', 16,
             '--gen-tokens', 2, '--batch', '1,3', '--threads', 1);

my $r = run([@bench, '--json']);
is($r->{status}, 0, 'it ran') or diag($r->{err});
my $said = JSON::PP::decode_json($r->{out});
is_deeply([sort keys %$said], ['decode_tps', 'prefill_tps'], 'prefill and decode');
is_deeply([sort keys %{ $said->{decode_tps} }], [1, 3], 'a figure for each batch');
ok(!(grep { !($_ > 0) } $said->{prefill_tps}, values %{ $said->{decode_tps} }), 'all above zero');

my $rate = qr{[\d.]+ tokens/s};
like(run(\@bench)->{out}, qr{^prefill, 16 tokens: $rate\n(decode, batch of [13]: $rate\n){2}$},
     'the same as text');

$r = run([@bench, '--prompt-tokens', 100000]);
isnt($r->{status}, 0, 'more tokens than the context holds are refused');
like($r->{err}, qr/^aiq bench: /, 'with a line that says so');

# the back end for tests is another device
my $build = aiq() =~ s{/[^/]*$}{}r;
like(run([@bench, '--device', 'fake:0', '--kernels', "$build/t"])->{out}, qr{^prefill, 16 tokens: $rate\n},
     'a device of a library');
$r = run([@bench, '--device', 'fake:7', '--kernels', "$build/t"]);
isnt($r->{status}, 0, 'one that is not there is refused');
is($r->{err}, "aiq bench: --device fake: there is no such device\n", 'with a line that says so');

done_testing();
