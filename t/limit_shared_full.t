# Shared limits while the link has no room: the question waits for that as long as it would for
# its answer, and is asked when there is some.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;
use Time::HiRes qw(time);

my $t = AIQ::Test->new;

$t->conf('
    aiq_limit_zone $arg_k zone=a:1m rate=1000r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        large_client_header_buffers 4 16k;
        location / { aiq_pass echo; }
        location /shared/ { aiq_limit zone=a shared fail_closed; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location = /turn { return 204; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 proxied; } }');

my $e = AIQ::FakeEngine->new($t);
$e->start('deaf');
$t->start_nginx;
$e->wait_for_hellos(1);

sub begin {
    my ($path, @headers) = @_;
    my $c = $t->connect;

    $c->request('GET', $path, headers => \@headers);
    # one worker: two turns of its loop later it has accepted and read that
    $t->get('/turn') for 1 .. 2;
    return $c;
}
sub is_answered { return IO::Select->new($_[0]->socket)->can_read(0) }

# 4 MB of ring: large frames first, then smaller ones
my @open;
for my $fill ([ 150, map { ("X-Aiq-$_" => 'x' x 10_000) } 1 .. 3 ], [200]) {
    my ($n, @headers) = @$fill;
    my @all = map { begin('/silent', @headers) } 1 .. $n;
    $t->wait_for(sub { is_answered($all[-1]) }, 10, 'there is no room');
    push @open, grep { !is_answered($_) } @all;
}

# On a machine that is busy half a second may be over: then once more.
sub question { return begin("/shared/?k=$_[0]", 'X-Request-Id' => 'fine') }
my $waits;
for (1 .. 20) {
    my $begun = time();
    my $c = question($_);
    $waits = !is_answered($c);
    my $r = $c->response;
    is($r->{status}, 503, 'no room in time') if $waits;
    is($t->json($r)->{error}{code}, 'limit_unavailable', 'the code') if $waits;
    last if $waits || time() - $begun < 0.4;
}
ok($waits, 'it has waited for that');

my $c = question('left');
$c->close;
my @asked = map { question("one$_") } 1 .. 5;
kill('USR1', $t->pid('engine'));
my %status;
$status{ $_->response->{status} }++ for @asked;
is(($status{200} // 0) + ($status{503} // 0), 5, 'the engine reads on: they are asked') or diag explain \%status;
$t->wait_for(sub { $t->get('/shared/?k=then', headers => [ 'X-Request-Id' => 'fine' ])->{status} == 200 }, 10, 'and answered');
$_->close for @open;
like($e->log, qr/^ASK /m, 'as it says');

$t->finish;
done_testing;
