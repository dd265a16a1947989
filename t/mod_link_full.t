# An engine that does not read: only new requests are refused, with 503, and that after a
# second. What belongs to open ones waits and is not forgotten.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        large_client_header_buffers 4 16k;
        location / { aiq_pass gateway; }
        location = /turn { return 204; }
        location = /metrics { aiq_metrics; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start('deaf');
$t->start_nginx;
$e->wait_for_hellos(1);

# 4 MB of ring, 30 KB of headers each
my @headers = map { ("X-Aiq-$_" => 'x' x 10_000) } 1 .. 3;
sub begin {
    my ($path) = @_;
    my $c = $t->connect;

    $c->request('POST', $path, headers => \@headers, body => 'b' x 2000);
    # one worker: two turns of its loop later it has accepted and read that
    $t->get('/turn') for 1 .. 2;
    return $c;
}
sub is_answered { return IO::Select->new($_[0]->socket)->can_read(0) }

my @all = map { begin('/silent') } 1 .. 149;
my $begun = time();
push @all, begin('/silent');
ok(!is_answered($all[-1]) || time() - $begun >= 1, 'one without room waits');
$t->wait_for(sub { is_answered($all[-1]) }, 10, 'and is refused after a second');
my @refused = map { $_->response } grep { is_answered($_) } @all;
my @open = @all[ 0 .. $#all - @refused ];
is($_->{status}, 503, 'a full ring: 503') for @refused;
is($t->json($refused[0])->{error}{code}, 'link_full', 'the code');
is($refused[0]{headers}{'retry-after'}, 1, 'Retry-After');
cmp_ok(scalar @open, '>', 120, 'after as many as it holds');

# what does not fit now: the cancels of those who leave, the body of a small one
my $small = $t->connect;
$small->request('POST', '/small', body => 'c' x 8000);
$_->close for @open;
$t->wait_for(sub { my $n = () = $t->error_log =~ /prematurely closed/g; $n >= @open }, 20, 'all have left');

$begun = time();
my @late = map { begin('/ok') } 1 .. 5;
kill('USR1', $t->pid('engine'));
my $refused = grep { $_->response->{body} ne "ok\n" } @late;
ok(!$refused || time() - $begun >= 1, 'whoever waited a moment is served, and a moment is a second');
$t->wait_for(sub { my $n = () = $e->log =~ m{^CANCEL /silent$}mg; $n == @open }, 20, 'their cancels');
pass('every cancel arrives once the engine reads');
is($small->response->{body}, "ok\n", 'and what waited is served');
like($e->log, qr{^END /small body=8000$}m, 'with its whole body');
is($t->post('/ok', 'x')->{status}, 200, 'and what comes next');

my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^aiq_active_connections 0$/m, 'nothing is left open');
like($metrics, qr/^aiq_refused_total\{reason="link_full"\} ${\ ($refused + @refused)}$/m, 'refusals are counted');

$t->finish;
done_testing;
