# A binary upgrade of nginx (USR2, then QUIT to the old master) under load.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Load;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%% backlog=1024;
        location /echo { aiq_pass echo; }
    }');
$t->start_engine;
$t->start_nginx(daemon => 1);
$t->wait_for_links(1);
my $load = AIQ::Load->new($t, clients => 4, path => '/echo', body => 'z' x 500);
my $old = $t->nginx_pid;

$load->wait_for_requests(50);
kill('USR2', $old);
my $new = $t->wait_for(sub {
    my $pid = $t->nginx_pid;
    return $pid && $pid != $old && $t->workers($pid) ? $pid : 0;
}, 20, 'a new master with workers');
$load->wait_for_requests(50);

kill('QUIT', $old);
$t->wait_for(sub { !$t->alive('nginx') }, 20, 'the old master leaves');
$load->wait_for_requests(100);
my $r = $load->finish;

cmp_ok($r->{late}, '<=', $r->{ok} / 20, 'a link was there in time');
is($r->{wrong}, 0, 'no wrong reply') or diag($r->{first_wrong});
is($r->{lost},  0, 'no lost request') or diag($r->{first_lost});
is($t->post('/echo', 'still here')->{body}, 'still here', 'the new binary serves');

$t->{children}{nginx} = $new;    # to be stopped with the test
$t->finish;
done_testing();
