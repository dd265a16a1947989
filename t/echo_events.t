# The echo service makes events at a pace, which are a stream as any.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo/       { aiq_pass echo; }
        location /v1/streams/ { aiq_pass events; }
    }');
$t->start;

my $r = $t->get('/echo/events?count=20&every=5ms');
is($r->{status}, 200, 'events');
is($r->{headers}{'content-type'}, 'text/event-stream', 'as such');
is_deeply([ $r->{body} =~ /^id: (\d+)$/mg ], [ 1 .. 20 ], 'numbered');
is_deeply([ $r->{body} =~ /^data: \{"n":(\d+),"ns":\d+\}$/mg ], [ 1 .. 20 ], 'they say so, too');
my @ns = $r->{body} =~ /"ns":(\d+)/g;
cmp_ok($ns[-1] - $ns[0], '>=', 90e6, 'not faster than they should be');
my $again = $t->get("/v1/streams/$r->{headers}{'x-aiq-stream'}?after=0", headers => [ Accept => 'text/event-stream' ]);
is($again->{body}, $r->{body}, 'and can be read again');

my $c = $t->connect;
$c->request('GET', '/echo/events?every=2ms');
my $text = '';
$text .= $c->piece until $text =~ /"n":50,/;
ok(1, 'without a count they go on');

is($t->get("/echo/events?$_")->{status}, 400, "no: $_") for qw(count=x count=-1 every=0ms every=5 every=61s every=), 'count=1x';
is($t->post('/echo/events', 'hello')->{body}, 'hello', 'a POST is sent back');

$t->finish;
done_testing();
