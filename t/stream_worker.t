# A stream outlives the nginx worker that it came through: killed, or replaced by a reload.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat { target mock model=mock-stream-100x30ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_stream_grace 1m; aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
    }", workers => 2);
$t->start;

sub follow {
    my ($id, @after) = @_;
    my $c = $t->connect;

    $c->request('GET', "/v1/streams/$id", headers => [ Accept => 'text/event-stream', @after ]);
    is($c->head->{status}, 200, 'it is there');
    return $c;
}

for my $how (qw(killed reloaded)) {
    my $c = $t->connect;
    $c->request('POST', '/v1/chat/completions', body => $t->chat('chat', 'hi', stream => JSON::PP::true));
    my $id = $c->head->{headers}{'x-aiq-stream'};
    my $begin = $c->piece;
    my %old = map { $_ => 1 } $t->workers;
    if ($how eq 'killed') {
        $t->expect_in_log(qr/\[alert\].*exited on signal 9/);
        kill('KILL', keys %old);
    } else {
        $t->reload;
        $c->close;
    }
    $t->wait_for(sub { grep { !$old{$_} } $t->workers }, 20, 'a new worker');
    my ($seen) = reverse "$begin\n" =~ /^id: (\d+)$/mg;
    my $rest = follow($id, 'Last-Event-ID' => $seen)->rest =~ s/\Aretry: 2000\n//r;
    my $whole = follow($id)->rest;
    like($whole, qr/^id: 103\ndata: \[DONE\]\n\n\z/m, "$how: the stream is whole");
    is(substr($whole, -length $rest), $rest, 'and so is what came after');
    like($rest, qr/\Aid: @{[ $seen + 1 ]}\n/, 'from where it was');
}

is($mock->stats->{aborted}, 0, 'no call was cut off');

$t->finish;
done_testing();
