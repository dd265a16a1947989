# Reloads under load lose no request: each of 50 generations of workers has its
# own link and policy, and the ones before finish what they have read.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Load;
use AIQ::Test;

my $reloads = $ENV{AIQ_VALGRIND} ? 5 : 50;
my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%% backlog=1024;
        location /echo  { aiq_pass echo; }
        location /plain { return 200; }
    }');
$t->start;

my $body = join('', map { chr(97 + $_ % 26) } 1 .. 1000);
my $echo  = AIQ::Load->new($t, clients => 4, path => '/echo', body => $body);
my $plain = AIQ::Load->new($t, clients => 2, path => '/plain', body => $body, expect => '');

for my $i (1 .. $reloads) {
    $t->reload;
    $echo->wait_for_requests(10);
}
my ($r, $p) = ($echo->finish, $plain->finish);

diag("echo $r->{ok} ok, $r->{lost} lost; plain $p->{ok} ok, $p->{lost} lost; longest "
    . sprintf('%.3f s', $r->{longest}));
cmp_ok($r->{ok}, '>=', 10 * $reloads, 'requests were served all along');
cmp_ok($r->{late}, '<=', $r->{ok} / 20, 'a link was there in time');
is($r->{wrong}, 0, 'none got a wrong reply') or diag($r->{first_wrong});
cmp_ok($r->{lost}, '<=', $p->{lost}, 'none was lost that plain nginx would have served')
    or diag($r->{first_lost});

$t->wait_for(sub { $t->workers == 1 }, 20, 'the old workers leave');
my @policies = glob($t->socket . '.policy/*.json');
cmp_ok(scalar @policies, '<=', 16, 'old policies are removed');

$t->finish;
done_testing();
