# Mistakes with "aiq_charge", and budgets and limits that lack one, are found by
# nginx -t, with file and line.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

sub config {
    my ($http, $pattern, $what) = @_;

    $t->conf($http);
    my ($status, $text) = $t->test_conf;
    is($status ? 'fails' : 'passes', ref $pattern ? 'fails' : 'passes', $what);
    like($text, $pattern, "$what: why") if ref $pattern;
}

sub location { return "server { listen 127.0.0.1:%%PORT_0%%; location / { $_[0] } }" }

my $proxy = 'proxy_pass http://127.0.0.1:1;';
my $zone = 'aiq_limit_zone $uri zone=t:1m rate=5t/m; ';

config(location("aiq_charge 0.002usd; $proxy"), 'ok', 'USD');
config(location("aiq_charge 100tokens; $proxy"), 'ok', 'tokens');
config(location("aiq_charge 100tokens 0.002usd; $proxy"), 'ok', 'both');
config(location("aiq_charge \$arg_cost 1tokens; $proxy"), 'ok', 'a variable');
config('aiq_charge 5tokens; ' . location("aiq_charge off; $proxy"), 'ok', 'off');
config('aiq_charge 5tokens; aiq_budget tenant 5tokens/day; ' . location('aiq_pass gateway;') , 'ok', 'above a location of our own');
config(location('aiq_charge 5tokens; root /tmp;'), 'ok', 'files');

for my $bad ('5', '5eur', 'usd', 'tokens', '-1tokens', '1.5tokens', '0.0000000001usd', '1000001usd', '""') {
    config(location("aiq_charge $bad; $proxy"), qr/invalid charge "[^"]*", it must be like "0.002usd" or "100tokens" in .*nginx.conf:\d+/,
        "\"$bad\"");
}
config(location("aiq_charge; $proxy"), qr/invalid number of arguments in "aiq_charge" directive/, 'nothing');
config(location("aiq_charge 1tokens; aiq_charge 2tokens; $proxy"), qr/"aiq_charge" directive is duplicate in .*nginx.conf:\d+/, 'twice');
config(location('aiq_charge 5tokens; aiq_pass gateway;'), qr/"aiq_charge" is not for a location with "aiq_pass" in .*nginx.conf:\d+/,
    'where a service counts itself');
config('# aiq_engine none
    ' . location("aiq_charge 5tokens; $proxy"), qr/no "aiq_engine" is defined for the service "charge" in .*nginx.conf:\d+/, 'without an engine');

config(location("aiq_budget tenant 5usd/day; $proxy"),
    qr/"aiq_budget" has nothing to count in a location without "aiq_pass" or "aiq_charge" in .*nginx.conf:\d+/, 'a budget without it');
config(location('aiq_budget tenant 5usd/day; root /tmp;'), qr/"aiq_budget" has nothing to count/, 'for files');
config(location('aiq_budget tenant 5usd/day; root /tmp; location /v1/ { aiq_pass gateway; }'), 'ok', 'a budget for locations in it');
config('aiq_charge 5tokens; ' . location("aiq_budget tenant 5tokens/day; $proxy"), 'ok', 'a budget with one from above');
config('aiq_charge 5tokens; ' . location("aiq_charge off; aiq_budget tenant 5tokens/day; $proxy"), qr/"aiq_budget" has nothing to count/,
    'a budget where it is off');
config(location("aiq_budget tenant 5usd/day; aiq_charge 5tokens; $proxy"),
    qr/"aiq_charge" says nothing in usd, which the budget in .*nginx.conf:\d+ is in, in .*nginx.conf:\d+/, 'a budget in another unit');
config(location("aiq_budget tenant 5usd/day; aiq_charge 5tokens \$arg_cost; $proxy"), 'ok', 'a variable may be in any');
config($zone . location("aiq_limit zone=t; $proxy"),
    qr/a rate of tokens has nothing to count in a location without "aiq_pass gateway" or "aiq_charge" of tokens in .*nginx.conf:\d+/,
    'a rate of tokens without it');
config($zone . location('aiq_limit zone=t; root /tmp;'), qr/a rate of tokens has nothing to count/, 'for files, too');
config($zone . location("aiq_limit zone=t; aiq_charge 1usd; $proxy"), qr/a rate of tokens has nothing to count/, 'or in USD');
config($zone . location("aiq_limit zone=t; aiq_charge 1tokens; $proxy"), 'ok', 'a rate of tokens with it');

done_testing;
