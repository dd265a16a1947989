#!/usr/bin/perl

# aiq generate on the demo model: greedy repeats itself, seeds repeat, the
# prompt may come as ids, and it ends where it should.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Encode ();
use JSON::PP ();
use Test::More;

use AIQ::Command;

my $demo = "$FindBin::Bin/../demo/demo.gguf";
my $chat = "<|im_start|>user\nWhat is aiq?<|im_end|>\n<|im_start|>assistant\n";

sub generate {
    my (@args) = @_;
    my $r = run([aiq(), 'generate', '--model', $demo, @args]);

    is($r->{status}, 0, 'it succeeds') or diag($r->{err});
    return $r->{out};
}

sub generate_json {
    my $out = generate('--json', @_);

    like($out, qr/^\{"ids":\[[\d,]*\],"text":".*"\}\n\z/s, 'one line of JSON');
    return JSON::PP->new->utf8->decode($out);
}

my $text = generate('--greedy', '--prompt', $chat);
like($text, qr/nginx/, 'it answers');
unlike($text, qr/<\|im_end\|>/, 'without the token that ends its turn');
is(generate('--greedy', '--prompt', $chat), $text, 'greedy repeats itself');

my $json = generate_json('--greedy', '--prompt', $chat);
is($json->{text} . "\n", Encode::decode('UTF-8', $text), 'the same text as JSON');
cmp_ok(scalar @{ $json->{ids} }, '<', 128, 'the end of the turn ends it');

my $ids = run([aiq(), 'tokenize', '--special', '--model', $demo], in => $chat)->{out};
chomp $ids;
is_deeply(generate_json('--greedy', '--ids', $ids), $json, 'the prompt as ids');
(my $commas = $ids) =~ tr/ /,/;
is_deeply(generate_json('--greedy', '--ids', $commas), $json, 'the prompt as ids with commas');

my $short = generate_json('--greedy', '-n', 3, '--prompt', $chat);
is_deeply($short->{ids}, [@{ $json->{ids} }[0 .. 2]], '-n cuts it');

my @drawn = map { generate('--temperature', 1.5, '--seed', $_, '-n', 40, '--prompt', 'a') }
    7, 7, 8;
is($drawn[0], $drawn[1], 'the same seed draws the same');
isnt($drawn[0], $drawn[2], 'another seed draws another');
is(generate('--top-k', 1, '-n', 20, '--prompt', 'The'),
   generate('--greedy', '-n', 20, '--prompt', 'The'), 'top-k 1 is greedy');

my $full = generate_json('--temperature', 2, '--seed', 1, '-n', 100000, '--prompt', 'a');
cmp_ok(scalar @{ $full->{ids} }, '<=', 511, 'the context ends it');

my $r = run([aiq(), 'generate', '--model', $demo, '--ids', '1,999999']);
is($r->{status}, 1, 'an id beyond the vocabulary fails');
is($r->{err}, "aiq generate: 999999 is not a token\n", 'and says why');

$r = run([aiq(), 'generate', '--model', $demo, '--prompt', 'word ' x 1000]);
is($r->{status}, 1, 'a prompt beyond the context fails');
like($r->{err}, qr/^aiq generate: the prompt does not fit the model's context of \d+ tokens\n\z/,
     'and says why');

done_testing();
