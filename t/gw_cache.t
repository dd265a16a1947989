# aiq_cache exact: the same request of the same tenant is answered by what it was answered
# before, as long as nothing that has a say in the answer has changed.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--cache-size', '256k', '--log-level', 'debug' ]);
my $mock = AIQ::Mock->new($t);

sub conf {
    my ($target) = @_;

    $t->conf("
        aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
        aiq_model chat { target mock model=$target input=1 output=10; }
        @{[ $mock->models(qw(mock-stream-2x0ms mock-no-done mock-error-mid mock-400 mock-big mock-first-1-500)) ]}
        aiq_model premium { target mock model=one if=\$http_x_premium; target mock model=two; }
        aiq_model batch { target mock model=one; target mock model=two noncritical; }
        log_format cache '\$aiq_cache \$aiq_tokens_in \$aiq_cost';
        aiq_cache exact;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            access_log %%DIR%%/logs/cache.log cache;
            location /v1/     { aiq_pass gateway; }
            location /keys/   { aiq_key all; aiq_pass gateway /v1/; }
            location /short/  { aiq_cache exact ttl=300ms; aiq_pass gateway /v1/; }
            location /off/    { aiq_cache off; aiq_pass gateway /v1/; }
            location /spent/  { aiq_key all; aiq_budget tenant 0.0003usd/day; aiq_pass gateway /v1/; }
            location /api/    { aiq_key all; aiq_pass control; }
            location /budget/ { aiq_budget tenant 1000000tokens/day; aiq_pass gateway /v1/; }
            location /metrics { access_log off; aiq_metrics; }
        }");
}
conf('mock-chat');
$t->start;

sub asked { return scalar(my @all = $mock->requests) }

# Posts, and says what the cache did, and how often the provider was asked for that.
my ($last, $asks);
sub ask {
    my ($path, $body, @headers) = @_;
    my $before = asked();
    $asks++;

    $last = $t->post($path, $body, headers => \@headers);
    return ($last->{headers}{'x-aiq-cache'} // '-') . ' ' . (asked() - $before);
}
sub chat { return ask('/v1/chat/completions', $t->chat(@_[ 0, 1 ]), @_[ 2 .. $#_ ]) }

# A whole answer.
is(chat('chat', 'one'), 'MISS 1', 'the first');
my $first = $last;
is($first->{headers}{age}, undef, 'without an age');
is($first->{headers}{'x-aiq-cost'}, '0.000129000', 'what it cost');
is(chat('chat', 'one'), 'HIT 0', 'the second');
is($last->{body}, $first->{body}, 'is the same');
is($last->{headers}{$_}, $first->{headers}{$_}, $_) for qw(content-type content-length x-aiq-provider x-aiq-model);
like($last->{headers}{age}, qr/^\d$/, 'its age');
is($last->{headers}{'x-aiq-cost'}, '0.000000000', 'it costs nothing');
is(chat('chat', 'two'), 'MISS 1', 'other words');
is(ask('/v1/chat/completions', $t->chat('chat', 'one', temperature => 1)), 'MISS 1', 'other settings');
is(ask('/budget/chat/completions', $t->chat('chat', 'one')), 'MISS 1', 'a budget caps the answer');
is(ask('/off/chat/completions', $t->chat('chat', 'one')), '- 1', 'aiq_cache off');

# A stream.
my $stream = $t->chat('mock-stream-2x0ms', 'hi', stream => JSON::PP::true);
is(ask('/v1/chat/completions', $stream), 'MISS 1', 'a stream');
$first = $last;
is(ask('/v1/chat/completions', $stream), 'HIT 0', 'again');
is($last->{body}, $first->{body}, 'the same events');
is($last->{headers}{$_}, $first->{headers}{$_}, $_) for qw(content-type cache-control);
is(ask('/v1/chat/completions', $t->chat('mock-stream-2x0ms', 'hi')), 'MISS 1', 'a whole answer is another one');

# Other endpoints and dialects.
my $message = '{"model":"chat","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":%s}';
for my $case (
    [ '/v1/messages', sprintf($message, 'false') ],
    [ '/v1/messages', sprintf($message, 'true') ],
    [ '/v1/responses', '{"model":"chat","input":"hi"}' ],
    [ '/v1/responses', '{"model":"chat","input":"hi","stream":true}' ],
    [ '/v1/completions', '{"model":"chat","prompt":"hi"}' ],
    [ '/v1/embeddings', '{"model":"chat","input":"hi"}' ],
) {
    is(ask(@$case), 'MISS 1', "@$case");
    $first = $last;
    is(ask(@$case), 'HIT 0', 'again');
    is($last->{body}, $first->{body}, 'the same');
}
is(ask('/v1/completions', sprintf($message, 'false')), 'MISS 1', 'the same body at another endpoint');

# What is no whole answer is not kept.
is(chat('mock-400', 'x'), 'MISS 1', 'an error') for 1 .. 2;
for my $model (qw(mock-no-done mock-error-mid)) {
    my $body = $t->chat($model, 'x', stream => JSON::PP::true);
    like(ask('/v1/chat/completions', $body), qr/^MISS 1$/, "$model: half a stream") for 1 .. 2;
}
is(chat('mock-first-1-500', 'x'), '- 1', 'a failure has no header');
is(chat('mock-first-1-500', 'x'), 'MISS 1', 'and is not kept');
is(chat('mock-first-1-500', 'x'), 'HIT 0', 'what came then is');
is(chat('mock-big', 'x'), 'MISS 1', 'too large an answer') for 1 .. 2;

# Cache-Control.
is(chat('chat', 'one', 'Cache-Control' => 'no-store'), 'BYPASS 1', 'no-store');
is(chat('chat', 'new', 'Cache-Control' => 'no-store'), 'BYPASS 1', 'leaves nothing');
is(chat('chat', 'new', 'Cache-Control' => 'max-age=1 , NO-CACHE'), 'BYPASS 1', 'no-cache');
is(chat('chat', 'new'), 'HIT 0', 'does');
for my $value ('', ',', 'no-stores', 'xno-cache', '"no-store"', 'public, ,', ',' x 3000, 'a=no-store') {
    is(chat('chat', 'new', 'Cache-Control' => $value), 'HIT 0', 'no such thing: ' . substr($value, 0, 20));
}
for my $value ('no-store=1', "\tno-store", 'a,no-store,b', 'no-store ') {
    is(chat('chat', 'new', 'Cache-Control' => $value), 'BYPASS 1', $value);
}
is(chat('chat', 'new', 'Cache-Control' => 'a', 'Cache-Control' => 'no-cache'), 'BYPASS 1', 'in a second header');

# Who is asked depends on these.
is(chat('premium', 'x'), 'MISS 1', 'without the condition');
is(chat('premium', 'x', 'X-Premium' => '1'), 'MISS 1', 'with it');
is($last->{headers}{'x-aiq-model'}, 'one', 'who else');
is(chat('premium', 'x'), 'HIT 0', 'without');
is($last->{headers}{'x-aiq-model'}, 'two', 'the other');
is(chat('batch', 'x', 'X-AIQ-Priority' => 'batch'), 'MISS 1', 'batch');
is(chat('batch', 'x'), 'MISS 1', 'is not for others');

# Tenants.
my $admin = AIQ::Admin->new($t);
$admin->json('tenants', 'create', $_) for qw(acme bolt);
my %key = map { $_ => [ Authorization => 'Bearer ' . $admin->json('keys', 'create', '--tenant', $_)->{key} ] } qw(acme bolt);
my @shared = ('/keys/chat/completions', $t->chat('chat', 'secret'));
is(ask(@shared, @{ $key{acme} }), 'MISS 1', 'a tenant');
is(ask(@shared, @{ $key{bolt} }), 'MISS 1', 'another one');
is(ask('/v1/chat/completions', $shared[1]), 'MISS 1', 'nobody');
is(ask(@shared, @{ $key{acme} }), 'HIT 0', 'each its own');

# A hit is no call of a model: who has spent its budget still gets it. It is recorded, as
# what it was: without tokens, and for nothing.
my $thrift = $t->chat('chat', 'thrift', max_tokens => 12);
is(ask('/spent/chat/completions', $thrift, @{ $key{acme} }), 'MISS 1', 'nearly all of a budget');
my $dear = $t->chat('chat', 'dear', max_tokens => 12);
is(ask('/spent/chat/completions', $dear, @{ $key{acme} }), '- 0', 'the next request');
is($last->{status}, 402, 'is refused');
is(ask('/spent/chat/completions', $thrift, @{ $key{acme} }), 'HIT 0', 'and what was asked before is answered') for 1 .. 2;
$t->wait_for_usage;
my $usage = $t->json($t->get('/api/v1/usage?group_by=provider&tenant=acme',
    headers => AIQ::Admin::bearer($admin->json(qw(keys create --admin))->{key})))->{data};
is_deeply([ map { [ @$_{qw(provider requests tokens_in tokens_out cost_usd estimated)} ] } @$usage ],
    [ [ 'cache', 3, 0, 0, '0.000000000', 0 ], [ 'mock', 2, 18, 24, '0.000258000', 0 ] ], 'usage has the hits');

# Time. The location that reads has a say, too.
my $brief = $t->chat('chat', 'brief');
is(ask('/v1/chat/completions', $brief), 'MISS 1', 'kept for an hour');
$t->wait_for(sub { ask('/short/chat/completions', $brief) eq 'MISS 1' }, 10, 'too old where it is 300 ms');
pass('too old where it is 300 ms');
$t->wait_for(sub { ask('/v1/chat/completions', $brief) eq 'MISS 1' }, 10, 'what is kept for 300 ms goes');
pass('and what is kept for 300 ms goes');

# Memory.
ask('/v1/chat/completions', $t->chat('chat', "fill $_")) for 1 .. 300;
is(chat('chat', 'fill 300'), 'HIT 0', 'the last is there');
is(chat('chat', 'one'), 'MISS 1', 'the first is not');
my %metric = $t->get('/metrics')->{body} =~ /^(aiq_cache_\w+)\{[^}]*cache_name="memory"[^}]*\} (\d+)$/mg;
cmp_ok($metric{aiq_cache_bytes}, '<=', 256 * 1024, 'within its bound');
cmp_ok($metric{aiq_cache_bytes}, '>', 100 * 1024, 'which it uses');
cmp_ok($metric{aiq_cache_evictions_total}, '>', 10, 'others had to go');
my $log = $t->wait_for(sub { my $log = $t->read_file('logs/cache.log'); $log =~ tr/\n// >= $asks && $log }, 10, 'the log');
for my $word (qw(HIT MISS BYPASS)) {
    my $n = () = $log =~ /^$word /mg;
    my $name = 'aiq_cache_' . lc($word) . ($word eq 'HIT' ? 's' : 'es') . '_total';
    cmp_ok($metric{$name}, '>=', $n, $name);
    cmp_ok($n, '>', 0, 'as the log has it');
}
like($log, qr/^HIT 0 0\.000000000$/m, '$aiq_cache, and nothing was used');
like($log, qr/^BYPASS 9 0\.000129000$/m, 'BYPASS');
like($log, qr/^- 9 /m, 'or empty');
for my $word (qw(HIT MISS BYPASS)) {
    my $n = () = $log =~ /^$word /mg;
    is(scalar(grep { $_->{message} eq 'request done' && ($_->{cache} // '') eq $word } $t->engine_lines), $n, "$word in the engine's log");
}

# A reload: what is kept stays good as long as the model's targets are the same.
is(chat('chat', 'reload'), 'MISS 1', 'before');
$t->reload;
is(chat('chat', 'reload'), 'HIT 0', 'the same configuration');
conf('mock-other');
$t->reload;
$t->wait_for(sub { chat('chat', 'reload') eq 'MISS 1' }, 10, 'another target');
is($last->{headers}{'x-aiq-model'}, 'mock-other', 'another target is asked');

# Configuration.
for my $case (
    [ 'aiq_cache on;', 'invalid parameters' ],
    [ 'aiq_cache exact 10s;', 'invalid parameters' ],
    [ 'aiq_cache off ttl=1s;', 'invalid parameters' ],
    [ 'aiq_cache exact ttl=0;', 'invalid time' ],
    [ 'aiq_cache exact ttl=2d;', 'invalid time' ],
    [ 'aiq_cache off; aiq_cache exact;', 'is duplicate' ],
) {
    $t->conf($case->[0]);
    my ($status, $text) = $t->test_conf;
    isnt($status, 0, $case->[0]);
    like($text, qr/$case->[1]/, $case->[1]);
}

$t->finish;
done_testing();
