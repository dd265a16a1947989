# A zone that is full refuses what it can't count, and says so; what has expired makes
# room, what has not does not.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    aiq_limit_zone $arg_k zone=day:32k rate=2r/d;
    aiq_limit_zone $arg_k zone=second:32k rate=1r/s;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /day/ { aiq_limit zone=day; aiq_pass echo; }
        location /second/ { aiq_limit zone=second; aiq_pass echo; }
        location = /metrics { aiq_metrics; }
    }');
$t->start;

my $c = $t->connect;
sub status { my ($path) = @_; $c->request('POST', $path, body => 'x'); return $c->response->{status} }

sub fill {
    my ($path, $i) = @_;
    my $pad = 'k' x 100;

    for (;;) {
        my $status = status("$path?k=$pad" . ++$i);
        return ($i, $status) if $status != 200;
        die "it is never full\n" if $i == 10000;
    }
}

my ($n, $status) = fill('/day/', 0);
is($status, 503, 'a full zone refuses');
cmp_ok($n, '>', 20, "after $n keys");
my $pad = 'k' x 100;
my $r = $t->post("/day/?k=$pad$n", 'x');
is($t->json($r)->{error}{code}, 'limit_zone_full', 'in words of its own');
is($r->{headers}{'retry-after'}, 1, 'with Retry-After');
like($t->error_log, qr/\[error\].* refused: limit_zone_full, zone "day"/, 'and says so in the log');
is(status("/day/?k=${pad}1"), 200, 'a key that is there counts on');
is(status("/day/?k=${pad}1"), 429, 'and is not forgotten');
like($t->get('/metrics')->{body}, qr/^aiq_limit_full_total\{zone="day"\} 2$/m, 'metrics');
is(status('/second/?k=a'), 200, 'other zones are not full');

# keys live a second here, and go as they came: on a slow machine they may never be too many
my $i = 0;
($i) = eval { fill('/second/', 0) };
$t->wait_for(sub { status("/second/?k=$pad" . ++$i) == 200 }, 10, 'room') for 1 .. 20;
ok(1, 'what has expired makes room');

$t->finish;
done_testing;
