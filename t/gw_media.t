# What sounds and images cost: by what is asked for, or by what the provider says.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Admin;
use AIQ::Dialects;
use AIQ::Test;

plan(skip_all => 'the mock needs Node and the SDKs') if !AIQ::Dialects->available;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

$t->conf($mock->providers . '
    aiq_model painter { target openai image=0.04; }
    aiq_model gpt-image { target openai input=5 output=40; }
    aiq_model both { target openai image=0.04; target openai model=other; }
    aiq_model voice { target openai characters=15; }
    aiq_model ear { target openai minute=0.006; }
    aiq_model free { target openai; }
    log_format cost "$aiq_model $status $aiq_tokens_in $aiq_tokens_out $aiq_cost";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/cost.log cost;
        location /v1/ { aiq_pass gateway; }
        location /money/ { aiq_budget tenant 0.25usd/day; aiq_pass gateway /v1/; }
        location /api/ { aiq_key aiq; aiq_pass control; }
        location /tokens/ { aiq_budget user 1000000tokens/day; aiq_pass gateway /v1/; }
    }');
$t->start;

my $asked = 0;
sub ask {
    my ($path, $body, $type) = @_;
    $asked++;
    return $t->post($path, $body, headers => [ 'Content-Type' => $type // 'application/json' ]);
}

# What nginx logs of it.
sub cost {
    my ($what, @request) = @_;
    my $r = ask(@request);

    is($r->{status}, 200, $what) or diag $r->{body};
    $t->wait_for(sub { $asked == (() = $t->read_file('logs/cost.log') =~ /\n/g) }, 10, 'it is in the log');
    return (split /\n/, $t->read_file('logs/cost.log'))[-1];
}

sub refused {
    my ($what, $code, @request) = @_;
    my $r = ask(@request);

    is("$r->{status} " . $t->json($r)->{error}{code}, $code, $what);
}

sub form {
    my (%field) = @_;
    my $b = 'boundary' . '0' x 20;
    return (join('', map { "--$b\r\nContent-Disposition: form-data; name=\"$_\"\r\n\r\n$field{$_}\r\n" } sort keys %field)
        . "--$b--\r\n", "multipart/form-data; boundary=$b");
}

sub image { return qq({"model":"$_[0]","prompt":"usage"$_[1]}) }

is(cost('an image', '/v1/images/generations', '{"model":"painter","prompt":"x"}'), 'painter 200 - 0 0.040000000', 'has a price');
is(cost('three', '/v1/images/generations', '{"model":"painter","prompt":"x","n":3}'), 'painter 200 - 0 0.120000000', 'three times that');
is(cost('as a stream', '/v1/images/generations', '{"model":"painter","prompt":"x","stream":true}'), 'painter 200 - - 0.040000000', 'the same');
is(cost('changed', '/v1/images/edits', form(model => 'painter', prompt => 'x', n => 2)), 'painter 200 - 0 0.080000000', 'as a form says');
is(cost('by tokens', '/v1/images/generations', image('gpt-image', '')), 'gpt-image 200 50 1000 0.040250000', 'as the answer tells');
is(cost('by tokens, as a stream', '/v1/images/generations', image('gpt-image', ',"stream":true')),
    'gpt-image 200 50 1000 0.040250000', 'and the end of a stream');
is(cost('speech', '/v1/audio/speech', '{"model":"voice","voice":"a","input":"gr\u00fc\u00dfe"}'), 'voice 200 - - 0.000075000', 'by its characters');
is(cost('a transcription', '/v1/audio/transcriptions', form(model => 'ear', response_format => 'verbose_json')),
    'ear 200 - 0 0.009000000', 'by its minutes');
cost('a transcription as text', '/v1/audio/transcriptions', form(model => 'ear', response_format => 'text'));
is(cost('one without a price', '/v1/audio/speech', '{"model":"free","voice":"a","input":"a"}'), 'free 200 - - -', 'is not known');

# within a budget only what is bounded
refused('images by tokens', '400 unbounded_request', '/money/images/generations', image('gpt-image', ''));
refused('one of its targets', '400 unbounded_request', '/money/images/generations', '{"model":"both","prompt":"x"}');
refused('without a price', '400 unbounded_request', '/money/audio/speech', '{"model":"free","voice":"a","input":"a"}');
refused('minutes', '400 unbounded_request', '/money/audio/transcriptions', form(model => 'ear'));
refused('a budget of tokens', '400 unbounded_request', '/tokens/images/generations', '{"model":"painter","prompt":"x"}');
refused('no number', '400 invalid_value', '/money/images/edits', form(model => 'painter', n => '1e9'));
my $n = () = $mock->requests;
refused('more than is left', '402 budget_exceeded', '/money/images/generations', '{"model":"painter","prompt":"x","n":7}');
is(scalar(() = $mock->requests), $n, 'nobody was asked');
is(cost('within it', '/money/images/generations', '{"model":"painter","prompt":"x","n":6}'), 'painter 200 - 0 0.240000000', 'it is paid');
refused('what is left', '402 budget_exceeded', '/money/images/generations', '{"model":"painter","prompt":"x"}');
is(cost('speech', '/money/audio/speech', '{"model":"voice","voice":"a","input":"a"}'), 'voice 200 - - 0.000015000', 'suffices for a letter');

# the ledger
my $admin = AIQ::Admin->new($t)->json(qw(keys create --admin))->{key};
sub used {
    my ($model) = @_;
    my ($sum) = grep { $_->{model} eq $model } @{ $t->json($t->get('/api/v1/usage?group_by=model', headers => AIQ::Admin::bearer($admin)))->{data} // [] };
    return $sum ? "$sum->{requests} $sum->{tokens_out} $sum->{cost_usd} $sum->{estimated}" : 'nothing';
}
my %used = (painter => '5 0 0.520000000 0', 'gpt-image' => '2 2000 0.080500000 0', ear => '2 0 0.009000000 1', free => '1 0 0.000000000 0');
for my $model (sort keys %used) {
    $t->wait_for(sub { used($model) eq $used{$model} }, 10, "$model: " . used($model));
    pass("$model: $used{$model}: requests, tokens, cost, and of how many that is not known");
}

$t->finish;
done_testing;
