# A new engine takes over from a running one under load: the old one drains and
# leaves, and no request fails.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Load;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo { aiq_pass echo; }
    }');
$t->start;

my $load = AIQ::Load->new($t, clients => 4, path => '/echo', body => 'y' x 500, keepalive => 1);

my $old = 'engine';
for my $i (1 .. 5) {
    my $new = "engine$i";

    $load->wait_for_requests(50);
    $t->start_engine(name => $new);
    $t->wait_for(sub { !$t->alive($old) }, 20, 'the old engine leaves');
    is($t->{status}{$old}, 0, "engine $i took over, the old one left in order");
    $old = $new;
}
$load->wait_for_requests(50);
my $r = $load->finish;

cmp_ok($r->{late}, '<=', $r->{ok} / 20, 'a link was there in time');
is($r->{wrong}, 0, 'no wrong reply') or diag($r->{first_wrong});
is($r->{lost},  0, 'no lost request') or diag($r->{first_lost});

$t->stop($old, 'TERM');
ok(!-e $t->socket, 'the last engine removes its socket');

$t->finish;
done_testing();
