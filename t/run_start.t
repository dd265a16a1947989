# make run: starts both, streams one answer, prints how to do it again, and Ctrl-C
# leaves nothing behind. The second start finds everything built.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Command;
use AIQ::Run;
use AIQ::Test;

my $t = AIQ::Test->new;
my $make = ($ENV{AIQ_BUILD_DIR} // 'build') eq 'build' ? [ 'make', 'run' ] : undef;

my $run = AIQ::Run->new($t, $make ? (command => $make) : ());
ok($run->wait_for(qr/Ctrl-C stops both/), 'it stays up') or diag($run->out);
my $port = $t->port(0);

like($run->out, qr/^> What is aiq\?\n\S.*\n\nfirst token \d+ ms, \d+ tokens, \d+ tokens\/s$/m,
    'one answer came, with its times');
like($run->out, qr{^API +http://127\.0\.0\.1:$port/v1$}m, 'the API\'s URL');
like($run->out, qr{^health +http://127\.0\.0\.1:$port/health$}m, 'the URL of /health');
like($run->out, qr{^metrics +http://127\.0\.0\.1:@{[$t->port(1)]}/metrics$}m, 'the metrics\' URL');
# another of nginx's workers may still be on its way to the engine
ok($t->wait_for(sub { $t->get('/health')->{status} == 200 }), '/health is ready');
is($t->get('/metrics', port => 1)->{status}, 200, '/metrics answers');

my ($curl) = $run->out =~ /^ +(curl -N .*?'\{.*?\}')$/ms;
my $r = run([ 'sh', '-c', $curl ]);
like($r->{out}, qr/^data: \{.*^data: \[DONE\]$/ms, 'the curl line streams the answer again');

my @processes = $run->processes;
cmp_ok(scalar @processes, '>=', 2, 'nginx and engine run');
$run->stop($make ? 'TERM' : 'INT');
$t->wait_for(sub { !$run->processes }, 10, 'both end');
like($run->out, qr/^stopped$/m, 'it says that it stopped');

$run = AIQ::Run->new($t);
ok($run->wait_for(qr/Ctrl-C stops both/), 'it starts again in the same folder');
is($run->stop, 0, 'and ends well at Ctrl-C');
is(scalar $run->processes, 0, 'nothing is left');

$t->finish;
done_testing();
