# Budgets: what a tenant, a user or a key may spend, what a client sees of it, and
# what the ledger says afterwards.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use POSIX ();
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
    aiq_model free { target mock model=mock-chat; }
    aiq_model lies { target mock model=mock-chat input=0 output=10; }
    aiq_model hangs { target mock model=mock-hang-mid input=1 output=10; }
    aiq_model fails { target mock model=mock-500 input=1 output=10; }
    log_format cost '\$aiq_tenant \$aiq_tokens_in \$aiq_tokens_out \$aiq_cost';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/cost.log cost;
        location /open/    { aiq_pass gateway /v1/; }
        location /v1/      { aiq_key all; aiq_budget tenant 0.001usd/day; aiq_pass gateway; }
        location /user/    { aiq_key all; aiq_budget user 10000tokens/month; aiq_pass gateway /v1/; }
        location /key/     { aiq_key all; aiq_budget key 150tokens/day; aiq_budget tenant 1000000tokens/month; aiq_pass gateway /v1/; }
        location /nobody/  { aiq_budget user 1usd/day; aiq_pass gateway /v1/; }
        location /api/     { aiq_key all; aiq_pass control; }
        location /metrics  { aiq_metrics; }
    }");
$t->start;

my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));
$admin->json('tenants', 'create', $_) for qw(acme bolt coil dune);
my %key = map { $_ => $admin->json('keys', 'create', '--tenant', $_) } qw(acme bolt coil dune);

sub ask {
    my ($path, $tenant, $model, %more) = @_;

    return $t->post($path . 'chat/completions', $t->chat($model, 'hi', max_tokens => 12, %more),
        headers => $tenant ? AIQ::Admin::bearer($key{$tenant}{key}) : [ 'Content-Type' => 'application/json' ]);
}

sub usage {
    my ($args, $key) = @_;
    my $r = $t->get("/api/v1/usage?$args", headers => AIQ::Admin::bearer($key // $root->{key}));

    is($r->{status}, 200, "usage $args") or diag($r->{body});
    return $t->json($r);
}

sub refused {
    my ($r, $status, $code, $name) = @_;
    my $error = $t->json($r)->{error};

    is("$r->{status} $error->{code}", "$status $code", $name) or diag($r->{body});
    return $error;
}

# Without a budget: the request goes out as it came, its cost is known.
my $r = ask('/open/', undef, 'chat');
is($r->{status}, 200, 'no budget');
is($r->{headers}{'x-aiq-cost'}, '0.000129000', 'what it cost');
is($r->{headers}{'x-aiq-budget'}, undef, 'and nothing of budgets');
$r = ask('/open/', undef, 'free');
is($r->{headers}{'x-aiq-cost'}, undef, 'no price, no cost');
is(ask('/open/', undef, 'chat', stream => JSON::PP::true)->{status}, 200, 'a stream');

# D6: what a request has spent is what the next one is held against, at once and not after
# some cache's minute. USD: 7 requests of 129000 fit into 1000000, the 8th does not.
my @budget;
for my $i (1 .. 7) {
    $r = ask('/v1/', 'acme', 'chat');
    is($r->{status}, 200, "request $i") or diag($r->{body});
    push @budget, $r->{headers}{'x-aiq-budget'} // '-';
}
is(join(',', @budget), '-,-,-,-,-,-,more than 80% used', 'warned when 80 % are used');
$r = ask('/v1/', 'acme', 'chat');
my $error = refused($r, 402, 'budget_exceeded', 'the 8th');
is($r->{headers}{'x-should-retry'}, 'false', 'do not ask again');
is($error->{type}, 'insufficient_quota', 'its type is that of OpenAI');
like($error->{message}, qr/budget of this tenant for this day/, 'says whose');
unlike($r->{body}, qr/acme|1000000/, 'and not how much');
is(ask('/v1/', 'bolt', 'chat')->{status}, 200, 'another tenant has its own');
is(ask('/v1/', 'bolt', 'chat', stream => JSON::PP::true)->{status}, 200, 'streams count, too');
$r = $t->post('/v1/messages', '{"model":"chat","max_tokens":12,"messages":[{"role":"user","content":"hi"}]}',
    headers => AIQ::Admin::bearer($key{acme}{key}));
is($r->{status}, 402, 'Anthropic: 402');
is($t->json($r)->{type}, 'error', 'in its envelope');
is($r->{headers}{'x-should-retry'}, 'false', 'do not ask again');

# Tokens, of a user and of a key.
refused(ask('/nobody/', undef, 'chat'), 403, 'identity_required', 'nobody has no budget');
is(ask('/user/', 'coil', 'free')->{status}, 200, 'tokens need no price');
refused(ask('/v1/', 'coil', 'free'), 503, 'price_missing', 'USD do');
is(ask('/key/', 'coil', 'chat')->{status}, 200, 'a key');
$r = ask('/key/', 'coil', 'chat', max_tokens => 1000);
like(refused($r, 402, 'budget_exceeded', 'more than is left of it')->{message}, qr/of this API key/, 'of this key');
my $second = $admin->json(qw(keys create --tenant coil));
is($t->post('/key/chat/completions', $t->chat('chat', 'hi', max_tokens => 12), headers => AIQ::Admin::bearer($second->{key}))->{status},
    200, 'another key of the tenant has its own');

# What cannot be bounded.
$error = refused(ask('/user/', 'coil', 'chat', messages => [ { role => 'user', content => [ { type => 'text', text => 'a' },
    { type => 'image_url', image_url => { url => 'https://images.test/a.png' } } ] } ]), 400, 'unbounded_request', 'an image');
is($error->{param}, 'messages[0].content[1]', 'is named');
$t->post('/user/chat/completions', $t->chat('chat', 'no cap'), headers => AIQ::Admin::bearer($key{dune}{key}));
like(($mock->requests)[-1]{body}, qr/"max_completion_tokens":\d+/, 'a request without a cap gets one');
ask('/open/', undef, 'chat', max_tokens => 7);
unlike(($mock->requests)[-1]{body}, qr/max_completion_tokens/, 'one with a cap has its own');

# What fails costs nothing; what is left is billed as what came.
is(ask('/v1/', 'dune', 'fails')->{status}, 502, 'a failure');
{
    my $c = $t->connect;
    $c->request('POST', '/v1/chat/completions', headers => AIQ::Admin::bearer($key{dune}{key}),
        body => $t->chat('hangs', 'hi', max_tokens => 12, stream => JSON::PP::true));
    $c->head;
    $c->event;
    $c->close;
}
$t->wait_for_usage;
$t->wait_for(sub { grep { $_->{model} eq 'hangs' } @{ usage('tenant=dune&group_by=model')->{data} } }, 10, 'who left is billed');
$t->wait_for_usage;
my ($left) = grep { $_->{model} eq 'hangs' } @{ usage('tenant=dune&group_by=model')->{data} };
is($left->{estimated}, 1, 'by an estimate');
ok($left->{cost_usd} > 0 && $left->{cost_usd} < 0.001, 'of what came') or diag($left->{cost_usd});
my ($failed) = grep { $_->{model} eq 'fails' } @{ usage('tenant=dune&group_by=model')->{data} };
is($failed->{cost_usd} * 1, 0, 'a failure costs nothing');

# The ledger.
my $day = POSIX::strftime('%Y-%m-%d', gmtime);
my $all = usage('tenant=acme&group_by=tenant,model,day');
is(scalar(@{ $all->{data} }), 1, 'one group');
my $group = $all->{data}[0];
is($group->{tenant}, 'acme', 'its tenant');
is($group->{model}, 'chat', 'its model');
like($group->{day}, qr/^\d{4}-\d\d-\d\d$/, 'its day');
is($group->{requests}, 7, 'what was refused is no call');
is($group->{tokens_in} . ' ' . $group->{tokens_out}, '63 84', 'tokens');
is($group->{cost_usd}, '0.000903000', 'cost, a decimal string');
is($group->{estimated}, 0, 'nothing is estimated');

is(usage('group_by=tenant&limit=1')->{next}, 1, 'pages');
is(usage('group_by=tenant&limit=1&after=1')->{data}[0]{tenant}, 'bolt', 'the second');
is_deeply(usage('tenant=acme&group_by=tenant,model,day&from=2026-01-01&to=2099-01-01')->{data}, $all->{data}, 'all since then');
is_deeply(usage('from=2001-01-01&to=2002-01-01')->{data}, [], 'nothing in 2001');
is(scalar(@{ usage('group_by=tenant', $admin->json(qw(keys create --admin --tenant bolt))->{key})->{data} }), 1,
    "another tenant's admin sees its own");
for my $wrong (qw(group_by=city from=x after=a day=1)) {
    $r = $t->get("/api/v1/usage?$wrong", headers => AIQ::Admin::bearer($root->{key}));
    is($r->{status}, 400, "usage?$wrong");
}
is($t->get('/api/v1/usage', headers => AIQ::Admin::bearer($key{acme}{key}))->{status}, 403, 'only for admins');

# Budgets in the store: the stricter one applies.
sub api {
    my ($method, $path, $body, $key) = @_;

    return $t->http($method, "/api/v1/budgets$path", headers => AIQ::Admin::bearer($key // $root->{key}),
        $body ? (body => JSON::PP::encode_json($body)) : ());
}

$admin->json(qw(tenants create elm));
$key{elm} = $admin->json(qw(keys create --tenant elm));
$r = api(POST => '', { scope => 'tenant', tenant => 'elm', amount => '0.0003usd/day' });
is($r->{status}, 201, 'a budget of a tenant') or diag($r->{body});
my $own = $t->json($r);
is_deeply([ @$own{qw(scope subject amount spent)} ], [ 'tenant', undef, '0.0003usd/day', '0usd' ], 'as it was given');
is(ask('/v1/', 'elm', 'chat')->{status}, 200, 'one request fits');
refused(ask('/v1/', 'elm', 'chat', max_tokens => 20), 402, 'budget_exceeded', 'two do not');
$t->wait_for_usage;
is($t->json(api(GET => "/$own->{id}"))->{spent}, '0.000129usd', 'what is spent of it');
is($t->json(api(PATCH => "/$own->{id}", { amount => '0.0006usd/day' }))->{amount}, '0.0006usd/day', 'it can be changed');
ok(eval { $t->wait_for(sub { ask('/v1/', 'elm', 'chat', max_tokens => 20)->{status} == 200 }, 10) }, 'which is seen at once');
is(api(PATCH => "/$own->{id}", { amount => '1usd/month' })->{status}, 400, 'but not its period');
is(api(DELETE => "/$own->{id}")->{status}, 200, 'it can be deleted');
ok(eval { $t->wait_for(sub { ask('/v1/', 'elm', 'chat', max_tokens => 40)->{status} == 200 }, 10) }, 'then the location alone decides');
my $own_admin = $admin->json(qw(keys create --admin --tenant elm))->{key};
is(api(POST => '', { scope => 'tenant', amount => '1usd/day' }, $own_admin)->{status}, 403, 'nobody gives itself a budget');
is(api(POST => '', { scope => 'key', subject => $key{elm}{id}, amount => '1tokens/day' }, $own_admin)->{status}, 201,
    'but its keys');
refused(ask('/key/', 'elm', 'chat'), 402, 'budget_exceeded', 'which then have that');
is(api(POST => '', $_)->{status}, 400, JSON::PP->new->canonical->encode($_)) for { scope => 'tenant' },
    { scope => 'tenant', amount => '1usd' }, { scope => 'team', amount => '1usd/day' }, { scope => 'user', amount => '1usd/day' },
    { scope => 'tenant', subject => 'x', amount => '1usd/day' };
is(api(POST => '', { scope => 'tenant', tenant => 'nosuch', amount => '1usd/day' })->{status}, 404, 'of a tenant that is not there');
is(scalar(@{ $t->json(api(GET => ''))->{data} }), 1, 'the list');

# D14: what is billed beyond the bound is spent all the same, and blocks.
$admin->json(qw(tenants create fir));
$key{fir} = $admin->json(qw(keys create --tenant fir));
api(POST => '', { scope => 'tenant', tenant => 'fir', amount => '0.0001usd/day' });
is(ask('/v1/', 'fir', 'lies', max_tokens => 1)->{status}, 200, 'a provider bills 12 tokens where 1 was allowed');
refused(ask('/v1/', 'fir', 'lies', max_tokens => 1), 402, 'budget_exceeded', 'what that cost is spent');
$t->wait_for_usage;
is($t->json(api(GET => ''))->{data}[-1]{spent}, '0.00012usd', 'more than there was');

# What operators see.
like($t->get('/metrics')->{body}, qr/^aiq_budget_overdrafts_total 1$/m, 'an overdraft is counted');
my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^gen_ai_client_token_usage_sum\{gen_ai_operation_name="chat",gen_ai_provider_name="mock",gen_ai_request_model="free",gen_ai_token_type="output"\} [1-9]/m,
    "tokens, by OpenTelemetry's names");
like($metrics, qr/^gen_ai_server_time_to_first_token_seconds_count\{[^}]*gen_ai_request_model="free"\} [1-9]/m, 'time to the first token');
like($metrics, qr/^aiq_budget_refused_total\{reason="exceeded"\} [1-9]/m, 'refusals are counted');
like($metrics, qr/^aiq_budget_warnings_total 2$/m, 'warnings, once a period');
is(scalar(grep { $_->{message} eq '80 % of a budget are used' && $_->{account} =~ m{/acme/} } $t->engine_lines), 1, 'and logged');
my @refused = grep { $_->{message} eq 'request rejected' && $_->{code} eq 'budget_exceeded' } $t->engine_lines;
cmp_ok(scalar @refused, '>', 3, 'each refusal is a line');
is_deeply([ @{ $refused[0] }{qw(level tenant status)} ], [ 'info', 'acme', 402 ], 'that says whose');
like($refused[0]{request_id}, qr/^\S+$/, 'and which');
like($t->read_file('logs/cost.log'), qr/^acme 9 12 0\.000129000$/m, '$aiq_cost');
like($t->read_file('logs/cost.log'), qr/^acme - - -$/m, 'a refusal has none');

# A restart forgets nothing.
$t->stop('engine');
$t->start_engine;
$t->wait_for(sub { ask('/v1/', 'bolt', 'chat')->{status} == 200 }, 20, 'the engine is back');
refused(ask('/v1/', 'acme', 'chat'), 402, 'budget_exceeded', 'what was spent stays spent');

$t->finish;
done_testing();
