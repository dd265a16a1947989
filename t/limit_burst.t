# burst=: when the window is full, some wait for their turn; it is never exceeded.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format limit "$uri $status $aiq_limit_status";
    aiq_limit_log_level notice;
    aiq_limit_zone $arg_k zone=second:1m rate=2r/s;
    aiq_limit_zone $arg_k zone=day:1m rate=1r/d;
    aiq_limit_zone $arg_k zone=pace:1m rate=120r/m;
    aiq_limit_zone $arg_k zone=trial:1m rate=1r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/limit.log limit;
        location /second/ { aiq_limit zone=second burst=3; aiq_pass echo; }
        location /proxied/ { aiq_limit zone=second burst=3; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /day/ { aiq_limit zone=day burst=1; aiq_pass echo; }
        location /pace/ { aiq_limit zone=pace burst=3 delay=2; aiq_pass echo; }
        location /trial/ { aiq_limit zone=trial burst=1 dry_run; aiq_pass echo; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 ok; } }');
$t->start;

# a line is written when the client has its reply already
sub logged {
    my ($line, $what) = @_;
    ok($t->wait_for(sub { $t->read_file('logs/limit.log') =~ $line }, 10, $what), $what);
}

for my $path ('/second/?k=a', '/proxied/?k=b') {
    my $start = time();
    my @c = map { my $c = $t->connect; $c->request('POST', $path, body => 'ok'); $c } 1 .. 6;
    my @replies = map { my $r = $_->response; +{ %$r, at => time() - $start } } @c;
    my @good = sort { $a->{at} <=> $b->{at} } grep { $_->{status} == 200 && $_->{body} eq 'ok' } @replies;

    # on a slow machine the first may have left the window when the last comes
    cmp_ok(scalar @good, '>=', 5, "$path: two at once, three wait");
    ok((grep { $_->{status} == 429 } @replies) == 6 - @good, "$path: no more than that");
    cmp_ok($good[$_]{at}, '>=', int($_ / 2), "$path: reply $_ not before its time") for 0 .. $#good;
}
logged(qr{^/second/ 200 DELAYED$}m, '$aiq_limit_status');
like($t->error_log, qr/\[info\].* waits, zone "second"/, 'logged a level below refusals');
like($t->error_log, qr/\[notice\].* refused: rate_limit_exceeded, zone "second"/, 'which have this one');

is($t->post('/day/?k=a', 'x')->{status}, 200, 'one a day');
sub waiting { my $n = () = $t->error_log =~ /waits, zone "day"/g; return $n }
my $c = $t->connect;
$c->request('POST', '/day/?k=a', body => 'x');
$t->wait_for(sub { waiting() == 1 }, 10, 'the next one waits');
is($t->post('/day/?k=a', 'x')->{status}, 429, 'and is the only one that may');
$c->close;
logged(qr{^/day/ 499 DELAYED}m, 'he leaves');
my $next = $t->connect;
$next->request('POST', '/day/?k=a', body => 'x');
$t->wait_for(sub { waiting() == 2 }, 10, 'and leaves his turn to another');
ok(1, 'who leaves while he waits leaves his turn');
$next->close;

{
    my $start = time();
    my @c = map { my $c = $t->connect; $c->request('POST', '/pace/?k=a', body => 'ok'); $c } 1 .. 6;
    my @replies = map { my $r = $_->response; +{ %$r, at => time() - $start } } @c;
    my @good = sort { $a->{at} <=> $b->{at} } grep { $_->{status} == 200 } @replies;

    cmp_ok(scalar @good, '>=', 5, 'delay: two at once, three wait although the window has room');
    cmp_ok($good[$_]{at}, '>=', 0.5 * ($_ - 1) - 0.01, "delay: reply $_ at its pace") for 2 .. $#good;
}

is($t->post('/trial/?k=a', 'x')->{status}, 200, 'nobody waits in a dry run') for 1 .. 3;
logged(qr{^/trial/ 200 DELAYED_DRY_RUN$}m, 'but it is told');

$t->finish;
done_testing;
