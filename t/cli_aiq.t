#!/usr/bin/perl

# The aiq command: help that helps, and one line and the right status where it
# is called wrong.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use File::Temp ();
use Test::More;

use AIQ::Command;

my $aiq = aiq();
my $demo = "$FindBin::Bin/../demo/demo.gguf";

for my $args (['--help'], map { [$_, '--help'] } qw(tokenize generate bench keys tenants users)) {
    my $r = run([$aiq, @$args]);

    is($r->{status}, 0, "@$args succeeds");
    like($r->{out}, qr/^Usage: aiq /, "@$args says how");
    is($r->{err}, '', "@$args complains about nothing");
}

my $help = run([$aiq, '--help'])->{out};
like($help, qr/^  $_ /m, "the list has $_") for qw(tokenize generate bench keys tenants users);

my @wrong = (
    [[], 'aiq: no command (see aiq --help)'],
    [['nonsense'], 'aiq: unknown command nonsense (see aiq --help)'],
    [['tokenize'], 'aiq tokenize: --model is missing (see --help)'],
    [['tokenize', '--model'], 'aiq tokenize: --model needs a value (see --help)'],
    [['tokenize', '--modle', 'x'], 'aiq tokenize: unknown option --modle (see --help)'],
    [['tokenize', '--model', 'x', 'y'], 'aiq tokenize: unexpected argument y (see --help)'],
    [['generate', '-x'], 'aiq generate: unknown option -x (see --help)'],
    [['generate', '--model', 'x'],
        'aiq generate: one of --prompt and --ids is needed (see --help)'],
    [['generate', '--model', 'x', '--prompt', 'a', '--ids', '1'],
        'aiq generate: one of --prompt and --ids is needed (see --help)'],
    [['bench'], 'aiq bench: --model is missing (see --help)'],
    (map { [['bench', '--model', 'x', @$_],
            "aiq bench: $_->[1] is not a value for this option (see --help)"] }
        ['--batch', '1,,2'], ['--batch', '0'], ['--threads', '0'], ['--device', 'gpu,']),
    (map { [['generate', '--model', 'x', '--prompt', 'a', @$_],
            "aiq generate: $_->[1] is not a value for this option (see --help)"] }
        ['-n', '0'], ['-n', '-1'], ['-n', '1x'], ['-n', '99999999999999999999'],
        ['--ids', '1,,x'], ['--ids', '-3'], ['--temperature', '3'], ['--temperature', 'nan'],
        ['--top-p', '1.1'], ['--top-k', '1.5'], ['--seed', '-1']),
);

for my $case (@wrong) {
    my ($args, $says) = @$case;
    my $r = run([$aiq, @$args]);

    is($r->{status}, 2, "aiq @$args: called wrong");
    is($r->{err}, "$says\n", "aiq @$args: in one line");
    is($r->{out}, '', "aiq @$args: nothing else");
}

my $dir = File::Temp->newdir;
my $cut = "$dir/cut.gguf";
open(my $in, '<:raw', $demo) or die "$demo: $!";
read($in, my $head, 100_000);
open(my $out, '>:raw', $cut) or die "$cut: $!";
print $out $head;
close($out);

for my $command ([qw(tokenize)], [qw(generate --prompt a)], [qw(bench)]) {
    my ($name, @rest) = @$command;

    for my $case (["$dir/none.gguf", 'No such file or directory'], ["$dir", 'not a regular file'],
                  ["$FindBin::Bin/cli_aiq.t", 'not a GGUF file'],
                  [$cut, 'the file is cut short: the tensor token_embd.weight ends behind its end']) {
        my ($path, $why) = @$case;
        my $r = run([$aiq, $name, '--model', $path, @rest]);

        is($r->{status}, 1, "$name fails: $why");
        is($r->{err}, "aiq $name: $path: $why\n", "$name says so in one line");
    }
}

my $r = run(['/bin/sh', '-c', 'exec "$@" >/dev/full', 'sh', $aiq, '--help']);
is($r->{status}, 1, 'a full disk is an error');

done_testing();
