# The cache's second level: what one engine was answered is good for another one, and
# nobody waits for a Redis that is slow, gone or lies.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Redis;
use AIQ::Test;

my $t = AIQ::Test->new;
my $redis = AIQ::Redis->new($t) or plan skip_all => 'no redis-server';
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model chat { target mock model=mock-chat input=1 output=10; }
    @{[ $mock->models(qw(mock-stream-2x0ms mock-stream-3x300ms mock-400)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/     { aiq_cache exact; aiq_pass gateway; }
        location /short/  { aiq_cache exact ttl=300ms; aiq_pass gateway /v1/; }
        location /health  { aiq_health; }
        location /metrics { aiq_metrics; }
    }");

sub start_engine {
    $t->start_engine(args => [ '--redis', $redis->url, '--loops', 2 ]);
}

sub redis_is { my ($r, $word) = @_; return $r->{body} =~ /"name":"redis","critical":false,"status":"$word"/ }
sub wait_redis {
    my ($word) = @_;

    $t->wait_for(sub { redis_is($t->get('/health'), $word) }, 30, "redis is $word");
}

# Another engine, whose memory is empty.
sub another_engine {
    $t->stop('engine');
    start_engine();
    wait_redis('healthy');
}

start_engine();
$t->start_nginx;
$t->wait_for_links(1);
wait_redis('healthy');

my $last;
sub ask {
    my ($path, $body, @headers) = @_;
    my $before = () = $mock->requests;

    $last = $t->post($path, $body, headers => \@headers);
    my $after = () = $mock->requests;
    return ($last->{headers}{'x-aiq-cache'} // '-') . ' ' . ($after - $before);
}

sub stored { return @{ $redis->command('KEYS', 'aiq:cache:*') } }

# A look that comes too late is a miss, so on a machine that is busy it takes more of them.
sub is_hit {
    my ($body, $name) = @_;

    for (1 .. 20) {
        my $what = ask('/v1/chat/completions', $body);
        return pass($name) if $what eq 'HIT 0';
        another_engine();
    }
    return fail($name);
}

# From engine to engine.
my $chat = $t->chat('chat', 'one');
is(ask('/v1/chat/completions', $chat), 'MISS 1', 'the first');
my $first = $last;
$t->wait_for(sub { stored() == 1 }, 10, 'it is in redis');
my ($name) = stored();
like($name, qr/^aiq:cache:[0-9a-f]{64}$/, 'its name');
my $ttl = $redis->command('PTTL', $name);
cmp_ok($ttl, '>', 3_000_000, 'for an hour');
cmp_ok($ttl, '<=', 3_600_000, 'and no longer');
another_engine();
is_hit($chat, 'another engine finds it');
is($last->{body}, $first->{body}, 'the same');
is($last->{headers}{$_}, $first->{headers}{$_}, $_) for qw(content-type content-length x-aiq-provider x-aiq-model);
is($last->{headers}{'x-aiq-cost'}, '0.000000000', 'it costs nothing');
like($last->{headers}{age}, qr/^\d+$/, 'its age is that of the answer');
like($t->get('/metrics')->{body}, qr/^aiq_cache_hits_total\{cache_name="redis"\} [1-9]/m, 'counted');
$redis->command('FLUSHALL');
is(ask('/v1/chat/completions', $chat), 'HIT 0', 'and now from its memory');

my $stream = $t->chat('mock-stream-2x0ms', 'hi', stream => JSON::PP::true);
is(ask('/v1/chat/completions', $stream), 'MISS 1', 'a stream');
$first = $last;
$t->wait_for(sub { stored() == 1 }, 10, 'it is in redis');
another_engine();
is_hit($stream, 'another engine finds it');
is($last->{body}, $first->{body}, 'the same events');

# What is not kept.
$redis->command('FLUSHALL');
is(ask('/v1/chat/completions', $t->chat('mock-400', 'x')), 'MISS 1', 'an error');
is(ask('/v1/chat/completions', $t->chat('chat', 'private'), 'Cache-Control' => 'no-store'), 'BYPASS 1', 'no-store');
is(ask('/v1/chat/completions', $t->chat('chat', 'fresh'), 'Cache-Control' => 'no-cache'), 'BYPASS 1', 'no-cache');
$t->wait_for(sub { stored() }, 10, 'the last one');
is(scalar(stored()), 1, 'only the last one');

# What is there may be anything.
($name) = stored();
my $good = $redis->command('GET', $name);
my $fresh = $t->chat('chat', 'fresh');
my $other = $good;
$other =~ s/mock-chat/mock-evil/;
my $lies = '';
sub lies_no_more { $t->wait_for(sub { $redis->command('GET', $name) ne $lies }, 10, 'the answer is there again') }
for my $case (
    [ 'nothing' => '' ],
    [ 'a word' => 'OK' ],
    [ 'half of it' => substr($good, 0, length($good) / 2) ],
    [ 'more' => "$good " ],
    [ 'another text' => $other ],
) {
    lies_no_more();
    $redis->command('SET', $name, $lies = $case->[1]);
    another_engine();
    is(ask('/v1/chat/completions', $fresh), 'MISS 1', "$case->[0] is no answer");
}
lies_no_more();
$redis->command('DEL', $name);
$redis->command('LPUSH', $name, 'x');
another_engine();
is(ask('/v1/chat/completions', $fresh), 'MISS 1', 'nor is a list');
$t->wait_for(sub { $redis->command('TYPE', $name) eq 'string' }, 10, 'its answer');
$redis->command('DEL', $name);
my $copied = $t->chat('chat', 'copied');
is(ask('/v1/chat/completions', $copied), 'MISS 1', 'another request');
$t->wait_for(sub { stored() == 1 }, 10, 'is stored');
my ($its_name) = stored();
$redis->command('SET', $its_name, $good);
another_engine();
is(ask('/v1/chat/completions', $copied), 'MISS 1', 'what lay under another key is no answer');
$redis->command('SET', $its_name, 'x' x (3 << 20));
another_engine();
is(ask('/v1/chat/completions', $copied), 'MISS 1', 'nor is what is larger than any');
wait_redis('healthy');

# The location that reads has a say.
my $brief = $t->chat('chat', 'brief');
is(ask('/v1/chat/completions', $brief), 'MISS 1', 'kept for an hour');
another_engine();
$t->wait_for(sub { ask('/short/chat/completions', $brief) eq 'MISS 1' }, 10, 'too old where it is 300 ms');

# Many at once look once and go out once.
my @all = map {
    my $c = $t->connect(seconds => 30);
    $c->request('POST', '/v1/chat/completions', body => $t->chat('mock-stream-3x300ms', 'hi', stream => JSON::PP::true));
    $c;
} 1 .. 10;
my %words;
$words{ $_->response->{headers}{'x-aiq-cache'} }++ for @all;
is_deeply(\%words, { HIT => 9, MISS => 1 }, 'ten at once');

# It hangs, it is killed, it comes back: requests go on.
kill('STOP', $t->pid('redis'));
is(ask('/v1/chat/completions', $t->chat('chat', "stopped $_")), 'MISS 1', 'it hangs') for 1 .. 5;
kill('CONT', $t->pid('redis'));
$t->kill_hard('redis');
wait_redis('unhealthy');
my $r = $t->get('/health');
is($r->{status}, 200, '/health');
like($r->{body}, qr/^\{"status":"degraded"/, 'degraded');
is(ask('/v1/chat/completions', $t->chat('chat', "gone $_")), 'MISS 1', 'it is gone') for 1 .. 5;
is(ask('/v1/chat/completions', $t->chat('chat', 'gone 5')), 'HIT 0', 'memory still helps');
$redis->start;
wait_redis('healthy');
is(ask('/v1/chat/completions', $t->chat('chat', 'back')), 'MISS 1', 'it is back');
$t->wait_for(sub { stored() == 1 }, 10, 'and keeps answers');

$t->finish;
done_testing();
