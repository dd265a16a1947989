# An engine that ends takes its streams along, and says so: to who reads them, and to who
# comes back to the next engine.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--drain', 1, '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat { target mock model=mock-stream-10000x20ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
    }", workers => 2);
$t->start;

sub begin {
    my $c = $t->connect;

    $c->request('POST', '/v1/chat/completions', body => $t->chat('chat', 'hi', stream => JSON::PP::true));
    return ($c, $c->head->{headers}{'x-aiq-stream'});
}

sub follow {
    my ($id) = @_;
    my $c = $t->connect;

    $c->request('GET', "/v1/streams/$id", headers => [ Accept => 'text/event-stream' ]);
    $c->head;
    $c->event;
    return $c;
}

sub last_event {
    my ($c) = @_;
    my $last;

    while (defined(my $event = $c->event)) {
        $last = $event;
    }
    return $t->json($last // '');
}

# kill -9 while some read, some have left and some come back.
my @all = map { [begin()] } 1 .. 6;
my @follow = map { follow($_->[1]) } @all;
$_->[0]->close for @all[ 0, 1 ];
$t->kill_hard('engine');
ok(last_event($_)->{error}, 'a reader gets an error event') for @follow;
ok(last_event($_->[0])->{error}, 'and so does who asked') for @all[ 2 .. 5 ];
$t->start_engine;
$t->wait_for_links(4);
my $r = $t->get("/v1/streams/$all[0][1]", headers => [ Accept => 'text/event-stream' ]);
is($r->{status}, 404, 'the next engine does not have it');
is($t->json($r)->{error}{code}, 'stream_not_found', 'and says so');

# One that leaves, with streams that nobody reads just now, and others.
@all = map { [begin()] } 1 .. 6;
@follow = map { follow($_->[1]) } @all[ 2 .. 5 ];
$_->[0]->close for @all[ 0 .. 3 ];
is($t->stop('engine'), 0, 'an engine that leaves ends');
ok(last_event($_)->{error}, 'a reader gets an error event') for @follow;

$t->finish;
done_testing();
