# What the engine tells by topics of its own: budgets to each tenant's admins, circuit breakers
# to those of the tenant "default".

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_provider bad  { dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=2 open=30s; }
    aiq_model chat { target mock model=mock-chat input=1 output=10; }    # an answer costs 129000 nano-USD
    aiq_model fails { target bad model=mock-500; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/        { aiq_budget user 0.0006usd/day; aiq_pass gateway; }
        location /free/      { aiq_pass gateway /v1/; }
        location /v1/topics/ { aiq_pass events; }
    }");
$t->start;

sub as { return (Authorization => 'Bearer ' . $key->token(sub => $_[1] // 'ann', tenant => $_[0], role => $_[2] // 'admin')) }

sub ask {
    my ($user, $path, $model) = @_;
    return $t->post("$path/chat/completions", $t->chat($model, 'hi', max_tokens => 12), headers => [ as('acme', $user, 'user') ])->{status};
}

sub told {
    my ($name, $tenant, $role) = @_;
    my $r = $t->get("/v1/topics/$name?after=0", headers => [ as($tenant, 'root', $role) ]);
    return $r->{status} unless $r->{status} == 200;
    return @{ $t->json($r)->{data} };
}

# Budgets.
my @answers;
push @answers, ask('ann', '/v1', 'chat') until grep { $_ == 402 } @answers or @answers > 20;
is($answers[-1], 402, 'a budget is used up');
is(ask('ann', '/v1', 'chat'), 402, 'and remains so');
my @said;
$t->wait_for(sub { (@said = told('aiq.admin.budgets', 'acme')) >= 2 }, 20, 'it is told');
is_deeply([ sort map { $_->{type} } @said ], [ 'budget.exceeded', 'budget.warning' ], 'once each');
for my $event (@said) {
    like($event->{data}{account}, qr{^user/acme/ann/usd/day/\d{4}-\d\d-\d\d$}, "$event->{type}: whose it is");
    is($event->{data}{limit}, '0.000600000', 'how much it has');
    cmp_ok($event->{data}{spent}, '>=', 0.0004, 'how much is spent');
}
is(ask('bob', '/v1', 'chat'), 200, 'another has another');
is_deeply([ told('aiq.admin.budgets', 'bolt') ], [], 'another tenant hears nothing');
is(told('aiq.admin.budgets', 'acme', 'developer'), 403, 'nor do they who are no admins');

# Circuit breakers.
ask('ann', '/free', 'fails') for 1 .. 3;
$t->wait_for(sub { (@said = told('aiq.admin.providers', 'default')) >= 1 }, 20, 'a circuit breaker is told of');
is_deeply([ @{ $said[0] }{qw(type data)} ], [ 'breaker', { provider => 'bad', model => 'mock-500', state => 'open' } ], 'which, and how it is');
is_deeply([ told('aiq.admin.providers', 'acme') ], [], 'to the tenant "default" alone');

$t->finish;
done_testing();
