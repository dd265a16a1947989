package AIQ::Encoder;

# Model files for vectors of texts: tiny_encoder($architecture, $out, %keys)
# writes one of seeded noise in F32 with a vocabulary of words, letters and
# signs; with_keys($in, $out, [name, type, value], …) copies a GGUF file and
# adds numbers to it.

use strict;
use warnings;

use Exporter qw(import);

use AIQ::GGUF ();

our @EXPORT = qw(tiny_encoder with_keys);

my ($U32, $F32, $BOOL, $STRING) = (4, 6, 7, 8);
my $SPACE = "\xe2\x96\x81";

sub key {
    my ($name, $type, $value) = @_;

    return AIQ::GGUF::str($name) . pack('L<C', $type, $value) if $type == $BOOL;
    return AIQ::GGUF::key($name, $type, $value);
}

# Words, and letters and signs that begin a word or go on with one.
sub words {
    return ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]',
            (map { $SPACE . $_ } qw(what is the how do reset my password where are metrics)),
            (map { ($SPACE . $_, $_) } 'a' .. 'z', 0 .. 9), map { $SPACE . $_ } ('?', '!', '.', ','));
}

sub layer {
    my ($arch, $d, $ff) = @_;
    my @norms = map { ("$_.weight", "$_.bias") } qw(attn_output_norm layer_output_norm);

    return ((map { [$_, $d] } @norms),
            ['attn_output.weight', $d, $d], ['ffn_up.weight', $d, $ff], ['ffn_down.weight', $ff, $d],
            $arch eq 'bert'
                ? ((map { (["attn_$_.weight", $d, $d], ["attn_$_.bias", $d]) } qw(q k v)),
                   ['attn_output.bias', $d], ['ffn_up.bias', $ff], ['ffn_down.bias', $d])
                : (['attn_qkv.weight', $d, 3 * $d], ['ffn_gate.weight', $d, $ff]));
}

sub tiny_encoder {
    my ($arch, $out, %more) = @_;
    my ($d, $ff, $context, $layers) = (64, 96, 64, 2);
    my @words = words();
    my @keys = (
        key('general.architecture', $STRING, $arch),
        (map { key("$arch.$_->[0]", $U32, $_->[1]) } ['block_count', $layers],
            ['context_length', $context], ['embedding_length', $d], ['feed_forward_length', $ff],
            ['attention.head_count', 4], ['pooling_type', $more{pooling} // 1]),
        key("$arch.attention.layer_norm_epsilon", $F32, 1e-12),
        key("$arch.attention.causal", $BOOL, 0),
        key("$arch.rope.freq_base", $F32, 1000),
        key('tokenizer.ggml.model', $STRING, 'bert'),
        key('tokenizer.ggml.token_type_count', $U32, 2),
        AIQ::GGUF::array('tokenizer.ggml.tokens', $STRING, map { AIQ::GGUF::str($_) } @words),
        AIQ::GGUF::array('tokenizer.ggml.token_type', 5,
                         map { pack('l<', $_ == 1 ? 2 : $_ < 5 ? 3 : 1) } 0 .. $#words),
        map { key("tokenizer.ggml.$_->[0]_token_id", $U32, $_->[1]) } ['padding', 0],
            ['unknown', 1], ['cls', 2], ['bos', 2], ['seperator', 3], ['eos', 3], ['mask', 4],
    );
    my @tensors = (['token_embd.weight', $d, scalar @words], ['token_types.weight', $d, 2],
                   ['token_embd_norm.weight', $d], ['token_embd_norm.bias', $d],
                   $arch eq 'bert' ? ['position_embd.weight', $d, $context] : ());
    for my $i (0 .. $layers - 1) {
        push @tensors, map { my ($name, @dims) = @$_; ["blk.$i.$name", @dims] }
            layer($arch, $d, $ff);
    }

    srand(11);
    my ($infos, $body) = ('', '');
    for my $t (@tensors) {
        my ($name, @dims) = @$t;
        my $middle = $name =~ /norm\.weight/ ? 1 : 0;

        $infos .= AIQ::GGUF::str($name) . pack('L<Q<*', scalar @dims, @dims)
            . pack('L<Q<', 0, length $body);
        $body .= pack('f<*', map { $middle + rand(0.6) - 0.3 } 1 .. $dims[0] * ($dims[1] // 1));
        $body .= "\0" x (-length($body) & 31);
    }
    my $head = 'GGUF' . pack('L<Q<Q<', 3, scalar @tensors, scalar @keys) . join('', @keys) . $infos;
    return write_file($out, $head, $body);
}

sub write_file {
    my ($out, $head, $body) = @_;

    open(my $to, '>:raw', $out) or die "$out: $!";
    print $to $head, "\0" x (-length($head) & 31), $body or die "$out: $!";
    close($to) or die "$out: $!";
    return;
}

sub with_keys {
    my ($in, $out, @keys) = @_;

    open(my $file, '<:raw', $in) or die "$in: $!";
    my $data = do { local $/; <$file> };
    my ($n_tensors, $n_values) = unpack('x8 Q<2', $data);
    my $at = 24;

    for (1 .. $n_values) {
        $at += 8 + unpack("x$at Q<", $data);
        $at = AIQ::GGUF::skip_value(\$data, $at + 4, unpack("x$at L<", $data));
    }
    my $end = $at;
    for (1 .. $n_tensors) {
        $end += 8 + unpack("x$end Q<", $data);
        $end += 4 + 8 * unpack("x$end L<", $data) + 12;
    }
    my $head = substr($data, 0, 16) . pack('Q<', $n_values + @keys) . substr($data, 24, $at - 24)
        . join('', map { key(@$_) } @keys) . substr($data, $at, $end - $at);
    return write_file($out, $head, substr($data, $end + (-$end & 31)));
}

1;
