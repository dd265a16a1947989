# A client that does not read makes nginx hold a window, not the reply; one that
# reads nothing for send_timeout is cut; a slow one gets everything.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my $size = 20_000_000;

$t->conf("
    server {
        listen 127.0.0.1:%%PORT_0%% sndbuf=32k;
        client_max_body_size 0;
        aiq_max_body_size 0;
        location /echo { aiq_pass echo; }
        location /impatient { aiq_pass echo; send_timeout 500ms; }
        location /limited { aiq_pass echo; limit_rate 4m; }
    }");
$t->start;
my ($worker) = $t->workers;

# The kernel takes a few MB of what nobody reads, far less than the reply.
sub slow {
    my ($path, $body) = @_;
    my $c = $t->connect(seconds => 60);

    $c->request('POST', $path, body => $body);
    return $c;
}

is($t->post('/echo', 'warm')->{body}, 'warm', 'warm');
my $body = join('', map { pack('N', $_) } 1 .. $size / 4);
my $before = $t->rss($worker);

my @slow = map { slow('/echo', $body) } 1 .. 5;
$_->head for @slow;
is($t->post('/echo', 'others')->{body}, 'others', 'others are served meanwhile');
cmp_ok($t->rss($worker) - $before, '<', 12_000_000, 'five stuck clients of 20 MB cost little');

my $c = shift @slow;
$_->close for @slow;
ok($c->rest eq $body, 'a slow one gets all of it, in order');

$c = slow('/impatient', $body);
$c->head;
ok($t->wait_for(sub { $t->error_log =~ /client timed out.*impatient/ }, 20), 'send_timeout');

my $r = $t->post('/limited', substr($body, 0, 3_000_000));
ok($r->{body} eq substr($body, 0, 3_000_000), 'limit_rate slows down, no more');

$t->finish;
done_testing;
