#!/usr/bin/perl
# Writes what tokenizers need to know of characters, from the Unicode data that Perl carries:
#   perl gen_unicode.pl classes > unicode_tables.h
#   perl gen_unicode.pl fold    > unicode_fold.h
use strict;
use warnings;
use feature 'unicode_strings'; # lc of U+00C9, too
use Unicode::Normalize qw(NFD);
use Unicode::UCD;

sub lines {
    my @items = @_;
    my $line = '   ';

    for my $item (@items) {
        if (length($line) + 1 + length($item) > 96) {
            print "$line\n";
            $line = '   ';
        }
        $line .= " $item";
    }
    print "$line\n};\n\n";
}

sub table {
    my ($name, $class) = @_;
    my (@ranges, $in);

    for my $c (0 .. 0x10ffff) {
        my $is = !($c >= 0xd800 && $c <= 0xdfff) && chr($c) =~ $class;

        push @ranges, [$c, $c] if $is && !$in;
        $ranges[-1][1] = $c if $is;
        $in = $is;
    }
    print "static const uint32_t ${name}[][2] = {\n";
    lines(map { sprintf '{0x%x, 0x%x},', @$_ } @ranges);
}

# Runs of characters whose folded forms lie as far away, in steps of 1 or 2.
sub folds {
    my @runs;

    for my $c (0x80 .. 0x10ffff) {
        next if $c >= 0xac00 && $c <= 0xdfff;    # Hangul is computed; surrogates

        my $folded = NFD(lc chr $c) =~ s/\p{Mn}//gr;
        next if $folded eq chr $c;
        next if length($folded) > 2;    # six musical notes
        my ($to, $more) = map { ord } split //, $folded;
        $to //= 0;
        $more //= 0;
        my $delta = $to ? $to - $c : 0;
        my $run = $runs[-1];

        if ($run && $run->{delta} == $delta && !$more && !$run->{more} && !!$to == $run->{kept}) {
            my $step = $c - $run->{last};
            if ($step <= 2 && ($run->{step} == 0 || $run->{step} == $step)) {
                @$run{qw(last step)} = ($c, $step);
                next;
            }
        }
        push @runs, {first => $c, last => $c, step => 0, delta => $delta, more => $more,
                     kept => !!$to};
    }
    print "static const fold folds[] = {\n";
    lines(map { sprintf '{0x%x, 0x%x, %d, %s, %s},', $_->{first}, $_->{last}, $_->{step} || 1,
                $_->{kept} ? $_->{delta} : 'DROPPED', $_->{more} ? sprintf('0x%x', $_->{more}) : 0 }
          @runs);
}

print "/* Written by gen_unicode.pl from Unicode ", Unicode::UCD::UnicodeVersion();
if ($ARGV[0] eq 'fold') {
    print ": characters without case and accents. */\n\n/* clang-format off */\n";
    folds();
} else {
    print ": first and last of each range. */\n\n/* clang-format off */\n";
    table('letters', qr/\p{L}/);
    table('upper', qr/[\p{Lu}\p{Lt}]/);
    table('lower', qr/\p{Ll}/);
    table('marks', qr/\p{M}/);
    table('numbers', qr/\p{N}/);
    table('punctuation', qr/\p{P}/);
    table('controls', qr/[\p{Cc}\p{Cf}]/);
    table('spaces', qr/\p{White_Space}/);
}
print "/* clang-format on */\n";
