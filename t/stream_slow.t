# A reader that is too slow holds nobody up: the fastest sets the pace, and who is so far
# behind that the next events are not kept any more is told so.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Socket qw(SOL_SOCKET SO_RCVBUF);
use Test::More;
use Time::HiRes qw(time);
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

# about 6 MB
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model long { target mock model=mock-stream-30000x0ms; }
    server {
        listen 127.0.0.1:%%PORT_0%% sndbuf=16k;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /metrics     { aiq_metrics; }
    }");
$t->start;

# A connection whose kernel takes little before it is read.
sub narrow {
    my $c = $t->connect;

    setsockopt($c->socket, SOL_SOCKET, SO_RCVBUF, 16384) or die $!;
    return $c;
}

sub begin {
    my ($c) = @_;

    $c->request('POST', '/v1/chat/completions', body => $t->chat('long', 'hi', stream => JSON::PP::true));
    return $c->head->{headers}{'x-aiq-stream'};
}

sub follow {
    my ($c, $id, $after) = @_;

    $c->request('GET', "/v1/streams/$id?after=" . ($after // 0), headers => [ Accept => 'text/event-stream' ]);
    is($c->head->{status}, 200, 'somebody reads along');
    return $c;
}

# The first event that is kept, once the provider is held up: then it stays, be it the very first.
sub first {
    my ($id) = @_;
    my ($before, $since) = ('', time());

    return $t->wait_for(sub {
        my $says = $t->json($t->get("/v1/streams/$id?after=0"))->{error}{message} // '';
        my $first = $says =~ /number (\d+)/ ? $1 : 1;
        my $now = $first . ' ' . $t->metric('aiq_streams_bytes');
        ($before, $since) = ($now, time()) if $now ne $before;
        return time() - $since > 1 ? $first : 0;
    }, 20, 'the stream stands');
}

# One for whom the producer waits as long as it reads nothing, and one that reads nothing
# from there on, of which the kernel takes less.
my $c = $t->connect;
my $id = begin($c);
my $from = first($id);
my $slow = follow(narrow(), $id, $from - 1);
is($t->metric('aiq_streams_open'), 1, 'the provider waits for its readers');
my $all = $c->rest;
like($all, qr/\nid: 30003\ndata: \[DONE\]\n\n\z/, 'the fast one has it all');
my $rest = $slow->rest =~ s/\Aretry: 2000\n//r;
like($rest, qr/\n\nevent: stream_truncated\ndata: \{"error":\{"code":"stream_truncated",[^\n]*\}\}\n\n\z/, 'the slow one is told');
$rest =~ s/event: stream_truncated.*//s;
ok($rest eq substr($all, index($all, "id: $from\n"), length $rest), 'and had no gap before');
$from = first($id);
is($t->json($t->get("/v1/streams/$id?after=" . ($from - 1)))->{data}[0]{seq}, $from, 'what is kept can be read again');

# The one that has asked.
$c = narrow();
$id = begin($c);
$all = follow($t->connect, $id, first($id) - 1)->rest;
like($all, qr/^id: 30003\ndata: \[DONE\]\n\n\z/m, 'another one has all the rest');
unlike($c->rest, qr/\[DONE\]/, 'who asked and did not read is cut off');

$t->wait_for(sub { $t->metric('aiq_streams_open') == 0 && $t->metric('aiq_jobs_open') == 1 }, 10, 'no stream is left');
is($mock->stats->{aborted}, 0, 'both calls went to their end');

$t->finish;
done_testing();
