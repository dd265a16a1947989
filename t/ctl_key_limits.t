# A key's own limits and budget: how they are given, where they hold, when they end.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

# the mock says that an answer has 9 tokens of the prompt and 12 of the answer
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model chat { target mock model=mock-chat input=1 output=10; }    # 9000 + 120000 nano-USD
    aiq_limit_zone \$aiq_tenant zone=tenant:1m rate=2r/d;
    aiq_key all;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/     { aiq_pass gateway; }
        location /both/   { aiq_budget key 150tokens/day; aiq_pass gateway /v1/; }
        location /proxied { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /counted { aiq_limit zone=tenant; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /tried   { try_files /none /proxied; }
        location /api/    { aiq_pass control; }
        location /metrics { aiq_key off; aiq_metrics; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; aiq_key off; location / { return 200; } }", workers => 2);
$t->start;

my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));
$admin->json('tenants', 'create', $_) for qw(acme beta);
my $boss = $admin->json(qw(keys create --admin --tenant beta));

# [status, answer]
sub call {
    my ($method, $path, $body, $who) = @_;
    my $r = $t->http($method, "/api/v1/$path", headers => AIQ::Admin::bearer(($who // $root)->{key}),
        defined $body ? (body => ref $body ? JSON::PP::encode_json($body) : $body) : ());

    return ($r->{status}, $t->json($r));
}

sub made {
    my ($status, $key) = call('POST', 'keys', { tenant => 'acme', @_ });

    is($status, 201, 'a key is made') or diag explain $key;
    return $key;
}

sub refused {
    my ($status, $code, $param, @call) = @_;
    my ($got, $reply) = call(@call);

    is("$got $reply->{error}{code} " . ($reply->{error}{param} // '-'), "$status $code $param", "$code $param");
}

sub get { return $t->get($_[1] // '/proxied', headers => AIQ::Admin::bearer($_[0]{key})) }
sub ask {
    return $t->post(($_[1] // '/v1/') . 'chat/completions', $t->chat('chat', 'hi', max_tokens => 12),
        headers => AIQ::Admin::bearer($_[0]{key}));
}
sub budgets {
    my ($id) = @_;
    return grep { ($_->{subject} // '') eq $id } @{ (call('GET', 'budgets'))[1]{data} };
}

# how they are given, and what is shown of them
my $plain = made();
is_deeply([ @$plain{qw(limits budget)} ], [ { requests_per_minute => undef, tokens_per_minute => undef }, undef ],
    'none unless it is given one');
my $full = made(limits => { requests_per_minute => 3, tokens_per_minute => 5000 }, budget => '0.5usd/month');
is_deeply($full->{limits}, { requests_per_minute => 3, tokens_per_minute => 5000 }, 'limits');
is($full->{budget}, '0.5usd/month', 'and a budget');
my (undef, $again) = call('GET', "keys/$full->{id}");
is_deeply([ @$again{qw(limits budget)} ], [ @$full{qw(limits budget)} ], 'it is shown later, too');
is_deeply([ map { @$_{qw(tenant scope amount spent)} } budgets($full->{id}) ], [ 'acme', 'key', '0.5usd/month', '0usd' ],
    'the budget is one of /api/v1/budgets');

refused(400, 'invalid_type', 'limits', 'POST', 'keys', { limits => 5 });
refused(400, 'unknown_parameter', 'requests_per_hour', 'POST', 'keys', { limits => { requests_per_hour => 5 } });
refused(400, 'invalid_value', 'requests_per_minute', 'POST', 'keys', qq({"limits":{"requests_per_minute":$_}}))
    for 0, -1, 1.5, '"5"', 1000000001, '1e30';
refused(400, 'invalid_value', 'tokens_per_minute', 'POST', 'keys', '{"limits":{"tokens_per_minute":true}}');
refused(400, 'invalid_value', 'budget', 'POST', 'keys', { budget => '5eur/month' });
refused(400, 'missing_required_parameter', 'limits', 'PATCH', "keys/$full->{id}", {});
refused(404, 'not_found', '-', 'PATCH', "keys/$full->{id}", { limits => {} }, $boss);
refused(404, 'not_found', '-', 'PATCH', 'keys/key_none', { limits => {} });

# requests, in front of any location and at every worker
is(get($plain)->{status}, 200, 'without a limit') for 1 .. 8;
is(get($plain)->{headers}{'x-ratelimit-limit-requests'}, undef, 'of which nothing is said');
my $r;
for my $left (2, 1, 0) {
    $r = get($full, $left == 1 ? '/tried' : '/proxied');
    is("$r->{status} $r->{headers}{'x-ratelimit-limit-requests'} $r->{headers}{'x-ratelimit-remaining-requests'}",
        "200 3 $left", "$left are left");
}
$r = ask($full);
is("$r->{status} " . $t->json($r)->{error}{code}, '429 rate_limit_exceeded', 'no more, in whatever location');
cmp_ok($r->{headers}{'retry-after'}, '<=', 60, 'for a minute');
like($t->get('/metrics')->{body}, qr/zone="aiq_key"[^\n]*\} \d/, 'it is counted beside other limits');
my $strict = made(limits => { requests_per_minute => 1 });
my $loose = made(limits => { requests_per_minute => 100 });
is(get($strict, '/counted')->{status}, 200, "a location's own limit counts as well");
is(get($strict, '/counted')->{status}, 429, "the key's is stricter");
is(get($loose, '/counted')->{status}, 200, 'what one limit refuses the other does not count');
is(get($loose, '/counted')->{status}, 429, "the location's is stricter");

# a change holds within a second
sub becomes {
    my ($key, $status, $name, $path) = @_;
    ok(eval { $t->wait_for(sub { ($path ? ask($key, $path) : get($key))->{status} == $status }, 10) }, $name);
}
is((call('PATCH', "keys/$strict->{id}", { limits => { tokens_per_minute => 7 } }))[1]{limits}{requests_per_minute}, undef,
    'limits are given anew');
becomes($strict, 200, 'it has no limit of requests any more');
is((call('PATCH', "keys/$loose->{id}", { limits => { requests_per_minute => 1 } }))[0], 200, 'a limit becomes stricter');
becomes($loose, 429, 'what was let through before counts');

# tokens: 21 a request, and about 13 are held
my $tokens = made(limits => { tokens_per_minute => 40 });
$r = ask($tokens);
is("$r->{status} $r->{headers}{'x-ratelimit-limit-tokens'} $r->{headers}{'x-ratelimit-remaining-tokens'}", '200 40 19',
    'tokens are counted');
is((map { ask($tokens)->{status} } 1 .. 3)[-1], 429, 'and run out');
is(ask($plain)->{status}, 200, "another key's do not");
is(get($tokens)->{status}, 200, 'where there are no tokens there is nothing to count');

# money, where the location has no budget
my $poor = made(budget => '0.0004usd/day');
is(ask($poor)->{status}, 200, 'a budget for two requests') for 1 .. 2;
$r = ask($poor);
is("$r->{status} " . $t->json($r)->{error}{code}, '402 budget_exceeded', 'is used up');
like($t->json($r)->{error}{message}, qr/of this API key for this day/, 'says whose');
my ($budget) = budgets($poor->{id});
$t->wait_for(sub { ((budgets($poor->{id}))[0]{spent}) eq '0.000258usd' }, 10, 'what is spent is in the store');
is((call('PATCH', "budgets/$budget->{id}", { amount => '0.0006usd/day' }))[0], 200, 'it becomes larger');
becomes($poor, 200, 'and lets more through', '/v1/');
is((call('DELETE', "budgets/$budget->{id}"))[0], 200, 'it goes');
is((call('GET', "keys/$poor->{id}"))[1]{budget}, undef, 'the key has none any more');
is((call('POST', 'budgets', { scope => 'key', tenant => 'acme', subject => $poor->{id}, amount => '1tokens/month' }))[0], 201,
    'it gets another one');
becomes($poor, 402, 'which holds as well', '/v1/');

# with the location's: the stricter one
my $low = made(budget => '30tokens/day');
is((map { ask($low, '/both/')->{status} } 1 .. 3)[-1], 402, "the key's is stricter");
my $high = made(budget => '1000000tokens/day');
my @status = map { ask($high, '/both/')->{status} } 1 .. 12;
is($status[-1], 402, "the location's is stricter");
is(ask($high)->{status}, 200, 'and is not that of other locations');

# what another tenant says of a key is not heard
is((call('POST', 'budgets', { scope => 'key', subject => $plain->{id}, amount => '1tokens/day' }, $boss))[1]{tenant}, 'beta',
    "another tenant's budget of that name");
is(ask($plain)->{status}, 200, 'is none of this key') for 1 .. 3;
is((call('GET', "keys/$plain->{id}"))[1]{budget}, undef, 'nor is it shown');

# the end
is((call('DELETE', "keys/$full->{id}"))[0], 200, 'the key goes');
is(scalar budgets($full->{id}), 0, 'and its budget');
is(scalar budgets($plain->{id}), 0 + 1, 'others stay');
(undef, my $alice) = call('POST', 'users', { tenant => 'acme', name => 'alice' });
my $hers = made(user => 'alice', budget => '5usd/day');
is((call('DELETE', "users/$alice->{id}"))[0], 200, 'a user goes');
is(scalar budgets($hers->{id}), 0, "and her keys' budgets");

# the command
my $cli = $admin->json(split ' ', 'keys create --tenant acme --limit 60r/m,5000t/m --budget 20usd/month');
is_deeply([ @$cli{qw(limits budget)} ], [ { requests_per_minute => 60, tokens_per_minute => 5000 }, '20usd/month' ],
    'aiq keys create --limit --budget');
is_deeply($admin->json('keys', 'change', $cli->{id}, '--limit', '7t/m')->{limits},
    { requests_per_minute => undef, tokens_per_minute => 7 }, 'aiq keys change');
is_deeply($admin->json('keys', 'change', $cli->{id}, '--limit', '')->{limits},
    { requests_per_minute => undef, tokens_per_minute => undef }, 'no limit');
for my $bad ('60', '60r/s', 'r/m', '60r/m,', ',60r/m', '60r/m,x', '6x0r/m') {
    is($admin->run(qw(keys create --limit), $bad)->{status}, 2, "--limit $bad is none");
}
is($admin->run(qw(keys create --budget 5))->{status}, 1, '--budget 5 is none');

$t->finish;
done_testing;
