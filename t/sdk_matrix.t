# The official SDKs of OpenAI and Anthropic, each against providers of both dialects:
# texts, thoughts, tools, usage, errors, streams and whole answers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Dialects;

plan(skip_all => 'the SDKs are not installed') if !AIQ::Dialects->available;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

my $models = join "\n", map {
    my $provider = $_;
    "aiq_model $provider { target $provider model=plain; }",
        map { "aiq_model $provider-$_ { target $provider model=$_; }" } qw(bad busy mixed broken cut)
} qw(openai anthropic);

$t->conf($mock->providers . "
    $models
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

my ($rc, $tap) = $mock->node('sdk_matrix.mjs', 'http://127.0.0.1:' . $t->port(0));
is($rc, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing;
