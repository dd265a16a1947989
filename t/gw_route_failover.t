# From target to target: what goes on to the next one, what does not, and what
# the client, the log and the metrics see of it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new(env => { FIRST_KEY => 'sk-first', FIRST_KEY2 => 'sk-first', FIRST_KEY3 => 'sk-first', SECOND_KEY => 'sk-second' });
my $one = AIQ::Mock->new($t);
my $two = AIQ::Mock->new($t, name => 'second');
my $closed = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp');    # bound, not listening
my @kinds = qw(500 500-html 200-html close no-http hang-headers bad-length role-close);
my $rules = 'retry 2 backoff=1ms; breaker failures=1000;';

$t->conf("
    aiq_provider first  { dialect openai; url @{[ $one->url ]}; key env:FIRST_KEY; header X-First yes; $rules }
    aiq_provider hasty  { dialect openai; url @{[ $one->url ]}; key env:FIRST_KEY; header X-First yes; $rules
                          timeout first_byte=300ms idle=300ms; }
    aiq_provider second { dialect openai; url @{[ $two->url ]}; key env:SECOND_KEY; $rules }
    aiq_provider down   { dialect openai; url http://127.0.0.1:@{[ $closed->sockport ]}/v1; $rules }
    aiq_provider lost   { dialect openai; url http://127.0.0.1:1/v1; key env:NO_SUCH_KEY; }
    @{[ map { my $first = /hang/ ? 'hasty' : 'first'; qq(aiq_model $_ { target $first model=mock-$_; target second model=equivalent; }) }
        @kinds, qw(400 404 reset-mid) ]}
    aiq_provider limited { dialect openai; url @{[ $one->url ]}; key env:FIRST_KEY2; header X-First yes; $rules }
    aiq_provider denied  { dialect openai; url @{[ $one->url ]}; key env:FIRST_KEY3; header X-First yes; $rules }
    aiq_model 429     { target limited model=mock-429; target second model=equivalent; }
    aiq_model 401     { target denied model=mock-401; target second model=equivalent; }
    aiq_model healthy { target first model=mock-chat; target second model=equivalent; }
    aiq_model down    { target down; target second model=equivalent; }
    aiq_model lost    { target lost; target second model=equivalent; }
    aiq_model nobody  { target first model=mock-500; target second model=mock-429; retry_timeout 5s; }
    log_format way '\$aiq_model \$aiq_provider';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/way.log way;
        location /v1/ { aiq_pass gateway; }
        location /metrics { aiq_metrics; }
    }");
$t->start;

sub ask {
    my ($model, %more) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi', %more),
        headers => [ 'X-Request-Id' => "ask-$model" ]);
}

sub answered_by {
    my ($r, $provider, $model, $attempts, $name) = @_;

    is($r->{status}, 200, "$name: answered") or diag($r->{body});
    is($r->{headers}{'x-aiq-provider'}, $provider, "$name: by $provider");
    is($r->{headers}{'x-aiq-model'}, $model, "$name: its model");
    is($r->{headers}{'x-aiq-attempts'}, $attempts, "$name: with attempt $attempts");
    like($r->{headers}{'x-aiq-overhead-ms'}, qr/^\d+\.\d{3}$/, "$name: the time of ours");
}

answered_by(ask('healthy'), 'first', 'mock-chat', 1, 'a healthy one');
is(scalar($two->requests), 0, 'and nobody else has seen it');

# what a provider is to blame for is tried again there, and then at the next target
for my $kind (grep { $_ ne 'role-close' } @kinds) {
    answered_by(ask($kind), 'second', 'equivalent', 3, $kind);
}

# a stream goes on until its first token, and the client sees one stream only
for my $kind (qw(500 close hang-headers role-close)) {
    my $r = ask($kind, stream => JSON::PP::true);

    answered_by($r, 'second', 'equivalent', 3, "$kind, stream");
    is(scalar(() = $r->{body} =~ /"role"/g), 1, "$kind, stream: begins once");
    is(scalar(() = $r->{body} =~ /"content":" token/g), 8, "$kind, stream: and is whole");
    like($r->{body}, qr/data: \[DONE\]\n\n\z/, "$kind, stream: to its end");
}
my $r = ask('reset-mid', stream => JSON::PP::true);
is($r->{headers}{'x-aiq-provider'}, 'first', 'after the first token nobody else');
like($r->{body}, qr/"provider_error"/, 'but an error event');
unlike($r->{body}, qr/DONE/, 'and no end');

answered_by(ask('down'), 'second', 'equivalent', 3, 'nobody listens');
answered_by(ask('lost'), 'second', 'equivalent', 2, 'a missing key');

# D5: a provider that limits us is left for an equivalent one at once
answered_by(ask('429'), 'second', 'equivalent', 2, '429');
answered_by(ask('429', stream => JSON::PP::true), 'second', 'equivalent', 1, 'while its key rests');

# what is the client's own, or ours, is told at once
my $before = $two->stats->{requests};
for my $case ([ 400 => 400, 'mock_invalid' ], [ 404 => 404, 'model_not_found' ],
    [ 401 => 502, 'provider_auth_failed' ]) {
    my ($kind, $status, $code) = ("$case->[0]", @$case[ 1, 2 ]);
    my $n = $one->stats->{requests};

    $r = ask($kind);
    is($r->{status}, $status, "$kind: status");
    is($t->json($r)->{error}{code}, $code, "$kind: code");
    is($one->stats->{requests}, $n + 2, "$kind: one attempt, and the question here");
}
is($two->stats->{requests}, $before + 1, 'no other target has seen them');

# where everybody fails, the last failure is the answer
$r = ask('nobody');
is($r->{status}, 429, 'nobody left: the last failure');
is($r->{headers}{'retry-after'}, 7, 'with its Retry-After');
is($r->{headers}{'x-aiq-attempts'}, 3, 'and the number of attempts');

# nothing of one provider's reaches another, and every attempt has the whole body
my @first = grep { $_->{body} } $one->requests;
my @second = grep { $_->{body} } $two->requests;
ok(!(grep { $_->{head} !~ /^Authorization: Bearer sk-first\r?$/m || $_->{head} !~ /^X-First: yes\r?$/m } @first),
    'the first got its key and header');
ok(!(grep { $_->{head} !~ /^Authorization: Bearer sk-second\r?$/m || $_->{head} =~ /X-First|sk-first/i } @second),
    'the second its own alone');
ok(!(grep { ($t->json($_->{body}) // {})->{messages}[0]{content} ne 'hi' } @first, @second), 'the body is whole');
ok(!(grep { $t->json($_->{body})->{model} !~ /^(?:equivalent|mock-429)$/ } @second), "with the target's model");

# the log has a line for each attempt that was not the last
my @lines = grep { $_->{message} eq 'attempt failed' && $_->{request_id} eq 'ask-hang-headers' } $t->engine_lines;
is(scalar(@lines), 4, 'two lines for each of two requests');
is($lines[0]{attempt}, 1, 'which attempt');
is($lines[0]{code}, 'provider_timeout', 'why');
is($lines[1]{next}, 'second', 'and who is next');
like($t->read_file('logs/way.log'), qr/^500 second$/m, "nginx's variables have who answered");

# every attempt counts
my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^llm_requests_total\{provider="limited",model="429",status="429"\} 1$/m, 'the limited one counts');
like($metrics, qr/^llm_requests_total\{provider="second",model="429",status="200"\} 2$/m, 'and the one behind it');
like($metrics, qr/^llm_requests_total\{provider="first",model="500",status="502"\} 4$/m, 'each of several');

# a provider that is killed with a request
my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', body => $t->chat('hang-headers', 'hi'));
$t->wait_for(sub { $one->requests > @first }, 10, 'the request is there');
$t->stop('mock', 'KILL');
answered_by($c->response, 'second', 'equivalent', 3, 'killed');

$t->finish;
done_testing;
