# Which targets serve a request: conditions on claims and headers, and its size; and
# the same target for the same key.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::JWT;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my $rules = "dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=1000;";
my $key = AIQ::JWT->new('ES256', kid => 'k');

$t->write_file('keys.jwks', AIQ::JWT::set($key));
$t->conf("
    map \$http_x_region \$in_europe { eu 1; default 0; }
    map \$aiq_jwt_claim_plan \$paid { gold 1; }
    aiq_provider a { $rules }
    aiq_provider b { $rules }
    aiq_provider c { $rules }
    aiq_model region { target a if=\$in_europe; target b; }
    aiq_model europe { target a if=\$in_europe; }
    aiq_model plan   { target a if=\$paid; target b if=\$in_europe; target c; }
    aiq_model sized  { target a max_body=1k; target b max_body=4k; target c if=\$in_europe; fallback context=large; }
    aiq_model large  { target c model=large; }
    aiq_model short  { target a max_body=1k; }
    aiq_model broken { target a if=\$in_europe model=mock-500; target b model=mock-500; target c if=\$paid; }
    aiq_model sticky { target a; target b; target c; policy hash \$http_x_user; }
    aiq_model spread { target a; target b; target c; policy hash \"\$http_x_user of \$http_x_region\"; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /jwt/ { aiq_jwt api; aiq_jwt_key_file %%DIR%%/keys.jwks; aiq_pass gateway /v1/; }
    }");
$t->start;

sub ask {
    my ($model, %arg) = @_;

    return $t->post(($arg{token} ? '/jwt' : '/v1') . '/chat/completions', $t->chat($model, $arg{text} // 'hi'),
        headers => [ 'X-Region' => $arg{region} // '', 'X-User' => $arg{user} // '',
            $arg{token} ? (Authorization => "Bearer $arg{token}") : () ]);
}

sub by { return ask(@_)->{headers}{'x-aiq-provider'} // 'nobody' }

is(by('region', region => 'eu'), 'a', 'a header: its target');
is(by('region', region => 'us'), 'b', 'another: 0 does not hold');
is(by('region'), 'b', 'none: nor does what is empty');

my $gold = $key->token(plan => 'gold');
is(by('plan', token => $gold), 'a', 'a claim: its target');
is(by('plan', token => $key->token(plan => 'tin')), 'c', 'another: not that one');
is(by('plan', token => $key->token(plan => 'tin'), region => 'eu'), 'b', 'each target has its own condition');

my $r = ask('europe');
is($r->{status}, 404, 'no condition holds: there is no such model');
is($t->json($r)->{error}{code}, 'model_not_found', 'the code');
is(by('europe', region => 'eu'), 'a', 'but for others');

is(by('sized'), 'a', 'size: a short request');
is(by('sized', text => 'x' x 2000), 'b', 'size: a longer one');
is(by('sized', text => 'x' x 5000, region => 'eu'), 'c', 'size: none is set');
$r = ask('sized', text => 'x' x 5000);
is($r->{headers}{'x-aiq-model'}, 'large', 'size: too long for all, the fallback for that');
$r = ask('short', text => 'x' x 1000);
is($r->{status}, 400, 'size: too long for all, and no fallback');
is($t->json($r)->{error}{code}, 'context_length_exceeded', 'size: the code');

# failover is among those that serve it
$r = ask('broken');
is($r->{status}, 502, 'failover: not to a target whose condition does not hold');
is($r->{headers}{'x-aiq-attempts'} // 1, 1, 'failover: it was not asked');
is(by('broken', token => $gold, region => 'eu'), 'c', 'failover: to one whose condition holds');

my %seen;
for my $user (1 .. 30) {
    my ($first, @more) = map { by('sticky', user => $user) } 1 .. 3;
    $seen{$first}++;
    is_deeply(\@more, [ $first, $first ], "hash: user $user has one target");
}
is(scalar(keys %seen), 3, 'hash: each target has some');
my %regions = map { by('spread', user => 7, region => $_) => 1 } 1 .. 30;
is(scalar(keys %regions), 3, 'hash: of all that its key says');

$t->finish;
done_testing;
