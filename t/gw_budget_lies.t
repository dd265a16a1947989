# A provider bills numbers that nothing has: they are spent as far as a number can be, block as
# any overdraft does, and what the store adds up stays a number.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Script;
use AIQ::Test;

my $MOST = '9223372036854775807';
my $t = AIQ::Test->new;

sub answer {
    my ($tokens) = @_;
    my $head = '"id":"c1","object":"chat.completion.chunk","created":1,"model":"m"';

    return [ qq(data: {$head,"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}),
        qq(data: {$head,"choices":[],"usage":{"prompt_tokens":$tokens,"completion_tokens":$tokens,"total_tokens":$tokens}}),
        'data: [DONE]' ];
}
my $provider = AIQ::Script->new($t, honest => answer(3), lies => answer($MOST));

$t->conf("
    aiq_provider p { dialect openai; url @{[ $provider->url ]}; retry 1; }
    aiq_model honest { target p input=1 output=10; }
    aiq_model lies   { target p input=1 output=10; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /usd/    { aiq_key all; aiq_budget tenant 1000usd/month; aiq_pass gateway /v1/; }
        location /tokens/ { aiq_key all; aiq_budget tenant 1000000tokens/month; aiq_pass gateway /v1/; }
        location /api/    { aiq_key all; aiq_pass control; }
        location /metrics { aiq_metrics; }
    }");
$t->start;

my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));

sub ask {
    my ($path, $key, $model) = @_;

    return $t->post("$path/chat/completions", $t->chat($model, 'hi', max_tokens => 12, stream => JSON::PP::true),
        headers => AIQ::Admin::bearer($key->{key}));
}

for my $unit (qw(usd tokens)) {
    $admin->json('tenants', 'create', $unit);
    my $key = $admin->json('keys', 'create', '--tenant', $unit);
    is(ask("/$unit", $key, $_)->{status}, 200, "$unit: $_") for qw(honest lies);
    $t->wait_for_usage;
    is(ask("/$unit", $key, 'honest')->{status}, 402, 'which is more than there was');
}

my $r = $t->get('/api/v1/usage?group_by=model', headers => AIQ::Admin::bearer($root->{key}));
is($r->{status}, 200, 'all usage can be added up') or diag($r->{body});
my ($lies) = grep { $_->{model} eq 'lies' } @{ $t->json($r)->{data} // [] };
is_deeply([ @$lies{qw(requests tokens_in tokens_out)} ], [ 2, 2 * (2**31 - 1), 2 * (2**31 - 1) ], 'two lies, as far as they were believed');

$t->finish;
done_testing();
