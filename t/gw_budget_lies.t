# A provider bills numbers that nothing has: they are spent as far as a number can be, block as
# any overdraft does, and what the store adds up stays a number. So it does where clients ask for
# such numbers, and an engine dies that holds them.

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
my $provider = AIQ::Script->new($t, honest => answer(3), lies => answer($MOST), halts => [ answer(3)->[0] ]);

$t->conf("
    aiq_provider p { dialect openai; url @{[ $provider->url ]}; retry 1; }
    aiq_model honest { target p input=1 output=10; }
    aiq_model lies   { target p input=1 output=10; }
    aiq_model halts  { target p input=0 output=0; }
    aiq_model many   { target p model=honest; target p model=honest; target p model=honest; target p model=honest; hedge 1s; }
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
    my ($path, $key, $model, %more) = @_;

    return $t->post("$path/chat/completions", $t->chat($model, 'hi', max_tokens => 12, stream => JSON::PP::true, %more),
        headers => AIQ::Admin::bearer($key->{key}));
}

# {requests, tokens_in, …} of a model
sub used {
    my ($model) = @_;
    my $r = $t->get('/api/v1/usage?group_by=model', headers => AIQ::Admin::bearer($root->{key}));

    is($r->{status}, 200, 'all usage can be added up') or diag($r->{body});
    my ($used) = grep { $_->{model} eq $model } @{ $t->json($r)->{data} // [] };
    return $used;
}

for my $unit (qw(usd tokens)) {
    $admin->json('tenants', 'create', $unit);
    my $key = $admin->json('keys', 'create', '--tenant', $unit);
    is(ask("/$unit", $key, $_)->{status}, 200, "$unit: $_") for qw(honest lies);
    $t->wait_for_usage;
    is(ask("/$unit", $key, 'honest')->{status}, 402, 'which is more than there was');
}

is_deeply([ @{ used('lies') }{qw(requests tokens_in tokens_out)} ], [ 2, 2 * (2**31 - 1), 2 * (2**31 - 1) ],
    'two lies, as far as they were believed');

$admin->json('tenants', 'create', 'boast');
my $boast = $admin->json('keys', 'create', '--tenant', 'boast');
my %most = (max_tokens => 2**31 - 1, n => 2**31 - 1);
is(ask('/tokens', $boast, 'many', %most)->{status}, 402, 'a budget does not hold that, nor four times that');
my @held = map { $t->connect } 1 .. 3;
for my $c (@held) {
    $c->request('POST', '/usd/chat/completions', headers => AIQ::Admin::bearer($boast->{key}),
        body => $t->chat('halts', 'hi', %most, stream => JSON::PP::true));
    defined $c->event or die 'no event';
}
$t->kill_hard('engine');
$t->start_engine;
$t->wait_for(sub { grep { ($_->{message} // '') eq 'stored what a dead engine had left' } $t->engine_lines }, 20, 'the next engine has its calls');
$t->wait_for_links(2);
is_deeply([ @{ used('halts') }{qw(requests tokens_out estimated)} ], [ 3, 3 * (2**31 - 1), 3 ], 'three boasts, as far as they were believed');

$t->finish;
done_testing();
