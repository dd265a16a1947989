# aiq_limit … shared: two nginx, each with an engine, count together in one Redis.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Burst;
use AIQ::JWT;
use AIQ::Redis;
use AIQ::Test;

my @node = map { AIQ::Test->new } 1, 2;
my $redis = AIQ::Redis->new($node[0]) or plan skip_all => 'no redis-server';
my $key = AIQ::JWT->new('EdDSA');

for my $t (@node) {
    $t->write_file('jwks.json', AIQ::JWT::set($key));
    $t->conf('
        aiq_jwt_key_file %%DIR%%/jwks.json;
        log_format limit "$uri $status $aiq_limit_status";
        aiq_limit_zone $arg_k zone=day:1m rate=10r/d;
        aiq_limit_zone $arg_u zone=user:1m rate=3r/d;
        aiq_limit_zone $arg_k zone=much:1m rate=2000r/d;
        aiq_limit_zone $arg_k zone=second:1m rate=3r/s;
        aiq_limit_zone $arg_k zone=slow:1m rate=1r/d;
        aiq_limit_zone $arg_l zone=here:1m rate=2r/d;
        aiq_limit_zone $aiq_user zone=who:1m rate=2r/d;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            access_log %%DIR%%/logs/limit.log limit;
            location /day/ { aiq_limit zone=day shared fail_closed; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /echo/ { aiq_limit zone=day shared fail_closed; aiq_pass echo; }
            location /both/ { aiq_limit zone=user shared fail_closed; aiq_limit zone=day shared fail_closed; aiq_pass echo; }
            location /mixed/ { aiq_limit zone=here; aiq_limit zone=day shared fail_closed; aiq_pass echo; }
            location /trial/ { aiq_limit zone=slow shared fail_closed dry_run; aiq_pass echo; }
            location /second/ { aiq_limit zone=second shared fail_closed burst=3; aiq_pass echo; }
            location /slow/ { aiq_limit zone=slow shared fail_closed burst=1; aiq_pass echo; }
            location /moved/ { aiq_limit zone=day shared fail_closed; error_page 404 = @moved; return 404; }
            location @moved { aiq_limit zone=day shared fail_closed; aiq_limit zone=user shared fail_closed;
                              proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /who/ { satisfy any; allow all; aiq_jwt api; aiq_limit zone=who shared fail_closed; aiq_pass echo; }
            location = /metrics { aiq_metrics; }
        }
        server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 ok; } }');
    $t->start_engine(args => [ '--redis', $redis->url ]);
    $t->start_nginx;
    $t->wait_for_links(1);
    $t->wait_for(sub { $t->engine_log =~ /"connected"/ }, 10, 'redis');
}

my $last;
sub status {
    my ($n, $path, @headers) = @_;
    $last = $node[$n]->post($path, 'x', headers => \@headers);
    return $last->{status};
}
sub repeat { my ($n, $path, $times) = @_; return map { status($n, $path) } 1 .. $times }
sub left { return $last->{headers}{'x-ratelimit-remaining-requests'} }

# On a machine that is busy an answer may come too late, which is a 503 here: then all of
# it again, with another key.
my $name = 'k0';
sub exactly {
    my ($what, $expected, $ask) = @_;
    my $got = '';

    for (1 .. 20) {
        $name++;
        $got = join(' ', $ask->("k=$name"));
        last if $got !~ /\b503\b/;
    }
    is($got, $expected, $what);
}

exactly('as many as the rate says, of both', '200 200 200 200 200 200 200 200 200 200 429 429',
    sub { return (repeat(0, "/day/?$_[0]", 6), repeat(1, "/echo/?$_[0]", 5), repeat(0, "/echo/?$_[0]", 1)) });
cmp_ok($last->{headers}{'retry-after'}, '>', 86000, 'Retry-After, by what both know');
is($last->{headers}{'x-ratelimit-limit-requests'}, 10, 'the limit');
is(left(), 0, 'none is left');
like($last->{headers}{'x-ratelimit-reset-requests'}, qr/^2[34]h\d+m\d+s$/, 'for a day');
is($node[0]->json($last)->{error}{code}, 'rate_limit_exceeded', 'the code');

exactly('a reload forgets nothing', '200 200 8 429', sub {
    my @all = (status(0, "/day/?$_[0]"), status(1, "/day/?$_[0]"), left());
    my @rest = repeat(0, "/day/?$_[0]", 8);
    $node[0]->reload;
    return (@all, grep({ $_ == 503 } @rest), status(0, "/day/?$_[0]"));
});

exactly('what one refuses the other has not counted', '200 200 200 429 429 200 200 5 left', sub {
    return (repeat(0, "/both/?u=$_[0]a&$_[0]", 3), repeat(1, "/both/?u=$_[0]a&$_[0]", 2),
        status(1, "/both/?u=$_[0]b&$_[0]"), status(0, "/day/?$_[0]"), left() . ' left');
});

exactly('nor what a limit of this nginx alone refuses', '200 200 429 200 200 429 200 5 left', sub {
    return (repeat(0, "/mixed/?l=$_[0]&$_[0]", 3), repeat(1, "/mixed/?l=$_[0]&$_[0]", 3), status(0, "/day/?$_[0]"), left() . ' left');
});

exactly('a redirect counts once in each', '200 200 8 left 200 1 left', sub {
    my @all = (status(0, "/moved/?$_[0]&u=$_[0]"), status(1, "/day/?$_[0]"), left() . ' left');
    return (@all, status(0, "/both/?$_[0]0&u=$_[0]"), left() . ' left');
});

exactly('an empty key is not counted', '200 200 200', sub { return repeat(0, '/both/', 3) });
is(left(), undef, 'nor told of');

my $hostile = join('', map { sprintf '%%%02x', $_ } 0 .. 255) . '{aiq}%0d%0aDEL';
exactly('any bytes may be a key', '200 200 200 429', sub {
    return (repeat(0, "/both/?u=$hostile$_[0]&$_[0]", 2), repeat(1, "/both/?u=$hostile$_[0]&$_[0]", 2));
});
like(join(' ', @{ $redis->command('KEYS', '*') }), qr/^(?:\{aiq:limit\}:\w+:\d+:[0-9a-f]{32} ?)+$/, 'what lies in Redis: digests');

exactly('a dry run refuses nobody', '200 200', sub { return (status(0, "/trial/?$_[0]"), status(1, "/trial/?$_[0]")) });
$node[1]->wait_for(sub { $node[1]->read_file('logs/limit.log') =~ m{^/trial/ 200 REJECTED_DRY_RUN$}m }, 10, 'told');
like($node[1]->error_log, qr/refused, dry run: rate_limit_exceeded, zone "slow"/, 'but it is logged');

# Identity.
my %ann = AIQ::JWT::bearer($key->token(sub => 'ann', tenant => 'acme'));
my %bob = AIQ::JWT::bearer($key->token(sub => 'bob', tenant => 'acme'));
is(status(0, '/who/'), 403, 'nobody in particular is refused, satisfy any or not');
exactly('by who asks', '200 200 429 200', sub {
    $redis->command('FLUSHALL');
    return (status(0, '/who/', @{ $ann{headers} }), status(1, '/who/', @{ $ann{headers} }), status(0, '/who/', @{ $ann{headers} }),
        status(0, '/who/', @{ $bob{headers} }));
});

# Waiting.
exactly('when the window is full some wait, on either', '200 200 200 200 200 200', sub { return repeat(0, "/second/?$_[0]", 6) });
# those who come when the window is over do not wait: then others
$node[0]->wait_for(sub { $node[0]->read_file('logs/limit.log') =~ m{^/second/ 200 DELAYED$}m || (repeat(0, '/second/?k=' . $name++, 4) && 0) },
    10, 'told');
like($node[0]->error_log, qr/waits, zone "second"/, 'and logged');
exactly('one waits for tomorrow, no other may', '200 429', sub {
    my @all = status(0, "/slow/?$_[0]");
    my $logged = sub { my ($text) = @_; return scalar(() = $node[1]->error_log =~ /$text/g) };
    my ($waits, $late) = ('waits, zone "slow"', 'limit_unavailable');
    my %before = map { $_ => $logged->($_) } $waits, $late;
    my $c = $node[1]->connect;

    $c->request('POST', "/slow/?$_[0]", body => 'x');
    $node[1]->wait_for(sub { grep { $logged->($_) > $before{$_} } keys %before }, 10, 'one waits, or cannot');
    return (@all, 503) if $logged->($late) > $before{$late};
    push @all, status(0, "/slow/?$_[0]");
    $c->close;
    return @all;
});

# Many at once, over both: exactly so many pass, in whatever way they meet.
my @ports = map { $_->port(0) } @node;
for my $try (1 .. 20) {
    my %status = AIQ::Burst::run(\@ports, 200, "GET /day/?k=burst$try HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    cmp_ok($status{200}, '<=', 10, 'never more than the rate says');
    next if $status{503} && $try < 20;
    is_deeply(\%status, { 200 => 10, 429 => 190 }, 'and not fewer');
    last;
}

# Who leaves while he asks does no harm.
for (1 .. 50) {
    my $c = $node[0]->connect;
    $c->request('POST', '/day/?k=leaver', body => 'x');
    $c->close;
}
is($node[0]->get('/metrics')->{status}, 200, 'who leaves while he asks');
my $metrics = $node[0]->get('/metrics')->{body};
like($metrics, qr/^aiq_limit_total\{zone="day",status="REJECTED"\} [1-9]/m, 'metrics');
like($metrics, qr/^aiq_shared_limit_questions_total\{result="answered"\} [1-9]/m, 'questions');

$_->finish for reverse @node;
done_testing;
