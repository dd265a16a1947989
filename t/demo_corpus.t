# The demo model is not trained on what it is examined with: no question of
# eval.txt is in its training text, and corpus.py would say so.

use strict;
use warnings;
use lib 't/lib';

use File::Copy qw(copy);
use Test::More;
use AIQ::Command;
use AIQ::Test;

plan(skip_all => 'no matter of the build') if sanitized();

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo";

my $r = run([ 'python3', '-B', "$demo/corpus.py" ]);
is($r->{status}, 0, 'the search ends well') or diag($r->{err});
like($r->{out}, qr/^\d+ facts, \d+ patterns, \d{6,} questions/, 'it went through the whole text');
like($r->{out}, qr/^questions of eval\.txt in the training text: none$/m, 'and found none');

# the same with one of them in a document
copy("$demo/$_", $t->dir) or die "$_: $!" for qw(corpus.py documents.txt eval.txt);
$t->write_file('facts.txt', "[fact] 1\n= An answer.\n? what is asked here\n");
my ($question) = $t->read_file('eval.txt') =~ /^\[frozen\]\n(.*?) =>/m or die 'eval.txt';
$t->write_file('documents.txt', $t->read_file('documents.txt') . "\n$question\n");
$r = run([ 'python3', '-B', $t->dir . '/corpus.py' ]);
is($r->{status}, 1, 'a question in the text');
like($r->{out}, qr/in the training text: \['/, 'is found and named');

$t->finish;
done_testing;
