#!/usr/bin/perl
# The published expressions in an engine that is not ours: per line a name and a text in hex;
# out come the lengths of the words that the text is cut into, in bytes.
use strict;
use warnings;
use feature 'unicode_strings';

my $gpt2 = qr/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/;
my $contraction = qr/'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]/;
my $space = qr/\s*[\r\n]+|\s+(?!\S)|\s+/;
my %cuts = (
    'gpt-2' => [$gpt2],
    'llama-bpe' => [qr/$contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
                       |[ ]?[^\s\p{L}\p{N}]+[\r\n]*|$space/x],
    'qwen2' => [qr/$contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
                   |[ ]?[^\s\p{L}\p{N}]+[\r\n]*|$space/x],
    'tekken' => [qr/[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+
                    |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*
                    |\p{N}|[ ]?[^\s\p{L}\p{N}]+[\r\n\/]*|$space/x],
    'falcon' => [qr/[\p{P}\$\+<=>\^~\|`]+/, $gpt2, qr/[0-9][0-9][0-9]/],
);

while (my $line = <STDIN>) {
    my ($name, $hex) = split ' ', $line;
    my $text = pack 'H*', $hex;
    utf8::decode($text) or die 'no UTF-8';
    my @words = ($text);

    for my $cut (@{ $cuts{$name} }) {
        @words = grep { length } map { split /($cut)/ } @words;
    }
    print join(' ', map { utf8::encode(my $w = $_); length $w } @words), "\n";
}
