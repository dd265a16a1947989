# Whatever the engine says about a shared limit, the worker goes on: a broken rule costs
# the link, and the request goes by what nginx knows itself.

use strict;
use warnings;
use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use Test::More;
use AIQ::FakeEngine;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format status "$status $aiq_status";
    aiq_limit_zone $arg_k zone=a:1m rate=1000r/d;
    aiq_limit_zone $arg_k zone=b:1m rate=1000r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/access.log status;
        location / { aiq_pass echo; }
        location /open/ { aiq_limit zone=a shared nodes=1 burst=1; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /closed/ { aiq_limit zone=a shared fail_closed; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /two/ { aiq_limit zone=a shared fail_closed; aiq_limit zone=b shared fail_closed dry_run; aiq_pass echo; }
        location = /metrics { aiq_metrics; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 proxied; } }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
my ($worker) = $t->wait_for(sub { ($t->workers)[0] }, 10, 'the worker');
$e->wait_for_hellos(1);

my $r;
# Again where nginx has not waited for the answer, if there is one: half a second is the most.
sub ask {
    my ($path, $how) = @_;

    $t->wait_for(sub {
        my $begun = time();
        $r = $t->get($path, headers => [ 'X-Request-Id' => $how ]);
        return $how !~ /^(?:fine|refuses|waits)$/ || time() - $begun < 0.4;
    }, 20, 'an answer in time');
    return "$r->{status} " . ($r->{headers}{'x-ratelimit-remaining-requests'} // '-');
}

# A link is there as soon as it answers a question.
sub linked { return $t->wait_for(sub { ask('/closed/?k=1', 'fine') eq '200 7' }, 20, 'a link') }

linked();
is(ask('/closed/?k=1', 'fine'), '200 7', 'it may');
my ($rate_keys) = $e->log =~ /.*^ASK location=\d+\n  request_id=fine\n  rate_keys=(\w+)$/ms;
is($rate_keys, substr(sha256_hex('1'), 0, 32), 'the question: a digest of the key');
is(ask('/closed/?k=2', 'refuses'), '429 0', 'it may not');
is("$r->{headers}{'retry-after'} $r->{headers}{'retry-after-ms'}", '3 2500', 'and when it may');
is(ask('/open/?k=1', 'waits'), '200 0', 'it may when it has waited');
is(ask('/closed/?k=1', 'cannot'), '503 -', 'nobody can say: closed');
like(ask('/open/?k=1', 'cannot'), qr/^200 9\d\d$/, 'or as far as nginx knows');
is(ask('/closed/?k=1', 'nothing'), '503 -', 'an answer about nothing is none');
is(ask('/two/?k=1', 'fine'), '200 7', 'an answer about one of two is none about the other');
is(ask('/closed/?k=1', 'silent'), '503 -', 'no answer at all');
linked();

my %broken = (
    short   => qr/no answer, or one of a wrong length/,
    verdict => qr/no answer, or one of a wrong length/,
    outside => qr/ANSWER with a field that leads outside/,
    status  => qr/ANSWER with an impossible status/,
    time    => qr/ANSWER with an impossible time/,
    half    => qr/ANSWER with rates of a wrong length/,
    many    => qr/ANSWER with rates of a wrong length/,
    odd     => qr/ANSWER with an impossible rate/,
    late    => qr/ANSWER with an impossible rate/,
);
for my $how (sort keys %broken) {
    my $before = () = $t->error_log =~ /$broken{$how}/g;

    is(ask('/closed/?k=1', $how), '503 -', "$how: closed");
    $t->wait_for(sub { (() = $t->error_log =~ /$broken{$how}/g) > $before }, 10, "$how: the reason");
    is((() = $t->error_log =~ /$broken{$how}/g) - $before, 1, "$how: the reason is logged");
    linked();
}

# Who leaves takes his question back.
my $c = $t->connect;
$c->request('GET', '/closed/?k=1', headers => [ 'X-Request-Id' => 'silent-for-one-who-leaves' ]);
$e->wait_for(qr/request_id=silent-for-one-who-leaves/);
$c->close;
$e->wait_for(qr/.*^ASK [^\n]*\n  request_id=silent-for-one-who-leaves.*^CANCEL ask$/ms, 'its end');
is(ask('/closed/?k=1', 'fine'), '200 7', 'and the link is well');
$t->wait_for(sub { $t->read_file('logs/access.log') =~ /^499 client_closed$/m }, 10, 'told in the log');

# The engine dies with a question.
is(ask('/closed/?k=1', 'die'), '503 -', 'it dies: closed');
$e->stop if $t->alive('engine');
$e->start;
linked();

is_deeply([ $t->workers ], [$worker], 'the worker has lived through all of it');

$t->finish;
done_testing;
