#!/usr/bin/perl
# The published expressions in an engine that is not ours: per line a name and a text in hex;
# out come the lengths of the words that the text is cut into, in bytes.
use strict;
use warnings;
use feature 'unicode_strings';

my $gpt2 = qr/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/;
my $contraction = qr/'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]/;
my $space = qr/\s*[\r\n]+|\s+(?!\S)|\s+/;
my $ideographs = qr/[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+/;

# DeepSeek's list of letters: those of 2018 with case, without the youngest and mathematics.
my $listed = qr/(?![\x{560}-\x{588}\x{10c7}-\x{10ff}\x{1c80}-\x{1c88}\x{2d00}-\x{2d2d}]
                   |[\x{a790}-\x{ab6f}\x{10570}-\x{105bc}\x{16e40}-\x{16e7f}]
                   |[\x{1d400}-\x{1df1e}])[\p{Lu}\p{Ll}\p{Lt}]/x;
my %cuts = (
    'gpt-2' => [$gpt2],
    'llama-bpe' => [qr/$contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
                       |[ ]?[^\s\p{L}\p{N}]+[\r\n]*|$space/x],
    'qwen2' => [qr/$contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
                   |[ ]?[^\s\p{L}\p{N}]+[\r\n]*|$space/x],
    'tekken' => [qr/[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+
                    |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*
                    |\p{N}|[ ]?[^\s\p{L}\p{N}]+[\r\n\/]*|$space/x],
    'gpt-4o' => [qr/[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*
                        [\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:$contraction)?
                    |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+
                        [\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:$contraction)?
                    |\p{N}{1,3}|[ ]?[^\s\p{L}\p{N}]+[\r\n\/]*|$space/x],
    'seed-coder' => [qr/$contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
                        |[ ]?[^\s\p{L}\p{N}]+|$space/x],
    'minicpm5' => [qr/\p{N}{1,3}/,
                   qr/$contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+
                      |[ ]?[^\s\p{L}\p{N}]+[\r\n]*|$space/x],
    'smollm' => [qr/\p{N}/, $gpt2],
    'deepseek-llm' => [qr/[\r\n]/, qr/\s?(?:$listed)+/,
                       qr/\s?[!-\/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}
                              \x{3000}-\x{3002}]+/xx,
                       qr/\s+$/, $ideographs, qr/\p{N}+/],
    'deepseek-coder' => [qr/[\r\n]/, qr/\s?\p{L}+/, qr/\s?\p{P}+/, $ideographs, qr/\p{N}/],
    'falcon' => [qr/[\p{P}\$\+<=>\^~\|`]+/, $gpt2, qr/[0-9][0-9][0-9]/],
    'default' => [qr/[\p{P}\$\+<=>\^~\|]+/, $gpt2, qr/\p{N}+/, qr/[0-9][0-9][0-9]/],
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
