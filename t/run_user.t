# make run as an ordinary user: nothing of it needs root once packages are there.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Run;
use AIQ::Test;

plan(skip_all => 'needs root, to become another user') if $> != 0;
my @become = qw(setpriv --reuid=nobody --regid=nogroup --clear-groups);
plan(skip_all => 'this folder is closed to other users')
    if system(@become, 'test', '-r', "$AIQ::Test::ROOT/tools/run") != 0;

my $t = AIQ::Test->new;
mkdir($t->dir . '/run');
chown(scalar getpwnam('nobody'), scalar getgrnam('nogroup'), $t->dir . '/run');

my $run = AIQ::Run->new($t, command => [ @become, "$AIQ::Test::ROOT/tools/run" ]);
ok($run->wait_for(qr/Ctrl-C stops both/), 'it stays up') or diag($run->out);
like($run->out, qr/^first token/m, 'one answer came');
is($run->stop, 0, 'Ctrl-C');
is(scalar $run->processes, 0, 'nothing is left');

my $root = AIQ::Run->new($t, command => [ @become, "$AIQ::Test::ROOT/tools/run" ], RUN_DIR => '/root');
is($root->ended, 1, "another user's folder: it ends");
like($root->out, qr/RUN_DIR=/, "another user's folder: it says what to do");

$t->finish;
done_testing();
