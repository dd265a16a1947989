# LangChain and Vercel's ai in all the dialects that they speak, against providers of both:
# texts, tools, usage and refusals, streams and whole answers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Command qw(sanitized);
use AIQ::Test;
use AIQ::Dialects;

# they ask as the SDKs do that they stand on, in t/sdk_matrix.t
plan(skip_all => 'no matter of the build') if sanitized();
plan(skip_all => 'LangChain and ai are not installed')
    if !AIQ::Dialects->available(qw(ai @ai-sdk/openai @ai-sdk/anthropic @langchain/openai @langchain/anthropic));

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

my $models = join "\n", map {
    my $provider = $_;
    "aiq_model $provider { target $provider model=plain; }",
        map { "aiq_model $provider-$_ { target $provider model=$_; }" } qw(bad)
} qw(openai anthropic);

$t->conf($mock->providers . "
    $models
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

my ($rc, $tap) = $mock->node('frameworks.mjs', 'http://127.0.0.1:' . $t->port(0));
is($rc, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing;
