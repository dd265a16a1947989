#!/usr/bin/perl

# aiq tokenize: ids on one line; special tokens only where they are asked for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use AIQ::Command;

my $root = "$FindBin::Bin/..";
my $demo = "$root/demo/demo.gguf";

sub tokenize {
    my ($model, $text, @args) = @_;
    my $r = run([aiq(), 'tokenize', '--model', $model, @args], in => $text);

    is($r->{status}, 0, 'it succeeds') or diag($r->{err});
    return $r->{out};
}

like(tokenize($demo, 'Hello world'), qr/^\d+( \d+)*\n\z/, 'ids on one line');
is(tokenize($demo, ''), "\n", 'no text, no ids');

my $plain = tokenize($demo, '<|im_end|>');
my $special = tokenize($demo, '<|im_end|>', '--special');
like($plain, qr/^\d+( \d+)+\n\z/, 'a special token is text');
like($special, qr/^\d+\n\z/, 'with --special it is one id');

my $long = "All work and no play makes aiq a dull proxy.\n" x 20_000;
my @ids = split ' ', tokenize($demo, $long);
cmp_ok(scalar @ids, '>', 100_000, 'a megabyte is no problem');

like(tokenize($demo, join('', map { chr } 0 .. 255)), qr/^\d+( \d+)+\n\z/, 'any bytes will do');

for my $name (qw(gpt-2 llama-spm falcon)) {
    my $vocab = "$root/../shared/data/ggml-vocab/ggml-vocab-$name.gguf";

    SKIP: {
        skip("no reference vocabulary $name", 1) if !-e $vocab;
        local $/;
        open(my $in, '<:raw', "$vocab.inp") or die $!;
        my @text = split /\n__ggml_vocab_test__\n/, <$in>, -1;
        open(my $out, '<', "$vocab.out") or die $!;
        my @want = split /\n/, <$out>, -1;
        # each has a process of its own, and a sanitizer takes its time over the vocabulary
        my @some = grep { !sanitized() || $_ % 4 == 0 } 0 .. 46;
        my $same = grep { join(' ', split ' ', $want[$_])
                          eq join(' ', split ' ', run([aiq(), 'tokenize', '--model', $vocab],
                                                      in => $text[$_])->{out}) } @some;

        is(scalar @text, 47, "$name: 47 reference texts");
        is($same, scalar @some, "$name: the same ids of $same");
    }
}

done_testing();
