# The semantic cache on pairs of questions of which it is known whether one answer is good for
# both: no question is answered by another one's answer, and many are in other words.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;

use constant THRESHOLD => 0.5;    # what "aiq_cache semantic" takes

my $t = AIQ::Test->new;
my $file = $t->dir . '/pairs';
system("$^X $FindBin::Bin/semantic/pairs.pl >$file") == 0 or die "no pairs\n";
my @pairs = map { chomp; [ split /\t/ ] } split /^/, $t->read_file('pairs');
my @seen = map { chomp; [ split /\t/ ] } split /^/, qx(@{[ $t->binary('bench/pairs') ]} <$file);
is(scalar @seen, scalar @pairs, 'every pair was compared');
cmp_ok(scalar @pairs, '>=', 1000, 'a thousand pairs');

# The largest share that gives so few of n, or fewer, in one case of twenty: Clopper and Pearson.
sub upper_bound {
    my ($k, $n) = @_;
    my ($low, $high) = ($k / $n, 1);
    for (1 .. 60) {
        my $p = ($low + $high) / 2;
        my ($term, $sum) = ((1 - $p)**$n, 0);
        for my $i (0 .. $k) {
            $sum += $term;
            $term *= ($n - $i) / ($i + 1) * $p / (1 - $p) if $p < 1;
        }
        ($sum > 0.05 ? $low : $high) = $p;
    }
    return $high;
}

my (%n, %hits, %loose);
for my $i (0 .. $#pairs) {
    my ($half, $kind, @questions) = @{ $pairs[$i] };
    my ($cosine, $verdict, $loose) = @{ $seen[$i] };
    my $hit = $cosine >= THRESHOLD && $verdict eq 'same';
    $n{$half}{$kind}++;
    $hits{$half}{$kind} += $hit;
    $loose{$half}{$kind} += $loose eq 'same';
    diag("'$questions[0]' is taken for '$questions[1]'") if $hit && $kind ne 'same';
}
for my $half (1, 2) {
    my @kinds = grep { $_ ne 'same' } sort keys %{ $n{$half} };
    my ($wrong, $others) = (0, 0);
    for my $kind (@kinds) {
        is($hits{$half}{$kind}, 0, "half $half: $n{$half}{$kind} of $kind");
        $wrong += $hits{$half}{$kind};
        $others += $n{$half}{$kind};
    }
    is($loose{$half}{$_}, 0, "half $half: of a model's gates, too, none of $_") for qw(negation number reversal);
    note("half $half: of a model's gates pass " . join(', ', map { "$loose{$half}{$_} of $n{$half}{$_} $_" } 'same', @kinds));
    cmp_ok($hits{$half}{same} / $n{$half}{same}, '>', 0.35, "half $half: more than a third in other words");
    note(sprintf('half %d: %d of %d in other words (%.1f %%); %d of %d others, so at most %.2f %%', $half,
        $hits{$half}{same}, $n{$half}{same}, 100 * $hits{$half}{same} / $n{$half}{same},
        $wrong, $others, 100 * upper_bound($wrong, $others)));
}
cmp_ok(abs(upper_bound(0, 100) - 0.02951), '<', 0.0001, 'the bound of none in a hundred');
cmp_ok(abs(upper_bound(3, 100) - 0.07571), '<', 0.0001, 'and of three');

$t->finish;
done_testing();
