# Questions that the link has no room for are refused, with 503, and that after a second; a
# full cache only costs another question.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    aiq_auth_cache 32k;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        large_client_header_buffers 4 16k;
        location / { aiq_pass echo; }
        location /key/ { aiq_key "models"; aiq_pass echo; }
        location = /turn { return 204; }
        location = /metrics { aiq_metrics; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->keys(1, map { ("aiq_$_" => "200 -1 acme ann user key_$_") } 1 .. 400);
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

# More of such requests than there is room for: what was refused, and those that were not.
my $refused = 0;
sub fill {
    my ($path, $n, $headers) = @_;
    my @all = map { begin($path, $headers->($_)) } 1 .. $n;

    $t->wait_for(sub { is_answered($all[-1]) }, 10, 'the last one is refused');
    my @answers = map { $_->response } grep { is_answered($_) } @all;
    $refused += @answers;
    return ($answers[0], @all[ 0 .. $#all - @answers ]);
}

# 4 MB of ring: large frames first, then smaller ones
my (undef, @large) = fill('/silent', 150, sub { map { ("X-Aiq-$_" => 'x' x 10_000) } 1 .. 3 });
my (undef, @small) = fill('/silent', 200, sub { () });
my $begun = time();
my ($answer, @asked) = fill('/key/', 20, sub { ('x-api-key' => "aiq_$_[0]") });
is($answer->{status}, 503, 'a full ring: 503');
is($t->json($answer)->{error}{code}, 'link_full', 'the code');
is($answer->{headers}{'retry-after'}, 1, 'Retry-After');

push @asked, map { begin('/key/', 'x-api-key' => "aiq_$_") } 21 .. 25;
kill('USR1', $t->pid('engine'));
for my $c (@asked) {
    my $status = $c->response->{status};
    $refused++ if $status == 503;
    ok($status == 200 || time() - $begun >= 1, 'one that waited is served, and none for longer than a second');
}
$_->close for @large, @small;

# more keys than the cache holds
my $sum = 0;
for (1 .. 2) {
    $sum += $t->get('/key/', headers => [ 'x-api-key' => "aiq_$_" ])->{status} == 200 for 1 .. 400;
}
is($sum, 800, 'a full cache: every key opens');
$t->wait_for(sub { $t->metric('aiq_active_connections') == 0 }, 10, 'the end of the others');
like($t->get('/metrics')->{body}, qr/^aiq_refused_total\{reason="link_full"\} $refused$/m, 'what was refused is counted');

$t->finish;
done_testing;
