# Tokens that engines count together, while Redis is away: each engine goes by what it knows
# itself, with its part of the rate, or fails closed; and tells Redis later what was used.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Load;
use AIQ::Mock;
use AIQ::Redis;
use AIQ::Test;
use Time::HiRes qw(time);

my @node = map { AIQ::Test->new } 1, 2;
my $redis = AIQ::Redis->new($node[0]) or plan skip_all => 'no redis-server';
my $mock = AIQ::Mock->new($node[0]);

# an answer has 21 tokens, and holds less than 40 while it comes
for my $t (@node) {
    $t->conf("
        aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
        aiq_model chat { target mock model=mock-chat; }
        aiq_limit_zone \$http_x_who zone=half:1m rate=120t/d;
        aiq_limit_zone \$http_x_who zone=closed:1m rate=1000t/d;
        aiq_limit_zone load zone=load:1m rate=1000000000t/d;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /v1/ { aiq_limit zone=half shared nodes=2; aiq_pass gateway; }
            location /closed/ { aiq_limit zone=closed shared fail_closed; aiq_pass gateway /v1/; }
            location /load/ { aiq_limit zone=load shared nodes=2; aiq_pass gateway /v1/; }
            location = /metrics { aiq_metrics; }
        }");
}

my $body = $node[0]->chat('chat', 'hi', max_tokens => 12);
my $last;
sub status {
    my ($n, $path, $who) = @_;
    $last = $node[$n]->post("${path}chat/completions", $body, headers => [ 'X-Who' => $who ]);
    return $last->{status};
}
sub statuses { my ($n, $path, $who, $times) = @_; return join(' ', map { status($n, $path, $who) } 1 .. $times) }
sub left { return $last->{headers}{'x-ratelimit-remaining-tokens'} }

# An engine without Redis is one to which nobody says anything.
$node[0]->start_engine;
$node[0]->start_nginx;
$node[0]->wait_for_links(1);
is(statuses(0, '/v1/', 'none', 3), '200 200 429', 'without --redis: its half of the rate');
is($last->{headers}{'x-ratelimit-limit-tokens'}, 60, 'as it says');
is(status(0, '/closed/', 'none'), 503, 'or nobody');
is($node[0]->json($last)->{error}{code}, 'limit_unavailable', 'the code');
is($last->{headers}{'retry-after'}, 1, 'Retry-After');
is((() = $node[0]->engine_log =~ /there is no --redis/g), 1, 'the engine says so once');
$node[0]->stop('engine');

$_->start_engine(args => [ '--redis', $redis->url ]) for @node;
$node[1]->start_nginx;

# Until so many in a row were answered by Redis.
sub back {
    my ($n) = @_;
    my $row = 0;

    $node[$n]->wait_for(sub { $row = status($n, '/closed/', "back$n" . time()) == 200 ? $row + 1 : 0; $row > 2 },
        30, 'Redis answers');
}
back($_) for 0, 1;

# What a node has let through counts when it goes on alone; and what it lets through then
# counts for all when it does so no more.
my $k = 0;
sub through {
    for (1 .. 20) {
        $k++;
        return if status(0, '/v1/', "t$k") == 200 && left() == 99;
    }
}
through();
my $load = AIQ::Load->new($node[0], clients => 3, path => '/load/chat/completions', body => $body, any_body => 1);
$load->wait_for_requests(100);
$node[0]->kill_hard('redis');
$load->wait_for_requests(100);
is(statuses(0, '/v1/', "t$k", 2), '200 429', 'alone: what has passed before counts');
is(statuses(1, '/v1/', "t$k", 3), '200 200 429', 'the other has its own half');
is(status(0, '/closed/', 'dead'), 503, 'fail_closed');
$redis->start;
back($_) for 0, 1;
my $told = sub { status(1, '/v1/', "t$k") == 429 || left() < 99 - 42 };
$node[1]->wait_for($told, 20, 'Redis, which has forgotten all, is told what was used meanwhile');
$load->wait_for_requests(100);

# It hangs.
kill('STOP', $node[0]->pid('redis'));
is(statuses(1, '/v1/', 'slow', 3), '200 200 429', 'Redis hangs: nobody waits for it');
is(status(0, '/closed/', 'slow'), 503, 'fail_closed');
$load->wait_for_requests(100);
kill('CONT', $node[0]->pid('redis'));
back($_) for 0, 1;
$node[0]->wait_for(sub { status(0, '/closed/', 'slow') == 200 }, 10, 'it goes on');

my $sum = $load->finish;
is($sum->{lost} + $sum->{wrong}, 0, 'no request was lost, nor refused') or diag($sum->{first_lost} // $sum->{first_wrong});
like($node[0]->get('/metrics')->{body}, qr/^aiq_shared_token_lost_total 0$/m, 'nothing was kept from Redis');

$_->finish for reverse @node;
done_testing;
