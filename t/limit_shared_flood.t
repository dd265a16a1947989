# Who was refused is refused again without a question, for a moment: a flood of one
# client's requests is not Redis' affair.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    aiq_limit_zone $arg_k zone=a:1m rate=1000r/d;
    aiq_limit_zone $arg_k zone=b:1m rate=1000r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /one/ { aiq_limit zone=a shared fail_closed; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /two/ { aiq_limit zone=b shared fail_closed; aiq_limit zone=a shared fail_closed; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /burst/ { aiq_limit zone=a shared fail_closed burst=1; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /trial/ { aiq_limit zone=a shared fail_closed dry_run; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location = /metrics { aiq_metrics; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 proxied; } }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

my $r;
my $refused = 0;
# Asks again where nginx has not waited for the answer: half a second is the most.
sub ask {
    my ($path, $how) = @_;

    $t->wait_for(sub {
        my $begun = time();
        $r = $t->get($path, headers => [ 'X-Request-Id' => $how ]);
        return $r->{status} != 503 || time() - $begun < 0.4;
    }, 20, 'an answer in time');
    $refused++ if $r->{status} == 429;
    return $r->{status};
}
sub asked { my $n = () = $e->log =~ /^ASK /mg; return $n }
$t->wait_for(sub { ask('/one/?k=', 'fine') == 200 && ask('/one/?k=up', 'fine') == 200 }, 20, 'a link');

# On a machine that is busy the moment may be over: then once more, with another key.
my ($k, $before, $questions) = (0);
for (1 .. 20) {
    $k++;
    is(ask("/one/?k=$k", 'refuses'), 429, 'it may not');
    $before = asked();
    is(ask("/one/?k=$k", 'refuses'), 429, 'nor may the next') for 1 .. 5;
    $questions = asked() - $before;
    last if $questions == 0;
}
is($questions, 0, 'of which nobody was asked');
is($r->{headers}{'x-ratelimit-remaining-requests'}, 0, 'none is left');
cmp_ok($r->{headers}{'retry-after-ms'}, '<=', 2500, 'Retry-After goes on');
cmp_ok($r->{headers}{'retry-after-ms'}, '>', 1000, 'from what was said');
is(ask("/one/?k=other$k", 'fine'), 200, 'others are asked about');

my $two;
for (1 .. 20) {
    $k++;
    ask("/one/?k=$k", 'refuses');
    $before = asked();
    $two = ask("/two/?k=$k", 'fine');
    last if asked() == $before;
}
is($two, 429, 'one of two suffices');
$t->wait_for(sub { ask("/one/?k=$k", 'fine') == 200 }, 10, 'a question again');
ok(1, 'but not for long');
is(ask('/burst/?k=b', 'refuses'), 429, 'where some may wait');
is(ask('/burst/?k=b', 'fine'), 200, 'there is always a question');
is(ask('/trial/?k=d', 'refuses'), 200, 'so for a dry run');
is(ask('/trial/?k=d', 'fine'), 200, 'which refuses nobody');
like($t->get('/metrics')->{body}, qr/^aiq_limit_total\{zone="a",status="REJECTED"\} $refused$/m, 'all are counted');

$t->finish;
done_testing;
