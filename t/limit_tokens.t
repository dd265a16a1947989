# rate=…t/m: what a request probably uses is held before, what it did use counts after.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

# the mock says that an answer has 9 tokens of the prompt and 12 of the answer
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model chat { target mock model=mock-chat; }
    aiq_model hangs { target mock model=mock-hang-mid; }
    aiq_model fails { target mock model=mock-500; }
    log_format limit '\$status \$aiq_limit_status \$aiq_status';
    aiq_limit_zone \$http_x_who zone=who:1m rate=100t/d;
    aiq_limit_zone \$http_x_who zone=two:1m rate=1000t/h;
    aiq_limit_zone \$aiq_user zone=user:1m rate=100t/d;
    aiq_limit_zone \$http_x_who zone=asked:1m rate=3r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/limit.log limit;
        aiq_limit zone=who;
        location /v1/ { aiq_pass gateway; }
        location /two/ { aiq_limit zone=who; aiq_limit zone=two; aiq_limit zone=asked; aiq_pass gateway /v1/; }
        location /user/ { aiq_limit zone=user; aiq_pass gateway /v1/; }
        location /echo { aiq_pass echo; }
        location /health { aiq_health; }
        location /metrics { aiq_metrics; }
    }");
$t->start;

sub ask {
    my ($who, $model, %more) = @_;
    my $path = delete $more{path} // '/v1/';
    return $t->post("${path}chat/completions", $t->chat($model, 'hi', max_tokens => 30, %more),
        headers => [ $who ? ('X-Who' => $who) : () ]);
}
sub left { return $_[0]{headers}{'x-ratelimit-remaining-tokens'} }

for my $left (79, 58) {
    my $r = ask('ann', 'chat');
    is($r->{status}, 200, 'let through');
    is($r->{headers}{'x-ratelimit-limit-tokens'}, 100, 'of 100 tokens');
    is(left($r), $left, "$left are left, by what the provider said");
    like($r->{headers}{'x-ratelimit-reset-tokens'}, qr/^2[34]h\d+m\d+s$/, 'for a day');
}
my $r = ask('ann', 'chat', stream => JSON::PP::true());
like($r->{body}, qr/\[DONE\]/, 'a stream');
cmp_ok(left($r), '<', 30, 'says what is left while it is held');
$r = ask('ann', 'chat');
is($r->{status}, 429, 'what it may use does not fit in what is left');
my ($line) = grep { $_->{message} eq 'request rejected' } $t->engine_lines;
is("$line->{status} $line->{code} $line->{request_id}", "429 rate_limit_exceeded $r->{headers}{'x-request-id'}", 'the log says so');
my $error = $t->json($r)->{error};
is("$error->{type} $error->{code}", 'rate_limit_error rate_limit_exceeded', "in OpenAI's words");
cmp_ok($r->{headers}{'retry-after'}, '>', 80000, 'Retry-After');
is($r->{headers}{'retry-after-ms'}, $r->{headers}{'retry-after'} . '000', 'retry-after-ms');
is($r->{headers}{'x-ratelimit-limit-tokens'}, 100, 'a refusal tells of its limit');
is(left($r), 41, 'and what is left of it');
like($r->{headers}{'x-ratelimit-reset-tokens'}, qr/^2[34]h\d+m\d+s$/, 'until when');
is(ask('bob', 'chat')->{status}, 200, 'another key has its own');
is(ask('', 'chat')->{status}, 200, 'an empty one is not counted') for 1 .. 10;

is(ask('cid', 'fails')->{status}, 502, 'who gets nothing') for 1 .. 5;
is(left(ask('cid', 'chat')), 79, 'has used nothing');
is(ask('cid', 'nothing')->{status}, 404, 'nor has who asks for nothing that is') for 1 .. 5;
is(left(ask('cid', 'chat')), 58, 'indeed');

my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', headers => [ 'X-Who' => 'dan' ],
    body => $t->chat('hangs', 'hi', max_tokens => 60, stream => JSON::PP::true()));
$c->head;
is(ask('dan', 'chat')->{status}, 429, 'what a stream holds is not free');
$c->close;

$r = ask('eve', 'chat', path => '/two/');
is(left($r), 79, 'two limits: of the tightest');
is($r->{headers}{'x-ratelimit-remaining-requests'}, 2, 'beside one of requests');
is(ask('fay', 'chat', max_tokens => 5000)->{status}, 200, 'more than there ever is: when nothing else counts');
is(ask('fay', 'chat', max_tokens => 5000)->{status}, 429, 'and only then');
is($t->post('/user/chat/completions', $t->chat('chat', 'hi'))->{status}, 403, 'no identity, where it is counted by that');
is($t->post('/echo', 'x', headers => [ 'X-Who' => 'ann' ])->{status}, 200, 'other services know of no tokens');
is($t->get('/health', headers => [ 'X-Who' => 'ann' ])->{status}, 200, 'nor do probes');

$t->reload;
is(ask('ann', 'chat')->{status}, 429, 'a reload forgets nothing');
my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^aiq_token_limit_refused_total 4$/m, 'metrics');
like($metrics, qr/^llm_rate_limit_hits_total\{tenant_id=""\} 4$/m, 'beside those of requests');

like($t->read_file('logs/limit.log'), qr/^429 REJECTED rate_limit_exceeded$/m, '$aiq_limit_status');

$t->finish;
done_testing;
