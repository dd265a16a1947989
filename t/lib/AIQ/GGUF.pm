package AIQ::GGUF;

# Model files for tests: to_f32($in, $out) copies a GGUF file with its F16 and
# Q8_0 tensors written out as F32, the same numbers without the packing;
# to_parts($in, $stem, $n) splits it into $stem-00001-of-0000n.gguf and so on;
# with_template($in, $out, $template) gives it another chat template;
# tiny($architecture, $out) writes one of seeded noise in F32, with 300 tokens.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(tiny to_f32 to_parts with_template);

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

# A file's bytes, those of its values, its tensors, and where their numbers begin.
sub read_file {
    my ($in) = @_;

    open(my $file, '<:raw', $in) or die "$in: $!";
    my $data = do { local $/; <$file> };
    my ($n_tensors, $n_values) = unpack('x8 Q<2', $data);
    my $at = 24;

    for (1 .. $n_values) {
        $at += 8 + unpack("x$at Q<", $data);
        $at = skip_value(\$data, $at + 4, unpack("x$at L<", $data));
    }
    my $values = substr($data, 24, $at - 24);

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
    return (\$data, $n_values, $values, \@tensors, $at + (-$at & 31));
}

sub write_file {
    my ($out, @bytes) = @_;

    open(my $to, '>:raw', $out) or die "$out: $!";
    print $to @bytes or die "$out: $!";
    close($to) or die "$out: $!";
    return;
}

sub to_parts {
    my ($in, $stem, $n) = @_;
    my ($data, $n_values, $values, $tensors, $start) = read_file($in);
    my @all = sort { $a->[3] <=> $b->[3] } @$tensors;

    for my $i (0 .. $n - 1) {
        my @mine = @all[ grep { $_ % $n == $i } 0 .. $#all ];
        my $split = key('split.no', 4, $i) . key('split.count', 4, $n)
            . key('split.tensors.count', 4, scalar @all);
        my $head = 'GGUF' . pack('L<Q<Q<', 3, scalar @mine, 3 + ($i == 0 ? $n_values : 0))
            . ($i == 0 ? $values : '') . $split;
        my $body = '';

        for my $t (@mine) {
            my ($name, $dims, $type, $offset) = @$t;
            my ($next) = (grep { $_ > $offset } (map { $_->[3] } @all), length($$data) - $start);

            $head .= pack('Q</a L<', $name, scalar @$dims) . pack('Q<*', @$dims)
                . pack('L<Q<', $type, length $body);
            $body .= substr($$data, $start + $offset, $next - $offset);
            $body .= "\0" x (-length($body) & 31);
        }
        write_file(sprintf('%s-%05d-of-%05d.gguf', $stem, $i + 1, $n), $head,
                   "\0" x (-length($head) & 31), $body);
    }
    return;
}

sub with_template {
    my ($in, $out, $template) = @_;
    my ($data, $n_values, $values, $tensors, $start) = read_file($in);
    my $key = str('tokenizer.chat_template') . pack('L<', $STRING);
    my $at = index($values, $key);
    my $infos = '';

    die "$in has no template" if $at < 0;
    $at += length $key;
    substr($values, $at, 8 + unpack("x$at Q<", $values)) = str($template);
    for my $t (@$tensors) {
        my ($name, $dims, $type, $offset) = @$t;

        $infos .= pack('Q</a L<', $name, scalar @$dims) . pack('Q<*', @$dims) . pack('L<Q<', $type, $offset);
    }
    my $head = 'GGUF' . pack('L<Q<Q<', 3, scalar @$tensors, $n_values) . $values . $infos;
    write_file($out, $head, "\0" x (-length($head) & 31), substr($$data, $start));
    return;
}

sub to_f32 {
    my ($in, $out) = @_;
    my ($data, $n_values, $values, $tensors, $start) = read_file($in);
    my $head = 'GGUF' . pack('L<Q<Q<', 3, scalar @$tensors, $n_values) . $values;
    my $body = '';

    for my $t (@$tensors) {
        my ($name, $dims, $type, $offset) = @$t;
        my $n = 1;

        $n *= $_ for @$dims;
        $head .= pack('Q</a L<', $name, scalar @$dims) . pack('Q<*', @$dims)
            . pack('L<Q<', $F32, length $body);
        $body .= floats($data, $start + $offset, $type, $n);
        $body .= "\0" x (-length($body) & 31);
    }
    write_file($out, $head, "\0" x (-length($head) & 31), $body);
    return;
}

sub str { return pack('Q</a', $_[0]) }

sub key {
    my ($name, $type, $value) = @_;
    my $packed = $type == $STRING ? str($value) : pack($type == 6 ? 'f<' : 'L<', $value);

    return str($name) . pack('L<', $type) . $packed;
}

sub array {
    my ($name, $type, @values) = @_;

    return str($name) . pack('L<L<Q<', $ARRAY, $type, scalar @values) . join('', @values);
}

# Two layers, width 64, 4 heads on 2; heads of 16, but of 32 in Qwen 3's and Gemma's. What is
# otherwise: layers, context, numbers and texts by their key without the architecture, vectors
# by name.
sub tiny {
    my ($arch, $out, %other) = @_;
    my ($width, $ff, $vocab, $layers) = (64, 96, 300, $other{layers} // 2);
    my ($gemma, $gemma2) = ($arch =~ /^gemma/, $arch =~ /^gemma[23]/);
    my $head = $arch eq 'qwen3' || $gemma ? 32 : 16;
    my ($q, $kv) = (4 * $head, 2 * $head);
    my %vectors = %{ $other{vectors} // {} };
    my @tokens = ('<unk>', '<s>', '</s>', (map { sprintf '<0x%02X>', $_ } 0 .. 255),
                  map { "w$_" } 259 .. $vocab - 1);
    my @keys = (
        key('general.architecture', $STRING, $arch),
        (map { key("$arch.$_->[0]", 4, $_->[1]) } ['block_count', $layers],
            ['context_length', $other{context} // 256], ['embedding_length', $width], ['feed_forward_length', $ff],
            ['attention.head_count', 4], ['attention.head_count_kv', 2],
            ['rope.dimension_count', $head],
            $head == 32 ? (['attention.key_length', 32], ['attention.value_length', 32]) : ()),
        (map { key("$arch.$_", $other{numbers}{$_} =~ /[.e]/ ? 6 : 4, $other{numbers}{$_}) }
            sort keys %{ $other{numbers} // {} }),
        (map { key("$arch.$_", $STRING, $other{texts}{$_}) } sort keys %{ $other{texts} // {} }),
        key("$arch.attention.layer_norm_rms_epsilon", 6, 1e-5),
        key('tokenizer.ggml.model', $STRING, 'llama'),
        array('tokenizer.ggml.tokens', $STRING, map { str($_) } @tokens),
        array('tokenizer.ggml.scores', 6, map { pack('f<', -$_) } 0 .. $#tokens),
        array('tokenizer.ggml.token_type', 5,
              map { pack('l<', $_ == 0 ? 2 : $_ < 3 ? 3 : $_ < 259 ? 6 : 1) } 0 .. $#tokens),
        key('tokenizer.ggml.bos_token_id', 4, 1),
        key('tokenizer.ggml.eos_token_id', 4, 2),
    );
    my @layer = (
        ['attn_norm.weight', $width], ['ffn_norm.weight', $width],
        ['attn_output.weight', $q, $width], ['ffn_down.weight', $ff, $width],
        $arch eq 'phi3'
            ? (['attn_qkv.weight', $width, $q + 2 * $kv], ['ffn_up.weight', $width, 2 * $ff])
            : (['attn_q.weight', $width, $q], ['attn_k.weight', $width, $kv],
               ['attn_v.weight', $width, $kv], ['ffn_gate.weight', $width, $ff],
               ['ffn_up.weight', $width, $ff]),
        $arch eq 'qwen2' ? (['attn_q.bias', $q], ['attn_k.bias', $kv], ['attn_v.bias', $kv]) : (),
        $arch =~ /^(?:qwen3|gemma3)$/
            ? (['attn_q_norm.weight', $head], ['attn_k_norm.weight', $head]) : (),
        $gemma2 ? (['post_attention_norm.weight', $width], ['post_ffw_norm.weight', $width]) : (),
    );
    my @tensors = (['token_embd.weight', $width, $vocab], ['output_norm.weight', $width],
                   $gemma ? () : (['output.weight', $width, $vocab]),
                   map { [$_, scalar @{ $vectors{$_} }] } sort keys %vectors);
    for my $i (0 .. $layers - 1) {
        push @tensors, map { my ($name, @dims) = @$_; ["blk.$i.$name", @dims] } @layer;
    }

    srand(7);
    my ($infos, $body) = ('', '');
    for my $t (@tensors) {
        my ($name, @dims) = @$t;
        my $middle = $name =~ /norm/ ? 1 : 0;

        $infos .= str($name) . pack('L<Q<*', scalar @dims, @dims)
            . pack('L<Q<', $F32, length $body);
        $body .= pack('f<*', $vectors{$name} ? @{ $vectors{$name} }
            : map { $middle + rand(0.6) - 0.3 } 1 .. $dims[0] * ($dims[1] // 1));
        $body .= "\0" x (-length($body) & 31);
    }
    my $all = 'GGUF' . pack('L<Q<Q<', 3, scalar @tensors, scalar @keys) . join('', @keys) . $infos;
    write_file($out, $all, "\0" x (-length($all) & 31), $body);
    return;
}

1;
