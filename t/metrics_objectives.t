# What conf.examples/prometheus-rules.yml watches is there, and its bounds are buckets: 200 ms
# for the API, 5 s for models.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model m { target mock; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/     { aiq_pass gateway; }
        location /api/    { aiq_key aiq; aiq_pass control; }
        location /metrics { aiq_metrics; }
    }");
$t->start;

my $key = AIQ::Admin->new($t)->json(qw(keys create --admin))->{key};
is($t->get('/api/v1/models', headers => AIQ::Admin::bearer($key))->{status}, 200, 'a request to the API');
is($t->post('/v1/chat/completions', $t->chat('m', 'hi'))->{status}, 200, 'a call of a model');

my ($metrics, $rules) = ('', $t->read_file("$AIQ::Test::ROOT/conf.examples/prometheus-rules.yml"));
$t->wait_for(sub { ($metrics = $t->get('/metrics')->{body}) =~ /^llm_latency_seconds_count\{.*\} 1$/m }, 10, 'both are counted');

for my $bucket ('aiq_request_duration_seconds_bucket{method="GET",endpoint="/api/v1/models",le="0.2"}',
    'llm_latency_seconds_bucket{provider="mock",model="m",le="5"}')
{
    ok($metrics =~ /^\Q$bucket\E \d/m, $bucket);
}
my %named = map { $_ => 1 } $rules =~ /(?<!:)\b((?:aiq|llm)_[a-z_]+)/g;
cmp_ok(scalar keys %named, '>=', 5, 'the rules name metrics');
ok($metrics =~ /^$_(?:\{| )/m, "$_ exists") for sort keys %named;
my %bound = map { $_ => 1 } $rules =~ /le="([^"]*)"/g;
is_deeply([ sort keys %bound ], [ '0.2', '5' ], 'and no bound that is no bucket');

SKIP: {
    skip('no promtool here', 1) if system('command -v promtool >/dev/null');
    is(system("promtool check rules $AIQ::Test::ROOT/conf.examples/prometheus-rules.yml >/dev/null"), 0, 'Prometheus reads them');
}

$t->finish;
done_testing;
