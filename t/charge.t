# aiq_charge: what a request costs that another content handler serves is held before,
# and due when something was served.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::Admin;
use AIQ::Test;

my $t = AIQ::Test->new;
my $silent = IO::Socket::INET->new(Listen => 10, LocalAddr => '127.0.0.1') or die $!;    # takes requests, says nothing

$t->conf("
    log_format cost '\$uri \$status \$aiq_status \$aiq_tokens_in \$aiq_cost';
    aiq_limit_zone \$aiq_tenant zone=tokens:1m rate=10t/d;
    aiq_limit_zone \$aiq_tenant zone=requests:1m rate=2r/d;
    map \$arg_cost \$cost { default \$arg_cost; big 7tokens; }
    aiq_key all;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/cost.log cost;
        proxy_read_timeout 30s;

        location /budget  { aiq_budget tenant 10tokens/day; aiq_charge 2tokens; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        location /money   { aiq_budget tenant 0.01usd/month; aiq_charge 0.004usd; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        location /both    { aiq_budget user 0.01usd/day; aiq_budget user 1000tokens/day; aiq_charge 0.001usd 5tokens;
                            proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        location /named   { aiq_budget key 10tokens/month; aiq_charge \$cost; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        location /limited { aiq_limit zone=tokens; aiq_charge 4tokens; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        location /counted { aiq_limit zone=requests; aiq_charge 1tokens; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        location /key     { aiq_charge 0.001usd 10tokens; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }

        location /life/ {
            aiq_budget tenant 100tokens/day;
            aiq_charge 10tokens;
            location /life/ok       { proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
            location /life/missing  { proxy_pass http://127.0.0.1:%%PORT_1%%/missing; }
            location /life/fails    { proxy_pass http://127.0.0.1:%%PORT_1%%/fails; }
            location /life/away     { proxy_pass http://127.0.0.1:%%PORT_2%%; }
            location /life/saved    { error_page 502 = /life/ok; proxy_pass http://127.0.0.1:%%PORT_2%%; }
            location /life/silent   { proxy_pass http://127.0.0.1:@{[ $silent->sockport ]}; }
            location /life/file     { root %%DIR%%; try_files /file =404; }
            location /life/cheap    { aiq_charge 1tokens; try_files /none /life/ok; }
            location /life/free     { aiq_charge off; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
            location /life/page     { error_page 402 \@page; proxy_pass http://127.0.0.1:%%PORT_1%%/ok; }
        }
        location \@page { root %%DIR%%; try_files /file =404; }
        location /api/    { aiq_pass control; }
        location /metrics { aiq_key off; aiq_metrics; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        aiq_key off;
        location /ok { return 200 served; }
        location /fails { return 503; }
    }");
$t->write_file('file', 'a file');
$t->start;

my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));
my %key;

# A key of a tenant of that name.
sub key {
    my ($tenant, @args) = @_;

    $admin->json('tenants', 'create', $tenant) if !$key{$tenant};
    return $key{$tenant} = $admin->json(qw(keys create --tenant), $tenant, @args);
}
sub get { return $t->get($_[1], headers => AIQ::Admin::bearer($_[0]{key})) }
sub api { return $t->json($t->get("/api/v1/$_[0]", headers => AIQ::Admin::bearer($root->{key}))) }

# What the ledger says a tenant has used: [requests, tokens, USD].
sub used {
    $t->wait_for_usage;
    my ($sum) = grep { $_->{tenant} eq $_[0] && $_->{provider} eq 'charge' } @{ api('usage?group_by=tenant,provider')->{data} };
    return $sum ? join(' ', @$sum{qw(requests tokens_in cost_usd)}) : '0';
}
sub refused {
    my ($r, $status, $code, $name) = @_;
    is("$r->{status} " . ($t->json($r)->{error}{code} // ''), "$status $code", $name) or diag($r->{body});
    return $r;
}

# budgets
my $acme = key('acme');
my @r = map { get($acme, '/budget') } 1 .. 6;
is(join(',', map { "$_->{status} " . ($_->{headers}{'x-aiq-budget'} // '-') } @r[0 .. 4]),
    '200 -,200 -,200 -,200 -,200 more than 80% used', 'five times 2 of 10, and a warning when 8 are used');
is($r[0]{body}, 'served', 'by the other handler');
refused($r[5], 402, 'budget_exceeded', 'the sixth');
is($r[5]{headers}{'x-should-retry'}, 'false', 'is not to be asked again');
like($r[5]{headers}{'content-type'}, qr{^application/json}, 'in our words');
is(get(key('bolt'), '/budget')->{status}, 200, 'another tenant has its own');
is(used('acme'), '5 10 0.000000000', 'the ledger knows');

is(join(',', map { get(key('coil'), '/money')->{status} } 1 .. 3), '200,200,402', 'in USD');
is(used('coil'), '2 0 0.008000000', 'to the nano-dollar');
is(join(',', map { get(key('dune'), '/both')->{status} } 1 .. 3), '200,200,200', 'in both');
is(used('dune'), '3 15 0.003000000', 'each in its own');

# what it costs may be a variable
my $eve = key('east');
is(get($eve, '/named?cost=2tokens')->{status}, 200, 'a variable');
is(get($eve, '/named?cost=big')->{status}, 200, 'by a map');
refused(get($eve, '/named?cost=2tokens'), 402, 'budget_exceeded', 'which is too much');
is(get($eve, '/named?cost=0tokens')->{status}, 200, 'nothing is nothing');
is(used('east'), '2 9 0.000000000', 'and is no event');
for my $bad ('', '5', 'tokens', '-1tokens', '1.5tokens', '1eur', '9999999999999tokens', '1.0000000001usd', '1tokens;') {
    is(get($eve, "/named?cost=$bad")->{status}, 500, "\"$bad\" is no charge: refused");
}
like($t->error_log, qr/invalid charge "1eur", it must be like "0.002usd" or "100tokens"/, 'and logged');

# limits of tokens, and of requests
my $fay = key('fjord');
my $r = get($fay, '/limited');
is("$r->{status} $r->{headers}{'x-ratelimit-limit-tokens'} $r->{headers}{'x-ratelimit-remaining-tokens'}", '200 10 6', 'a rate of tokens');
is(get($fay, '/limited')->{status}, 200, 'is counted');
$r = refused(get($fay, '/limited'), 429, 'rate_limit_exceeded', 'and ends');
cmp_ok($r->{headers}{'retry-after'}, '>', 80000, 'Retry-After');
is($r->{headers}{'x-ratelimit-remaining-tokens'}, 2, 'and what is left');
is(join(',', map { get(key('gulf'), '/counted')->{status} } 1 .. 3), '200,200,429', 'whom a limit of requests refuses');
is(used('gulf'), '2 2 0.000000000', 'is charged nothing');

# the key's own, where the location has none
is(join(',', map { get(key('hill', '--budget', '0.002usd/day'), '/key')->{status} } 1), '200', 'a key with a budget');
my $hill = key('hill', '--budget', '0.002usd/day');
is(join(',', map { get($hill, '/key')->{status} } 1 .. 3), '200,200,402', 'of its own');
my $iris = key('iris', '--limit', '25t/m');
is(join(',', map { get($iris, '/key')->{status} } 1 .. 3), '200,200,429', 'and one with a limit');

# when it is due
is(get($acme, '/life/fails')->{status}, 503, 'who gets an error') for 1 .. 12;
is(get($acme, '/life/away')->{status}, 502, 'or nothing') for 1 .. 12;
is(used('acme'), '5 10 0.000000000', 'pays nothing, however often');
is(get($acme, "/life/$_->[0]")->{status}, $_->[1], $_->[0]) for [ ok => 200 ], [ missing => 404 ], [ cheap => 200 ], [ saved => 200 ];
is(get($acme, '/life/file')->{body}, 'a file', 'a file');
is(used('acme'), '10 60 0.000000000', 'whoever gets something pays, and once');
is(get($acme, '/life/free')->{status}, 200, 'off');
is(get($acme, '/life/')->{status}, 404, 'nothing there is an answer, too');

my $c = $t->connect;
$c->request('GET', '/life/silent', headers => AIQ::Admin::bearer($acme->{key}));
my $upstream = $silent->accept;
is(used('acme'), '11 70 0.000000000', 'while it is served it is not settled');
$c->close;
ok(eval { $t->wait_for(sub { used('acme') eq '12 80 0.000000000' }, 10) }, 'who leaves before the answer has made others work');

# connections live on, bodies come through
my $june = key('june');
$c = $t->connect;
my @bearer = @{ AIQ::Admin::bearer($june->{key}) };
$c->request('POST', '/budget', headers => \@bearer, body => 'x' x 200_000);
is($c->response->{status}, 200, 'a body');
$c->send(join '', map { "GET /budget HTTP/1.1\r\nHost: t\r\n$bearer[0]: $bearer[1]\r\n\r\n" } 1 .. 5);
is(join(',', map { $c->response->{status} } 1 .. 5), '200,200,200,200,402', 'requests that do not wait for each other');
$c->close;
is(used('june'), '5 10 0.000000000', 'each is charged');

# a refusal has its error page, for nothing
is(get($acme, '/life/ok')->{status}, 200, 'up to the limit') for 1 .. 2;
is(get($acme, '/life/page')->{body}, 'a file', 'error_page');
refused(get($acme, '/life/ok'), 402, 'budget_exceeded', 'no more');
is(used('acme'), '14 100 0.000000000', 'all told');

$t->wait_for(sub { $t->read_file('logs/cost.log') =~ m{^/life/silent}m }, 10, 'the log');
my $log = $t->read_file('logs/cost.log');
like($log, qr{^/money 200 - 0 0.004000000$}m, 'in the log: what it cost');
like($log, qr{^/money 402 budget_exceeded - -$}m, 'or why not');
like($log, qr{^/life/fails 503 - - -$}m, 'and that it is free');
like($log, qr{^/life/silent 499 \S+ 10 0.000000000$}m, 'or not');

# without the engine nothing is served
$t->stop('engine');
refused(get($acme, '/budget'), 503, 'engine_unavailable', 'no engine');

$t->expect_in_log(qr/invalid charge|connect\(\) failed|engine_unavailable|the engine has gone|connect to the engine/);
$t->finish;
done_testing;
