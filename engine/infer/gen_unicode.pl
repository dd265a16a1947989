#!/usr/bin/perl
# Writes unicode_tables.h, the character classes tokenizers need, from the
# Unicode data that Perl carries:  perl gen_unicode.pl > unicode_tables.h
use strict;
use warnings;
use Unicode::UCD;

sub table {
    my ($name, $class) = @_;
    my (@ranges, $in);

    for my $c (0 .. 0x10ffff) {
        my $is = !($c >= 0xd800 && $c <= 0xdfff) && chr($c) =~ $class;

        push @ranges, [$c, $c] if $is && !$in;
        $ranges[-1][1] = $c if $is;
        $in = $is;
    }
    my @items = map { sprintf '{0x%x, 0x%x},', @$_ } @ranges;
    my $line = '   ';

    print "static const uint32_t ${name}[][2] = {\n";
    for my $item (@items) {
        if (length($line) + 1 + length($item) > 96) {
            print "$line\n";
            $line = '   ';
        }
        $line .= " $item";
    }
    print "$line\n};\n\n";
}

print "/* Written by gen_unicode.pl from Unicode ", Unicode::UCD::UnicodeVersion(),
    ": first and last of each range. */\n\n/* clang-format off */\n";
table('letters', qr/\p{L}/);
table('numbers', qr/\p{N}/);
table('spaces', qr/\p{White_Space}/);
print "/* clang-format on */\n";
