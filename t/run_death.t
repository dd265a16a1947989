# Where nginx or the engine dies, make run says so with the end of its log, stops
# the other and fails; where make run itself is killed, both go too.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Run;
use AIQ::Test;

my $t = AIQ::Test->new;

sub up {
    my $run = AIQ::Run->new($t, CONF => 'conf.examples/echo.conf');

    $run->wait_for(qr/Ctrl-C stops both/) or die $run->out;
    return $run;
}

for my $name (qw(engine nginx)) {
    my $run = up();

    # of nginx, the master
    my ($pid) = grep { $name eq 'engine' || $t->workers($_) } $run->processes($name eq 'engine' ? 'aiq-engine' : $name);
    kill('KILL', $pid);
    is($run->ended, 1, "$name dies: it fails");
    like($run->out, qr/$name has ended \(signal 9\)\. The end of \S+\.log:\n./, "$name dies: it shows the log");
    $t->wait_for(sub { !$run->processes }, 10, 'the other is stopped');
}

my $run = up();
kill('KILL', $run->{pid});
$run->ended;
ok($t->wait_for(sub { !$run->processes }, 10, 'both end'), 'killed: nothing is left');

$t->finish;
done_testing();
