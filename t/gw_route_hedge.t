# hedge: who is slow gets a rival, and whoever answers first wins.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $one = AIQ::Mock->new($t);
my $two = AIQ::Mock->new($t, name => 'second');
my $rules = 'retry 1; breaker failures=1000;';

# what the first does and what the second, by the names of what they are asked for
my %models = (
    slow    => [ 'hang-headers',  'chat' ],
    behind  => [ 'held-0',        'stream-3x1ms' ],
    ahead   => [ 'held-0',        'hang-headers' ],
    broken  => [ 'held-0',        '500' ],
    refused => [ 'held-0',        '400' ],
    limited => [ 'held-0',        '429' ],
    late    => [ 'hang-headers',  'held-0' ],
    both    => [ 'hang-headers',  'hang-headers' ],
    leaves  => [ 'hang-headers',  'hang-headers' ],
    again   => [ '500',           'hang-headers' ],
);

my $models = join "\n", map {
    my ($first, $second) = (/late|both/ ? 'hasty' : 'first', /both/ ? 'hasty2' : 'second');
    "aiq_model $_ { target $first model=mock-$models{$_}[0]; target $second model=mock-$models{$_}[1]; hedge 50ms; }"
} keys %models;

$t->conf("
    aiq_provider first  { dialect openai; url @{[ $one->url ]}; $rules }
    aiq_provider hasty  { dialect openai; url @{[ $one->url ]}; $rules timeout first_byte=200ms; }
    aiq_provider second { dialect openai; url @{[ $two->url ]}; $rules }
    aiq_provider hasty2 { dialect openai; url @{[ $two->url ]}; $rules timeout first_byte=200ms; }
    $models
    aiq_model quick   { target first; target second; hedge 1h; }
    aiq_provider strict { dialect openai; url @{[ $one->url ]}; retry 1; breaker failures=1 open=1h; timeout first_byte=200ms; }
    aiq_provider cut    { dialect openai; url @{[ $one->url ]}; retry 1; breaker failures=1 open=1h; }
    aiq_model timed_out { target strict model=mock-hang-headers; target second model=mock-held-0; hedge 50ms; }
    aiq_model cut_off   { target cut model=mock-hang-headers; target second model=mock-stream-1x1ms; hedge 50ms; }
    aiq_model third   { target first model=mock-500; target second model=mock-hang-headers; target first model=third; hedge 50ms; }
    aiq_model goes_on { target hasty model=mock-hang-headers; target second model=mock-reset-mid; target first model=end; hedge 50ms; }
    aiq_model alone   { target first model=mock-stream-2x200ms; target second if=\$http_x_two; hedge 10ms; }
    aiq_model billed  { target first model=mock-hang-headers input=2 output=4;
                        target second input=200 output=400; hedge 50ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /metrics { aiq_metrics; }
    }");
$t->start;

# until: streams that are held go on once this is so.
sub ask {
    my ($model, $stream, %arg) = @_;
    my $c = $t->connect;

    $c->request('POST', '/v1/chat/completions', body => $t->chat($model, 'hi', $stream ? (stream => JSON::PP::true) : ()),
        headers => [ 'X-Request-Id' => "ask-$model", @{ $arg{headers} // [] } ]);
    if ($arg{until}) {
        $t->wait_for($arg{until}, 10, "$model: what it waits for");
        $_->go for $one, $two;
    }
    return $c->response;
}

sub logged {
    my ($message, $model) = @_;
    return grep { $_->{message} eq $message && $_->{request_id} eq "ask-$model" } $t->engine_lines;
}

# Has the second one been asked since?
sub rival {
    my $n = () = $two->requests;
    return sub { $two->requests > $n };
}

sub answered_by {
    my ($model, $stream, $provider, $attempts, $tokens, $until) = @_;
    my $r = ask($model, $stream, until => $until);

    is($r->{status}, 200, "$model: answered") or diag($r->{body});
    is($r->{headers}{'x-aiq-provider'}, $provider, "$model: by the $provider");
    is($r->{headers}{'x-aiq-attempts'}, $attempts, "$model: of $attempts");
    like($r->{headers}{'x-aiq-overhead-ms'}, qr/^\d+\.\d{3}$/, "$model: the time of ours");
    return $r if !$stream;
    is(scalar(() = $r->{body} =~ /"role"/g), 1, "$model: begins once");
    is(scalar(() = $r->{body} =~ /"content":" token/g), $tokens, "$model: has its tokens and no others");
    like($r->{body}, qr/data: \[DONE\]\n\n\z/, "$model: to its end");
    return $r;
}

answered_by('quick', 0, 'first', 1);
is(scalar($two->requests), 0, 'nobody else is asked');

answered_by('slow', 0, 'second', 2);
$t->wait_for(sub { $one->stats->{aborted} == 1 }, 10, 'slow: who lost is cancelled');
answered_by('behind', 1, 'second', 2, 3);
$t->wait_for(sub { $one->stats->{aborted} == 2 }, 10, 'behind: who lost is cancelled');
answered_by('ahead', 1, 'first', 2, 8, rival());
$t->wait_for(sub { $two->stats->{aborted} == 1 }, 10, 'ahead: who lost is cancelled');

# a failure of one leaves the other alone
for my $model (qw(broken limited)) {
    answered_by($model, 1, 'first', 2, 8, sub { logged('attempt failed', $model) });
}
my $asked = rival();
answered_by('late', 1, 'second', 2, 8, sub { $asked->() && logged('attempt failed', 'late') });
answered_by('third', 0, 'first', 3);
my @lines = logged('attempt failed', 'broken');
is(scalar(@lines), 1, 'the log tells of it');
is_deeply([ @{ $lines[0] }{qw(attempt provider next)} ], [ 2, 'second', 'first' ], 'which, whose, and who has it now');
@lines = logged('another target is asked as well', 'broken');
is($lines[0]{next}, 'second', 'and of who was asked as well');

# who won breaks off, and others go on: one after the other then
my $on = ask('goes_on', 1, headers => [ 'X-AIQ-Continue' => 'allow' ]);
is($on->{headers}{'x-aiq-provider'}, 'second', 'goes on: the rival has begun');
like($on->{body}, qr/data: \[DONE\]\n\n\z/, 'goes on: to its end');
@lines = logged('another target is asked as well', 'goes_on');
is(scalar(@lines), 1, 'goes on: without another rival');

# who lost by its own fault has failed, who was only cut off has not
sub breaker { return $t->metric(qq(llm_circuit_breaker_state{provider="$_[0]"})) }
$asked = rival();
answered_by('timed_out', 1, 'second', 2, 8, sub { $asked->() && breaker('strict') == 2 });
is(breaker('strict'), 2, 'its breaker has heard of a time-out');
answered_by('cut_off', 1, 'second', 2, 1);
is(breaker('cut'), 0, 'and nothing of one that was cut off');

# the client's own error is an answer, too
is(ask('refused', 1)->{status}, 400, 'refused: an answer');

my $r = ask('both');
is($r->{status}, 504, 'both fail: the last failure');
is($r->{headers}{'x-aiq-attempts'} // 2, 2, 'both fail: two attempts');

$r = ask('alone', 1);
is($r->{headers}{'x-aiq-attempts'}, 1, 'a target that does not serve it is no rival');

# a client that leaves
my $before = $one->stats->{aborted} + $two->stats->{aborted};
my $c = $t->connect;
my $n = () = $two->requests;
$c->request('POST', '/v1/chat/completions', body => $t->chat('leaves', 'hi'));
$t->wait_for(sub { $two->requests > $n }, 10, 'both are asked');
$c->close;
$t->wait_for(sub { $one->stats->{aborted} + $two->stats->{aborted} == $before + 2 }, 10, 'leaves: both are cancelled');

# both are paid: 9 and 12 tokens of the second, and an estimate of what the first has read
$r = answered_by('billed', 0, 'second', 2);
cmp_ok($r->{headers}{'x-aiq-cost'}, '>', 0.0066, 'billed: more than the second');
cmp_ok($r->{headers}{'x-aiq-cost'}, '<', 0.0067, 'billed: by what the first has read');
my $metrics = $t->get('/metrics')->{body};
like($metrics, qr/^llm_requests_total\{provider="first",model="billed",status="499"\} 1$/m, 'who lost counts');
like($metrics, qr/^llm_requests_total\{provider="second",model="billed",status="200"\} 1$/m, 'who won');

$t->finish;
done_testing;
