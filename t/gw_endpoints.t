# Endpoints that are no chats: what a provider gets of their requests, within a budget
# and without one, and what they count.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Dialects;
use AIQ::Test;

plan(skip_all => 'the mock needs Node and the SDKs') if !AIQ::Dialects->available;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

$t->conf($mock->providers . "
    aiq_model m { target openai model=own input=1 output=10; }
    aiq_model claude { target anthropic model=own input=1 output=10; }
    log_format tokens '\$aiq_model \$aiq_tokens_in \$aiq_tokens_out \$aiq_cost';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/tokens.log tokens;
        location /v1/ { aiq_pass gateway; }
        location /budget/ { aiq_budget tenant 1usd/day; aiq_pass gateway /v1/; }
    }");
$t->start;

# The request as the provider has got it.
sub sent {
    my ($path, $body) = @_;
    my $r = $t->post($path, $body);

    is($r->{status}, 200, "$path $body") or diag $r->{body};
    return ($mock->requests)[-1]{body};
}

is_deeply(sent('/v1/completions', '{"model":"m","prompt":"a","new":1}'), { model => 'own', prompt => 'a', new => 1 },
    'nothing is added without a budget');
is(sent('/budget/completions', '{"model":"m","prompt":"a"}')->{max_tokens}, 4096, 'a budget sets a limit, under its older name');
is(sent('/budget/completions', '{"model":"m","prompt":"a","max_tokens":7}')->{max_tokens}, 7, 'where there is none');
is(sent('/budget/completions', '{"model":"m","prompt":"a","max_tokens":null}')->{max_tokens}, 4096, 'or null');
is_deeply(sent('/budget/embeddings', '{"model":"m","input":"a"}'), { model => 'own', input => 'a' }, 'an embedding has no answer to limit');
is_deeply(sent('/budget/moderations', '{"model":"m","input":"a"}'), { model => 'own', input => 'a' }, 'nor a moderation');
sent('/budget/messages/count_tokens', '{"model":"claude","messages":[{"role":"user","content":"a"}]}');

$t->wait_for(sub { 7 == (() = $t->read_file('logs/tokens.log') =~ /\n/g) }, 10, 'all is in the log');
my @tokens = split /\n/, $t->read_file('logs/tokens.log');
is_deeply([ @tokens[0 .. 3] ], [ ('m 2 3 0.000032000') x 4 ], 'completions count');
is($tokens[4], 'm 3 0 0.000003000', 'of an embedding only what went in');
like($tokens[5], qr/^m - 0 0\.0000\d+$/, 'a moderation tells no usage: an estimate of what went in');
is($tokens[6], 'claude 0 0 0.000000000', 'to count tokens costs nothing');

$t->finish;
done_testing;
