# A full disk in the middle of a guaranteed stream: its events wait and nobody reads one that
# is not stored; with room again it goes on, whole. Another one cannot begin meanwhile, and
# best-effort streams never notice.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Reader;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat  { target mock model=mock-stream-100x50ms; }
    aiq_model quick { target mock model=mock-stream-10x0ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location = /health    { aiq_health; }
        location = /metrics   { aiq_metrics; }
    }");
$t->start;

# A limit on the size of files stands for the disk.
sub limit {
    my ($bytes) = @_;

    system('prlimit', '--pid', $t->pid('engine'), "--fsize=$bytes:unlimited") == 0 or die 'prlimit';
}

sub ask {
    my (@headers) = @_;

    return $t->post('/v1/chat/completions', $t->chat('quick', 'hi', stream => JSON::PP::true),
        headers => \@headers);
}


my $r = AIQ::Reader->new($t, model => 'chat');
$r->read(5);
limit(-s $t->dir . '/aiq.db-wal');
$t->wait_for(sub { $t->get('/health')->{status} == 503 }, 20, 'the disk is full');
my $stored = $t->metric('aiq_streams_stored_events_total');
$t->wait_for(sub { $t->metric('aiq_streams_unstored_bytes') > 0 }, 20, 'events wait');
my $new = ask('X-AIQ-QoS' => 'guaranteed');
is($new->{status}, 503, 'another one cannot begin');
is($t->json($new)->{error}{code}, 'store_unavailable', 'and says so');
like(ask()->{body}, qr/data: \[DONE\]\n\n\z/, 'best-effort streams go on');
is($t->metric('aiq_streams_stored_events_total'), $stored, 'nothing was stored');

limit('unlimited');
$r->read;
is_deeply($r->ids, [ 1 .. 103 ], 'with room again: each event once, in order');
like(($r->events)[-1], qr/\[DONE\]/, 'to its end');
is($r->again, $r->text, 'and so again');
is($t->metric('aiq_streams_unstored_bytes'), 0, 'nothing waits');

$t->finish;
done_testing();
