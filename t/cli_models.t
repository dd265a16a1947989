#!/usr/bin/perl

# aiq models: what a folder holds, what it takes to load it, and why something cannot be.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use File::Copy qw(copy);
use File::Temp ();
use JSON::PP ();
use Test::More;

use AIQ::Command;
use AIQ::GGUF;

my $demo = "$FindBin::Bin/../demo/demo.gguf";
my $dir = File::Temp->newdir;

sub file {
    my ($name, $bytes) = @_;
    open(my $out, '>:raw', "$dir/$name") or die "$name: $!";
    print $out $bytes;
    close $out;
    return;
}

copy($demo, "$dir/demo.gguf");
to_parts($demo, "$dir/parts", 2);
tiny('qwen2', "$dir/tiny.gguf");
copy($demo, "$dir/cut.gguf");
truncate("$dir/cut.gguf", (-s $demo) - 1000);
file('notes.txt', 'no model');
file('empty.gguf', '');
file('text.gguf', 'This is no model, but a text.');
file('old.gguf', 'GGUF' . pack('L<Q<Q<', 2, 0, 0));
file('other.gguf', 'GGUF' . pack('L<Q<Q<', 3, 0, 1) . pack('Q</a L<', 'general.architecture', 8) . pack('Q</a', 'mamba'));
file('page.gguf', '<!DOCTYPE html><html>');
file('lfs.gguf', "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
file('safe.gguf', pack('Q<', 64) . '{"__metadata__":{}}');
file('older.gguf', 'ggjt' . "\0" x 64);
file('big.gguf', 'GGUF' . pack('L>Q>Q>', 3, 0, 0));
file('quant.gguf', 'GGUF' . pack('L<Q<Q<', 3, 1, 0) . pack('Q</a', 'output.weight') . pack('L<Q<L<Q<', 1, 256, 23, 0));
file('hostile.gguf', 'GGUF' . pack('L<Q<Q<', 3, 0, 1) . pack('Q</a L< Q</a', 'general.architecture', 8, "a\xff\n\e[1m"));
file("caf\xc3\xa9.gguf", 'This is no model, but a text.');
file("caf\xe9.gguf", 'This is no model, but a text.');
file("two\nlines.gguf", '');
file("l\xf6st-00001-of-00002.gguf", 'GGUF' . pack('L<Q<Q<', 3, 0, 2)
    . join('', map { pack('Q</a L<L<', $_->[0], 4, $_->[1]) } ['split.no', 0], ['split.count', 2]));
tiny('llama', "$dir/moe.gguf", numbers => { expert_count => 8 });
file('lost-00001-of-00002.gguf', 'GGUF' . pack('L<Q<Q<', 3, 0, 2)
    . join('', map { pack('Q</a L<L<', $_->[0], 4, $_->[1]) } ['split.no', 0], ['split.count', 2]));

my $r = run([aiq(), 'models', "$dir"]);
is($r->{status}, 0, 'it succeeds') or diag($r->{err});
my %line = map { my ($name, $rest) = split /\t/, $_, 2; $name => $rest } split /\n/, $r->{out};
my $bytes = -s $demo;
like($line{demo}, qr/^llama\t\d{7}\t$bytes\t512\t\d+\tok$/, 'a model');
my @parts = split /\t/, $line{parts};
is($parts[-1], 'ok', 'one in several files, once');
my ($more) = $parts[2] - $bytes;
ok($more > 0 && $more < 1000, 'with the bytes of both');
like($line{tiny}, qr/^qwen2\t\d+\t\d+\t256\t65536\tok$/, 'another; 2 layers, 2 x 32 values of 2 bytes, 256 tokens');
my %why = map { my $line = $line{$_}; $_ => $line =~ s/^(?:-\t){5}//r } grep { $line{$_} =~ /^-/ } keys %line;
is_deeply(\%why, {
    cut   => 'the file is cut short: the tensor blk.3.ffn_down.weight ends behind its end',
    empty => 'empty file',
    text  => 'not a GGUF file',
    "caf\xc3\xa9" => 'not a GGUF file',
    'caf?' => 'not a GGUF file',
    'two?lines' => 'empty file',
    'l?st' => 'l?st-00002-of-00002.gguf: No such file or directory',
    page  => 'not a GGUF file: it begins as a web page does',
    lfs   => 'not a GGUF file: it points to one that Git LFS has not fetched',
    safe  => 'not a GGUF file: it is in the format safetensors',
    older => 'not a GGUF file, but of the format before it',
    old   => 'version 2 of GGUF is not supported, only 3 is',
    big   => 'GGUF for big-endian machines is not supported',
    quant => 'output.weight: tensors of type IQ4_XS are not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K and Q6_K are)',
    moe   => 'mixtures of experts are not supported',
    other => 'the architecture "mamba" is not supported (llama, qwen2, qwen3, phi3, gemma, gemma2 and gemma3 are)',
    hostile => 'the architecture "a???[1m" is not supported (llama, qwen2, qwen3, phi3, gemma, gemma2 and gemma3 are)',
    lost  => 'lost-00002-of-00002.gguf: No such file or directory',
}, 'and what is none says why');

my @json = @{ JSON::PP->new->decode(run([aiq(), 'models', "$dir", '--json'])->{out}) };
is_deeply([ map { $_->{name} } @json ], [ map { (split /\t/)[0] } split /\n/, $r->{out} ], 'as JSON the same');
my %json = map { $_->{name} => $_ } @json;
is($json{demo}{bytes}, $bytes, 'its size');
ok($json{demo}{loadable} && !$json{cut}{loadable}, 'can it be loaded?');
is($json{cut}{reason}, $why{cut}, 'why not');

$r = run([aiq(), 'models', "$dir/none"]);
is("$r->{status} $r->{err}", "1 aiq models: $dir/none: No such file or directory\n", 'no folder');
is(run([aiq(), 'models', "$dir", 'x'])->{status}, 2, 'called wrong');

done_testing();
