# Questions that the link has no room for are refused, with 503; a full cache
# only costs another question.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
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

# Requests like this until one is answered: the answer, and those that are not.
sub fill {
    my ($path, $max, $headers) = @_;
    my @open;

    for my $i (1 .. $max) {
        my $c = $t->connect;
        $c->request('GET', $path, headers => [ $headers->($i) ]);
        # one worker: two turns of its loop later it has accepted and read that
        $t->get('/turn') for 1 .. 2;
        return ($c->response, @open) if IO::Select->new($c->socket)->can_read(0);
        push @open, $c;
    }
    return (undef, @open);
}

# 4 MB of ring: large frames first, then smaller ones
my (undef, @large) = fill('/silent', 200, sub { map { ("X-Aiq-$_" => 'x' x 10_000) } 1 .. 3 });
my (undef, @small) = fill('/silent', 200, sub { () });
my ($refused, @asked) = fill('/key/', 20, sub { ('x-api-key' => "aiq_$_[0]") });
is($refused->{status}, 503, 'a full ring: 503');
is($t->json($refused)->{error}{code}, 'link_full', 'the code');
is($refused->{headers}{'retry-after'}, 1, 'Retry-After');

kill('USR1', $t->pid('engine'));
is($_->response->{status}, 200, 'one that waited is served') for @asked;
$_->close for @large, @small;

# more keys than the cache holds
my $sum = 0;
for (1 .. 2) {
    $sum += $t->get('/key/', headers => [ 'x-api-key' => "aiq_$_" ])->{status} == 200 for 1 .. 400;
}
is($sum, 800, 'a full cache: every key opens');
$t->wait_for(sub { $t->get('/metrics')->{body} =~ /^aiq_active_connections 0$/m }, 10, 'the end of the others');
like($t->get('/metrics')->{body}, qr/^aiq_refused_total\{reason="link_full"\} 3$/m, 'what was refused is counted');

$t->finish;
done_testing;
