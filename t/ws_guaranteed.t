# /ws: a guaranteed chat goes on over another connection though its engine was killed, with no gap
# and no repeat, or ends with an error; and it can be cancelled as any other.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Mock;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model once  { target mock model=mock-first-1-endless; }
    aiq_model again { target mock model=mock-first-1-endless-2; }
    aiq_model long { target mock model=mock-stream-10000x20ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location = /ws { aiq_websocket; aiq_abort_drain 0; aiq_pass events; }
    }");
$t->start;

sub open_ws {
    my $ws = AIQ::WebSocket->new($t, '/ws');

    $ws->event;
    return $ws;
}
sub begin {
    my ($ws, $model, %headers) = @_;
    $ws->say(type => 'chat', id => 'c', headers => { 'x-aiq-qos' => 'guaranteed', %headers },
        body => { model => $model, messages => [ { role => 'user', content => 'hi' } ] });
}
sub events {
    my ($ws, $most) = @_;
    my @events;

    while (!defined $most || @events < $most) {
        push @events, $ws->event // last;
        last if $events[-1]{type} =~ /^(done|error|cancelled)$/;
    }
    return @events;
}

my $links = 1;
for my $case ([ 'once', 'done', 'continued, where that is allowed', 'x-aiq-continue' => 'allow' ],
    [ 'again', 'error', 'broken off, where it is not' ]) {
    my ($model, $end, $what, @headers) = @$case;
    my $ws = open_ws();

    begin($ws, $model, @headers);
    my @first = events($ws, 20);
    $t->kill_hard('engine');
    push @first, events($ws);
    is($ws->{code}, 1012, 'an engine that was killed: come again');
    $t->start_engine;
    $t->wait_for_links(++$links);
    $ws = open_ws();
    $ws->say(type => 'resume', id => 'again', stream => $first[0]{stream}, after => $first[-1]{seq});
    my @rest = events($ws);
    shift @rest;
    is_deeply([ map { $_->{seq} } @first, @rest ], [ 0 .. $rest[-1]{seq} ], "$what: no gap, no repeat");
    is($rest[-1]{type}, $end, "$what: its end") or diag explain $rest[-1];
    $ws->drop;
}

my $ws = open_ws();
begin($ws, 'long');
events($ws, 5);
my $aborted = $mock->stats->{aborted};
$ws->say(type => 'cancel', id => 'c');
is((events($ws))[-1]{type}, 'cancelled', 'cancelled');
$t->wait_for(sub { $mock->stats->{aborted} > $aborted }, 10, 'the provider is left');
pass('the provider is left');
$ws->drop;

is(AIQ::WebSocket::misfits(), '', 'all of it fits the schema');
$t->finish;
done_testing;
