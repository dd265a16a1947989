# Whatever the engine does, the worker goes on: a broken handshake is a line in
# the log and 503, a broken rule costs the link and the requests on it.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { aiq_pass echo; aiq_websocket; }
        location /health/ { aiq_health; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start('close');
$t->start_nginx;
my ($worker) = $t->wait_for(sub { ($t->workers)[0] }, 10, 'the worker');

my %handshake = (
    close      => qr/answered: with the end of the connection/,
    abi        => qr/has another ABI: its ABI is \d+, the module's \d+/,
    magic      => qr/answered: with something that is no welcome/,
    short      => qr/answered: with a welcome of a wrong length/,
    no_fd      => qr/answered: without a descriptor/,
    two_fds    => qr/answered: with more than one descriptor/,
    unsealed   => qr/answered: with a descriptor that is not sealed/,
    wrong_size => qr/answered: with memory of a wrong size/,
    refused    => qr/refused us: go \?\[31maway/,
    silent     => qr/the engine: does not answer/,
);
$t->wait_for(sub { $t->error_log =~ $handshake{close} }, 10, 'the worker has begun');
my $descriptors = $t->descriptors($worker);

for my $how (sort keys %handshake) {
    $e->restart($how);
    $t->wait_for(sub { $t->error_log =~ $handshake{$how} }, 10, "$how in the log");
    my $reply = $t->get('/');
    is($reply->{status}, 503, "$how: 503");
    is($reply->{headers}{'retry-after'}, 1, "$how: Retry-After");
    my @lines = $t->error_log =~ /$handshake{$how}/g;
    $e->wait_for_hellos(3) unless $how eq 'silent';
    my @later = $t->error_log =~ /$handshake{$how}/g;
    is(scalar @later, scalar @lines, "$how: logged once, not at each attempt");
}

# Each breaks a rule; the reason is logged and the client hears of it.
my %rule = (
    over_credit   => qr/more bytes than their credit/,
    unknown_slot  => qr/a slot that was never open/,
    head_twice    => qr/HEAD twice/,
    data_first    => qr/DATA before HEAD/,
    end_first     => qr/END before HEAD/,
    unknown_frame => qr/a frame of an unknown type/,
    big_credit    => qr/CREDIT beyond reason/,
    odd_credit    => qr/CREDIT of a wrong length/,
    status        => qr/HEAD with an impossible status/,
    line_end      => qr/HEAD with control characters/,
    field         => qr/HEAD with a field that leads outside/,
    indices       => qr/indices or a frame that lead outside/,
    frame_len     => qr/indices or a frame that lead outside/,
    bad_notice    => qr/NOTICE of a wrong length/,
    upgrade       => qr/HEAD with an impossible status/,
    message       => qr/MESSAGE without a WebSocket/,
    token         => qr/TOKEN without a WebSocket/,
);
my %websocket = (
    ws_ping     => qr/MESSAGE with a wrong opcode/,
    ws_more     => qr/MESSAGE with a wrong opcode/,
    ws_bit      => qr/MESSAGE with a wrong opcode/,
    ws_within   => qr/MESSAGE with a wrong opcode/,
    ws_data     => qr/DATA before HEAD or of a WebSocket/,
    ws_credit   => qr/more bytes than their credit/,
    ws_end      => qr/END before HEAD or of a wrong length/,
    ws_tokens   => qr/TOKEN without a WebSocket, twice, or too long/,
    ws_no_token => qr/TOKEN without a WebSocket, twice, or too long/,
);

# Over a link that has been made anew: what waits for one is t/mod_parking.t's.
sub goes_on {
    my ($how) = @_;
    ok($t->wait_for(sub { $t->get('/fine')->{body} eq "ok\n" }), "$how: then requests work");
}

$e->restart;
goes_on('a handshake');
for my $how (sort keys %rule) {
    my $reason = $rule{$how};
    my $before = () = $t->error_log =~ /$reason/g;
    my $reply = $t->get("/$how");

    is($reply->{status}, 502, "$how: 502");
    is($t->json($reply)->{error}{code}, 'engine_lost', "$how: the code");
    my $after = () = $t->error_log =~ /$reason/g;
    is($after - $before, 1, "$how: the reason is logged");
    goes_on($how);
}

for my $how (sort keys %websocket) {
    my $before = () = $t->error_log =~ /$websocket{$how}/g;
    my $ws = AIQ::WebSocket->ask($t, "/$how");
    my $code = $ws->{status} == 101 ? $ws->closed : $ws->{status};

    ok($code == 1012 || $code == 502, "$how: the client hears of it");
    my $after = () = $t->error_log =~ /$websocket{$how}/g;
    is($after - $before, 1, "$how: the reason is logged");
    goes_on($how);
}

# Within the rules, if odd.
my $odd = AIQ::WebSocket->new($t, '/ws_close');
is($odd->closed, 1011, 'a code that is none is 1011');
is($odd->{reason}, 'why', 'with its reason');
my $text = AIQ::WebSocket->new($t, '/ws_text');
is($text->closed, 1001, 'a reason that is no text');
is($text->{reason}, '', 'is none');
is($t->get('/stale')->{body}, 'right', 'a frame of an earlier generation is dropped');
is($t->get('/unknown_notice')->{body}, 'fine', 'an unknown notice is none of ours');
is(length $t->get('/all_credit')->{body}, 8192 - 16, 'all of the credit at once');

# Lies about the length, seen before the head was sent.
for my $how (qw(short long)) {
    my $reply = $t->get("/$how");
    is($reply->{status}, 502, "$how of Content-Length: 502");
    is($t->json($reply)->{error}{code}, 'bad_reply', "$how: the code");
}
is($t->get('/fine')->{body}, "ok\n", 'the link survives both');

is_deeply([ $t->workers ], [ $worker ], 'the worker has lived through all of it');
ok($t->wait_for(sub { $t->descriptors($worker) <= $descriptors + 1 }), 'no descriptor is left open');

$t->finish;
done_testing;
