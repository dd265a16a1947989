# make run says what is wrong and what to do, before it has started anything.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::Run;
use AIQ::Test;

my $t = AIQ::Test->new;

sub refused {
    my ($name, $says, %env) = @_;
    my $run = AIQ::Run->new($t, %env);

    is($run->ended, 1, "$name: it ends");
    like($run->out, $says, "$name: it says what to do");
    is(scalar $run->processes, 0, "$name: nothing runs");
}

my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die $!;
refused('busy port', qr/127\.0\.0\.1:\d+ is busy: .*PORT=/, PORT => $taken->sockport);
refused('busy metrics port', qr/is busy: .*METRICS_PORT=/, METRICS_PORT => $taken->sockport);
refused('no port', qr/"eighty" is no port/, PORT => 'eighty');
refused('no such file', qr{CONF=/nonexistent: No such file}, CONF => '/nonexistent');
refused('no folder', qr{cannot make the folder /nonexistent/run: .*RUN_DIR=}, RUN_DIR => '/nonexistent/run');
refused('nothing built', qr{there is no /nonexistent/aiq-engine: make builds it}, AIQ_BUILD_DIR => '/nonexistent');

my $conf = $t->write_file('broken.conf', "events {}\nhttp { no_such_directive; }\n");
refused('broken configuration', qr/unknown directive "no_such_directive" in .*broken\.conf:2/,
    CONF => $conf, PORT => '', METRICS_PORT => '');

$conf = $t->write_file('plain.conf', "events {}\npid nginx.pid;\nhttp { access_log off; }\n");
refused('not ours', qr/no aiq_engine directive/, CONF => $conf, PORT => '', METRICS_PORT => '');

my $long = $t->dir . '/' . 'x' x 90;
refused('long path', qr/too long for a unix socket/, RUN_DIR => $long);

my $run = AIQ::Run->new($t, CONF => 'conf.examples/echo.conf');
ok($run->wait_for(qr/Ctrl-C stops both/), 'one runs');
my $second = AIQ::Run->new($t, PORT => $taken->sockport);
is($second->ended, 1, 'same folder: a second one ends');
like($second->out, qr/another make run uses .*RUN_DIR=/, 'same folder: it says what to do');
is($t->post('/echo', 'still there')->{body}, 'still there', 'same folder: the first one lives');
is($run->stop, 0);

$t->finish;
done_testing();
