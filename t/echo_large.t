# 100 MB through echo: what comes back is what was sent, and neither process
# grows with it.

use strict;
use warnings;
use lib 't/lib';

use Digest::MD5;
use Test::More;
use AIQ::Test;

my $megabytes = $ENV{AIQ_VALGRIND} ? 4 : 100;
my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo {
            aiq_pass echo;
            aiq_max_body_size 0;
            client_max_body_size 0;
        }
    }');
$t->start;

is($t->post('/echo', 'warm')->{body}, 'warm', 'echo answers');

my ($worker) = $t->workers;
my %before = map { $_ => $t->rss($_) } $worker, $t->pid('engine');

my $piece = join('', map { chr($_ % 251) } 1 .. 65536) x 16;
my ($sent, $got) = (Digest::MD5->new, Digest::MD5->new);
my $c = $t->connect(seconds => 60);

$c->send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    . 'Content-Length: ' . $megabytes * length($piece) . "\r\n\r\n");
for my $i (1 .. $megabytes) {
    my $p = sprintf('%08d', $i) . substr($piece, 8);
    $c->send($p);
    $sent->add($p);
}

my $head = $c->head;
is($head->{status}, 200, 'the head of the reply');
is($head->{headers}{'content-type'}, 'application/octet-stream', 'its type is the request\'s');
my ($length, $peak) = (0, 0);
while (defined(my $p = $c->piece)) {
    $got->add($p);
    $length += length $p;
    $peak = $t->rss($_) - $before{$_} > $peak ? $t->rss($_) - $before{$_} : $peak
        for $length % (8 << 20) < 65536 ? keys %before : ();
}
is($length, $megabytes * length($piece), 'as long as what was sent');
is($got->hexdigest, $sent->hexdigest, 'and the same');
# the rings themselves become resident as they are used: 4 MB each way in each process
cmp_ok($peak, '<', 16 << 20, 'no process grew by more than its rings and windows');

$t->finish;
done_testing();
