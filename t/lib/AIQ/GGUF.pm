package AIQ::GGUF;

# Model files for tests: to_f32($in, $out) copies a GGUF file with its F16 and
# Q8_0 tensors written out as F32, the same numbers without the packing.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(to_f32);

my ($F32, $F16, $Q8_0) = (0, 1, 8);
my ($STRING, $ARRAY) = (8, 9);
my %SIZE = (0 => 1, 1 => 1, 2 => 2, 3 => 2, 4 => 4, 5 => 4, 6 => 4, 7 => 1, 10 => 8, 11 => 8,
            12 => 8);

my @half;    # the values of all 16-bit floats

sub half_table {
    return if @half;
    for my $h (0 .. 0xffff) {
        my ($exp, $frac) = ($h >> 10 & 0x1f, $h & 0x3ff);
        my $v = $exp ? (1 + $frac / 1024) * 2 ** ($exp - 15) : $frac * 2 ** -24;

        $half[$h] = $h & 0x8000 ? -$v : $v;
    }
    return;
}

sub skip_value {
    my ($data, $at, $type) = @_;

    if ($type == $STRING) {
        return $at + 8 + unpack("x$at Q<", $$data);
    }
    if ($type == $ARRAY) {
        my ($of, $n) = unpack("x$at L<Q<", $$data);

        $at += 12;
        return $at + $n * $SIZE{$of} if $of != $STRING;
        $at = skip_value($data, $at, $STRING) for 1 .. $n;
        return $at;
    }
    return $at + $SIZE{$type};
}

sub floats {
    my ($data, $at, $type, $n) = @_;

    half_table();
    return substr($$data, $at, $n * 4) if $type == $F32;
    return pack('f<*', @half[unpack("S<$n", substr($$data, $at, $n * 2))]) if $type == $F16;
    die "tensor type $type" if $type != $Q8_0;

    my $out = '';
    for my $block (0 .. $n / 32 - 1) {
        my ($h, @q) = unpack('S<c32', substr($$data, $at + $block * 34, 34));
        my $scale = $half[$h];

        $out .= pack('f<32', map { $scale * $_ } @q);
    }
    return $out;
}

sub to_f32 {
    my ($in, $out) = @_;

    open(my $file, '<:raw', $in) or die "$in: $!";
    my $data = do { local $/; <$file> };
    my ($n_tensors, $n_values) = unpack('x8 Q<2', $data);
    my $at = 24;

    for (1 .. $n_values) {
        $at += 8 + unpack("x$at Q<", $data);
        $at = skip_value(\$data, $at + 4, unpack("x$at L<", $data));
    }
    my $head = substr($data, 0, $at);

    my @tensors;
    for (1 .. $n_tensors) {
        my ($name, $n_dims) = unpack("x$at Q</a L<", $data);

        $at += 8 + length($name) + 4;
        my @dims = unpack("x$at Q<$n_dims", $data);
        $at += 8 * $n_dims;
        my ($type, $offset) = unpack("x$at L<Q<", $data);
        $at += 12;
        push @tensors, [$name, \@dims, $type, $offset];
    }
    my $start = $at + (-$at & 31);

    my $body = '';
    for my $t (@tensors) {
        my ($name, $dims, $type, $offset) = @$t;
        my $n = 1;

        $n *= $_ for @$dims;
        $head .= pack('Q</a L<', $name, scalar @$dims) . pack('Q<*', @$dims)
            . pack('L<Q<', $F32, length $body);
        $body .= floats(\$data, $start + $offset, $type, $n);
        $body .= "\0" x (-length($body) & 31);
    }
    open(my $to, '>:raw', $out) or die "$out: $!";
    print $to $head, "\0" x (-length($head) & 31), $body or die "$out: $!";
    close($to) or die "$out: $!";
    return;
}

1;
