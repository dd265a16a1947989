# What the configuration has to offer, and who can answer now: /api/v1/models and
# /api/v1/providers, for all who may read.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(env => { GOOD_KEY => 'sk-good-secret', BAD_KEY => 'sk-bad-secret' });
my $mock = AIQ::Mock->new($t);
$t->conf("
    aiq_provider one { dialect openai; url @{[ $mock->url ]}; key env:BAD_KEY; key env:GOOD_KEY;
                       retry 1; breaker failures=2 open=1h; }
    aiq_provider two { dialect anthropic; url @{[ $mock->url ]}; key env:NO_SUCH_KEY; http_version 2; }
    aiq_provider local { dialect local; model demo /nowhere.gguf; }
    aiq_model a { target one model=mock-500 input=2.50 cached=1.25 output=10.00; target two model=b weight=3 noncritical;
                  policy weight; fallback context=c; }
    aiq_model b { target one model=mock-key-401; }
    aiq_model c { target two model=b if=\$http_x_big; target local model=demo backup; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /api/ { aiq_key aiq; aiq_pass control; }
        location /v1/  { aiq_key aiq; aiq_pass gateway; }
    }");
$t->start;

my $admin = AIQ::Admin->new($t);
$admin->json(qw(tenants create acme));
my %key = (
    viewer => $admin->json(qw(keys create --role viewer --tenant acme))->{key},
    all    => $admin->json(qw(keys create))->{key},
    b      => $admin->json(qw(keys create --models b))->{key},
);

sub call {
    my ($who, $path) = @_;
    my $r = $t->http('GET', "/api/v1/$path", headers => AIQ::Admin::bearer($key{$who}));
    return ($r->{status}, $t->json($r), $r->{body});
}
sub data { my ($status, $reply) = call(@_); is($status, 200, "@_"); return @{ $reply->{data} } }
sub names { return join ' ', map { $_->{name} } @_ }
sub ask {
    my ($who, $model) = @_;
    return $t->post('/v1/chat/completions', $t->chat($model, 'hi'), headers => AIQ::Admin::bearer($key{$who}));
}

# as they are at first
my ($status, $reply) = call('viewer', 'models');
is($status, 200, 'who may read may see them');
is(names(@{ $reply->{data} }), 'a b c', 'all models');
is($reply->{next}, undef, 'on one page');
my ($a, $b, $c) = @{ $reply->{data} };
is("$a->{status} $a->{policy} $a->{fallback}{context}", 'healthy weight c', 'how a model answers');
is($a->{fallback}{content}, undef, 'and what it has not');
is_deeply($a->{targets}[0], { provider => 'one', model => 'mock-500', status => 'healthy', breaker => 'closed', weight => 1,
    price => { input => '2.500000000', cached => '1.250000000', output => '10.000000000', map { $_ => undef } qw(characters image minute) },
    map { $_ => JSON::PP::false } qw(backup noncritical conditional) }, 'a target');
is_deeply($a->{targets}[1]{price}, { map { $_ => undef } qw(input cached output characters image minute) }, 'a price that is not known');
ok($a->{targets}[1]{noncritical} && $c->{targets}[0]{conditional} && $c->{targets}[1]{backup}, 'when a target answers');

my ($one, $two, $local) = data('viewer', 'providers');
is_deeply($one, { name => 'one', dialect => 'openai', http_version => '1.1', status => 'healthy', reason => undef,
    breaker => 'closed', keys => [ ({ status => 'ready' }) x 2 ] }, 'a provider');
is("$two->{dialect} $two->{http_version} $two->{status} $two->{reason}", 'anthropic 2 degraded a key is missing', 'one without its key');
is_deeply([ @$local{qw(name dialect http_version keys)} ], [ 'local', 'local', undef, [] ], 'a local one');

# what becomes of them
is(ask('b', 'b')->{status}, 200, 'a key is refused, another one answers');
($one) = data('viewer', 'providers');
is("$one->{status} $one->{reason}", 'degraded a key rests', 'so it rests');
is(join(' ', map { $_->{status} } @{ $one->{keys} }), 'resting ready', 'the first');
cmp_ok($one->{keys}[0]{retry_after}, '>', 0, 'for some seconds');

ask('all', 'a') for 1 .. 2;
($one) = data('viewer', 'providers');
is("$one->{status} $one->{breaker} $one->{reason}", 'degraded open a circuit breaker is open', 'a target fails');
($a, $b) = data('viewer', 'models');
is("$a->{status} $b->{status}", 'degraded healthy', 'the models');
is("$a->{targets}[0]{status} $a->{targets}[0]{breaker}", 'unhealthy open', 'the target');
cmp_ok($a->{targets}[0]{retry_after}, '>', 3000, 'until then');

# pages
($status, $reply) = call('viewer', 'models?limit=2');
is(names(@{ $reply->{data} }), 'a b', 'a page');
($status, $reply) = call('viewer', "models?limit=2&after=$reply->{next}");
is(names(@{ $reply->{data} }), 'c', 'the next');
is($reply->{next}, undef, 'and last');
is(names(data('viewer', 'providers?limit=1&after=1')), 'two', 'of providers, too');

# who sees what
is(names(data('b', 'models')), 'b', 'a key for one model sees this');
is(names(data('b', 'providers')), 'one', 'and its provider');
unlike((call('viewer', $_))[2], qr/127\.0\.0\.1|KEY|secret|nowhere/, "$_ tell no address and no key") for qw(models providers);
is($t->get("/api/v1/$_")->{status}, 401, "nobody sees $_") for qw(models providers);
for my $wrong ('tenant=acme', 'x=1', 'after=b', 'limit=0') {
    ($status, $reply) = call('viewer', "models?$wrong");
    is("$status $reply->{error}{param}", '400 ' . $wrong =~ s/=.*//r, "$wrong is no argument");
}

$t->finish;
done_testing;
