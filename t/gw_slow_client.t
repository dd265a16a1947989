# A client that does not read holds its window and little more: the provider is
# read no faster than the client reads.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Command qw(sanitized);
use AIQ::Test;
use AIQ::Mock;

my $tokens = 60_000;    # about 10 MB of events
my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; timeout connect=5s first_byte=30s idle=3s; }
    @{[ $mock->models(qq(mock-stream-${tokens}x0ms), 'mock-chat') ]}
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

my $c = $t->connect(seconds => 60);
my $before = $t->private_memory($t->pid('engine'));

$c->request('POST', '/v1/chat/completions',
    body => $t->chat("mock-stream-${tokens}x0ms", 'hi', stream => JSON::PP::true));
is($c->head->{status}, 200, 'a stream');
is($t->json($c->event)->{choices}[0]{delta}{role}, 'assistant', 'its first event');
$c->event for 1 .. 2;

# while it stands still, others are served, for longer than the provider's idle time
my $end = time() + 4;
my $served = 0;
while (time() < $end || $served <= 10) {
    $served += $t->post('/v1/chat/completions', $t->chat('mock-chat', 'hi'))->{status} == 200;
}
cmp_ok($served, '>', 10, 'others are served meanwhile');
SKIP: {
    skip 'memory is not itself here', 1 if $ENV{AIQ_VALGRIND} || sanitized();
    cmp_ok($t->private_memory($t->pid('engine')) - $before, '<', 4 << 20, 'little is held, of 10 MB');
}

# and nothing is lost
my $text = $c->rest;
my ($n, $wrong) = (2, 0);
while ($text =~ /"content":" token(\d+)"/g) {
    $wrong++ if $1 != ++$n;
}
is($n, $tokens, 'every token arrives');
is($wrong, 0, 'in order');
like($text, qr/^data: \[DONE\]$/m, 'to the end');

$t->finish;
done_testing;
