#!/usr/bin/perl

# A model in several files is the model it was; one with a part that is missing, of another
# model or cut short is named with that part. On a terminal a bar shows how far reading is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use File::Copy qw(copy);
use File::Temp ();
use Test::More;

use AIQ::Command;
use AIQ::GGUF;

my $demo = "$FindBin::Bin/../demo/demo.gguf";
my $dir = File::Temp->newdir;
my $stem = "$dir/demo";

sub generate {
    my ($model) = @_;
    return run([aiq(), qw(generate --greedy -n 12 --prompt The --model), $model]);
}

sub part { return sprintf('%s-%05d-of-%05d.gguf', $_[1] // $stem, $_[0], 3) }

sub refused {
    my ($model, $why, $name) = @_;
    my $r = generate($model);

    is($r->{status}, 1, "$name: refused");
    is($r->{err}, "aiq generate: $model: $why\n", "$name: why");
    return;
}

to_parts($demo, $stem, 3);
my $r = generate(part(1));
is($r->{status}, 0, 'a model in three files') or diag($r->{err});
is($r->{out}, generate($demo)->{out}, 'says what it says in one');
is($r->{err}, '', 'nobody watches: no bar');

refused(part(2), 'it is part 2 of a model in 3 files; name the first, *-00001-of-00003.gguf', 'the second');
copy(part(1), "$dir/one.gguf");
refused("$dir/one.gguf", 'it is the first of 3 files, and its name does not end in -00001-of-00003.gguf',
    'the first by another name');
rename(part(2), "$dir/kept");
refused(part(1), 'demo-00002-of-00003.gguf: No such file or directory', 'a part that is missing');
copy(part(3), part(2));
refused(part(1), 'part 2 of 3 says that it is part 3 of 3', 'a part that is another');
copy("$dir/kept", part(2));
truncate(part(2), (-s part(2)) / 2);
refused(part(1), 'demo-00002-of-00003.gguf: the file is cut short: the tensor blk.1.ffn_gate.weight ends behind its end', 'a part that is cut short');

SKIP: {
    skip('no script command', 2) if !grep { -x "$_/script" } split /:/, $ENV{PATH};
    my $seen = run(['script', '-qec', join(' ', aiq(), qw(generate -n 1 --prompt The --model), $demo),
                    '/dev/null'])->{out};
    like($seen, qr/\rreading the model \[#* *\] +\d+ %/, 'on a terminal there is a bar');
    like($seen, qr/\r\e\[K/, 'and then none');
}

done_testing();
