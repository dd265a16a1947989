# The official SDKs of OpenAI and Anthropic, and a local model that calls tools and thinks.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Dialects;
use AIQ::GGUF;
use AIQ::Test;

plan(skip_all => 'the SDKs are not installed') if !AIQ::Dialects->available;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";

with_template($demo, $t->dir . '/thinks.gguf',
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        . "{{ '<|im_start|>assistant\n<think>' }}");
$t->conf("
    aiq_provider local { dialect local; model demo $demo; model thinks %%DIR%%/thinks.gguf; }
    aiq_model demo { target local; }
    aiq_model thinks { target local model=thinks; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /health { aiq_health; } }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the models are loaded');

my ($rc, $tap) = AIQ::Dialects::node({ t => $t }, 'tools.mjs', 'http://127.0.0.1:' . $t->port(0));
is($rc, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing;
