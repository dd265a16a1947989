# rate=…t/m with aiq_limit … shared: two nginx, each with an engine, count tokens together in
# one Redis.

use strict;
use warnings;
use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use JSON::PP ();
use Test::More;
use AIQ::Burst;
use AIQ::Mock;
use AIQ::Redis;
use AIQ::Test;
use AIQ::WebSocket;

my @node = map { AIQ::Test->new } 1, 2;
my $redis = AIQ::Redis->new($node[0]) or plan skip_all => 'no redis-server';
my $mock = AIQ::Mock->new($node[0]);

# the mock says that an answer has 9 tokens of the prompt and 12 of the answer
for my $t (@node) {
    $t->conf("
        aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
        aiq_model chat { target mock model=mock-chat; }
        aiq_model hangs { target mock model=mock-hang-mid; }
        aiq_model fails { target mock model=mock-500; }
        aiq_limit_zone \$http_x_who zone=who:1m rate=100t/d;
        aiq_limit_zone \$http_x_two zone=two:1m rate=1000t/h;
        aiq_limit_zone \$http_x_who zone=here:1m rate=50t/d;
        aiq_limit_zone \$http_x_who zone=many:1m rate=210t/m;
        aiq_limit_zone \$http_x_who zone=asked:1m rate=3r/d;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /v1/ { aiq_limit zone=who shared fail_closed; aiq_pass gateway; }
            location /both/ { aiq_limit zone=who shared fail_closed; aiq_limit zone=two shared nodes=2;
                              aiq_limit zone=asked shared fail_closed; aiq_pass gateway /v1/; }
            location /here/ { aiq_limit zone=who shared fail_closed; aiq_limit zone=here; aiq_pass gateway /v1/; }
            location /many/ { aiq_limit zone=many shared fail_closed; aiq_pass gateway /v1/; }
            location /paid/ { aiq_limit zone=who shared fail_closed; aiq_charge 30tokens; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /ws { aiq_websocket; aiq_limit zone=who shared fail_closed; aiq_pass events; }
            location = /metrics { aiq_metrics; }
        }
        server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 ok; } }");
    $t->start_engine(args => [ '--redis', $redis->url ]);
    $t->start_nginx;
    $t->wait_for_links(1);
    $t->wait_for(sub { $t->engine_log =~ /"connected"/ }, 10, 'redis');
}

my $last;
sub status {
    my ($n, $who, $model, %more) = @_;
    my $path = delete $more{path} // '/v1/';
    $last = $node[$n]->post("${path}chat/completions", $node[$n]->chat($model, 'hi', max_tokens => 30, %more),
        headers => [ 'X-Who' => $who, 'X-Two' => $who ]);
    return $last->{status};
}
sub left { return $last->{headers}{'x-ratelimit-remaining-tokens'} }

# What is left after it, or the status. What was used is told a moment after the answer, and on a
# machine that is busy an answer of Redis may come too late, which is a 503 here: then all of it
# again, with another key.
sub ask { return status(@_) == 200 ? left() : $last->{status} }
my $name = 'k0';
sub exactly {
    my ($what, $expected, $ask) = @_;
    my $got = '';

    for (1 .. 20) {
        $name++;
        $got = join(' ', $ask->($name));
        last if $got eq $expected;
    }
    is($got, $expected, $what);
}

exactly('what one has used counts for the other, and a refusal tells what is left', '79 58 429 58', sub {
    my @all = (ask(0, $_[0], 'chat'), ask(1, $_[0], 'chat'), ask(0, $_[0], 'chat', max_tokens => 90));
    return (@all, left() // '-');
});
is($last->{headers}{'x-ratelimit-limit-tokens'}, 100, 'of its limit');
like($last->{headers}{'x-ratelimit-reset-tokens'}, qr/^2[34]h\d+m\d+s$/, 'until when');
cmp_ok($last->{headers}{'retry-after'}, '>', 80000, 'Retry-After');
is($node[0]->json($last)->{error}{code}, 'rate_limit_exceeded', 'the code');

exactly('who gets nothing has used nothing', '502 502 502 79', sub { return ((map { ask($_, $_[0], 'fails') } 0, 1, 0), ask(1, $_[0], 'chat')) });

# What a stream holds, and who leaves it.
exactly('what a stream of one holds is not free for the other', 'held 429', sub {
    my $c = $node[0]->connect;
    $c->request('POST', '/v1/chat/completions', headers => [ 'X-Who' => $_[0] ],
        body => $node[0]->chat('hangs', 'hi', max_tokens => 60, stream => JSON::PP::true()));
    my $head = $c->head;
    my $then = status(1, $_[0], 'chat');
    $c->close;
    return ($head->{status} == 200 ? 'held' : $head->{status}, $then);
});

exactly('two shared limits: the tightest tells', '79 58', sub { return (ask(0, $_[0], 'chat', path => '/both/'), ask(1, $_[0], 'chat', path => '/both/')) });
is($last->{headers}{'x-ratelimit-remaining-requests'}, 1, 'beside one of requests');
exactly('one of this engine alone beside it, and what that refuses the other has not counted', '29 429 29 37', sub {
    return (ask(0, $_[0], 'chat', path => '/here/'), ask(0, $_[0], 'chat', path => '/here/'), ask(1, $_[0], 'chat', path => '/here/'),
        ask(0, $_[0], 'chat'));
});

# aiq_charge
exactly('what others serve is charged', '200 200 200 429 10 left', sub {
    my @paid = map { $last = $node[$_]->get('/paid/', headers => [ 'X-Who' => $_[0] ]); $last->{status} } 0, 1, 0, 1;
    return (@paid, left() . ' left');
});

exactly('a chat over a WebSocket counts, too', '79 done 41', sub {
    my @first = ask(0, $_[0], 'chat');
    my $ws = AIQ::WebSocket->new($node[1], '/ws', headers => [ 'X-Who' => $_[0] ]);
    my $e = $ws->event;
    $ws->say(type => 'chat', id => 'c1', body => { model => 'chat', max_tokens => 30, messages => [ { role => 'user', content => 'hi' } ] });
    do { $e = $ws->event } until $e->{type} =~ /^(?:done|error)$/;
    # a stream of the mock's has 17
    my $kind = $e->{type} eq 'error' ? 503 : $e->{type};
    return (@first, $kind, ask(0, $_[0], 'chat'));
});

# Many at once, over both: 21 each, of 210.
my $body = $node[0]->chat('chat', 'hi', max_tokens => 12);
my @ports = map { $_->port(0) } @node;
my $passed = 0;
for my $round (1 .. 3) {
    my %status = AIQ::Burst::run(\@ports, 40, "POST /many/chat/completions HTTP/1.1\r\nHost: a\r\nX-Who: burst\r\nConnection: close\r\n"
            . "Content-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n$body");
    $passed += $status{200} // 0;
    is($passed <= 10 ? 'fine' : $passed, 'fine', "never more than there are, round $round");
}
cmp_ok($passed, '>=', 5, 'and not much fewer');

# An engine dies with what it holds.
my $c;
$node[0]->wait_for(sub {
    $c = $node[0]->connect;
    $c->request('POST', '/v1/chat/completions', headers => [ 'X-Who' => 'dead' ],
        body => $node[0]->chat('hangs', 'hi', max_tokens => 60, stream => JSON::PP::true()));
    $c->head->{status} == 200;
}, 10, 'a stream');
$node[0]->kill_hard('engine');
$node[1]->wait_for(sub { status(1, 'dead', 'chat') != 503 }, 10, 'an answer of Redis');
is($last->{status}, 429, 'what a dead engine holds is not free at once');
my $leases = '{aiq:limit}:tokens:who:86400000:' . substr(sha256_hex('dead'), 0, 32) . ':leases';
my ($id) = @{ $redis->command('ZRANGE', $leases, 0, 0) };
my $now = $redis->command('TIME')->[0];
my $until = $redis->command('ZSCORE', $leases, $id) / 1000;
cmp_ok($until, '<=', $now + 61, 'but within a minute');
$redis->command('ZADD', $leases, 1, $id);    # which is over
$node[1]->wait_for(sub { status(1, 'dead', 'chat') == 200 }, 10, 'it is free again');

like(join(' ', grep { /:tokens:/ } @{ $redis->command('KEYS', '*') }), qr/^(?:\{aiq:limit\}:tokens:\w+:\d+:[0-9a-f]{32}:(?:slots|holds|leases) ?)+$/,
    'what lies in Redis: digests');
like($node[1]->get('/metrics')->{body}, qr/^aiq_shared_token_questions_total\{result="answered"\} [1-9]/m, 'metrics');

$_->finish for reverse @node;
done_testing;
