# aiq_websocket_deflate: permessage-deflate (RFC 7692), what is agreed on, and that what is
# compressed counts for what it becomes.

use strict;
use warnings;
use lib 't/lib';

use Compress::Raw::Zlib;
use Test::More;
use AIQ::Command qw(sanitized);
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /on    { aiq_pass echo; aiq_websocket; aiq_websocket_deflate on; aiq_websocket_max_message 2m; }
        location /off   { aiq_pass echo; aiq_websocket; }
        location /small { aiq_pass echo; aiq_websocket; aiq_websocket_deflate on; aiq_websocket_max_message 1000; }
    }');
$t->start;

sub offer { return (headers => [ map { ('Sec-WebSocket-Extensions' => $_) } @_ ]) }
sub agreed { return AIQ::WebSocket->ask($t, shift, offer(@_))->{headers}{'sec-websocket-extensions'} // '' }
my $plain = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';

is(agreed('/off', 'permessage-deflate'), '', 'off by default');
is(agreed('/on'), '', 'nothing is answered that was not offered');
is(agreed('/on', 'permessage-deflate'), $plain, 'on');
is(agreed('/on', 'permessage-deflate; client_max_window_bits'), $plain, 'as browsers offer it');
is(agreed('/on', 'permessage-deflate;client_max_window_bits="10" ; server_no_context_takeover'), $plain, 'more');
is(agreed('/on', 'x-webkit-deflate-frame, permessage-deflate'), $plain, 'beside another');
is(agreed('/on', 'x', 'permessage-deflate'), $plain, 'in another header');
is(agreed('/on', "permessage-deflate; server_max_window_bits=$_"), "$plain; server_max_window_bits=$_", "our window: $_")
    for 9, 15;
is(agreed('/on', "permessage-deflate; $_"), '', "declined: $_")
    for 'server_max_window_bits=8', 'server_max_window_bits', 'server_max_window_bits=16', 'server_max_window_bits=09',
        'client_max_window_bits=7', 'client_max_window_bits=', 'server_no_context_takeover=1', 'unknown',
        'client_no_context_takeover; client_no_context_takeover';
is(agreed('/on', 'permessage-deflate; server_max_window_bits=8, permessage-deflate'), $plain, 'then the next offer');

sub deflated {
    my ($text, %more) = @_;
    my $z = Compress::Raw::Zlib::Deflate->new(-WindowBits => -15, %more);
    my ($out, $rest) = ('', '');
    $z->deflate($text, $out);
    $z->flush($rest, Z_SYNC_FLUSH);
    return substr($out . $rest, 0, -4);
}
sub inflated {
    my ($data, $bits) = @_;
    my $z = Compress::Raw::Zlib::Inflate->new(-WindowBits => -($bits // 15));
    my $out;
    $data .= "\x00\x00\xff\xff";
    $z->inflate($data, $out);
    return $out;
}
sub ws { return AIQ::WebSocket->new($t, $_[0], offer($_[1] // 'permessage-deflate')) }
sub message {
    my ($ws, $bits) = @_;
    my $text = $ws->message;
    return defined $text && $ws->{compressed} ? inflated($text, $bits) : $text;
}

use constant { TEXT => 0xc1, BINARY => 0xc2 };
my $long = join(' ', map { "word$_" } 1 .. 3000);
for my $bits (15, 9) {
    my $ws = ws('/on', "permessage-deflate; server_max_window_bits=$bits");
    $ws->frame(TEXT, deflated('Hello'));
    is(message($ws, $bits), 'Hello', "a message, window $bits");
    ok(!$ws->{compressed}, 'too short to be worth it');
    $ws->frame(TEXT, deflated(substr($long, 0, 5000)));
    is(message($ws, $bits), substr($long, 0, 5000), 'a longer one');
    ok($ws->{compressed}, 'comes back compressed');
    $ws->text(substr($long, 0, 5000));
    is(message($ws, $bits), substr($long, 0, 5000), 'one that was not compressed');
    $ws->frame(TEXT, deflated(''));
    is(message($ws, $bits), '', 'nothing');
    $ws->frame(TEXT, "\x00");
    is(message($ws, $bits), '', 'nothing, in a byte');
    $ws->frame(TEXT, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00");
    is(message($ws, $bits), 'Hello', 'a last block, RFC 7692, 7.2.3.4');
    $ws->close(1000);
    is($ws->closed, 1000, 'the end');
}

my $ws = ws('/on');
my $data = deflated($long);
my @pieces = unpack('(a700)*', $data);
$ws->frame(@pieces == 1 ? TEXT : 0x41, shift @pieces);
while (defined(my $piece = shift @pieces)) {
    $ws->ping('between') if @pieces == 1;
    $ws->frame(@pieces ? 0 : 0x80, $piece);
}
is(message($ws), $long, 'in fragments');
is_deeply($ws->{pongs}, ['between'], 'with a ping between');
$ws->raw($_) for unpack('(a1)*', AIQ::WebSocket::frame_of(TEXT, deflated("byte by byte \xc3\xa4" x 20)));
is(message($ws), "byte by byte \xc3\xa4" x 20, 'byte by byte');
my $zeroes = "\0" x (2 << 20);
$ws->frame(BINARY, deflated($zeroes));
ok(message($ws) eq $zeroes, 'as long as may be, from 2 KB');
$ws->frame(BINARY, deflated("$zeroes\0"));
is($ws->closed, 1009, 'a byte more is too long');

sub ends {
    my ($what, $code, $first, $payload, $path) = @_;
    my $ws = ws($path // '/on');
    $ws->frame($first, $payload);
    is($ws->closed, $code, $what);
}
ends('a bomb', 1009, BINARY, deflated("\0" x 10_000_000), '/small');
ends('what does not inflate', 1007, BINARY, "\xff\xff\xff");
ends('text that is no UTF-8 when inflated', 1007, TEXT, deflated("abc\xc0\xaf"));
ends('text that ends within a character', 1007, TEXT, deflated("abc\xc3"));
ends('RSV1 in a ping', 1002, 0xc9, '');
ends('RSV2', 1002, 0xa1, 'x');
my $off = AIQ::WebSocket->new($t, '/off', offer('permessage-deflate'));
$off->frame(TEXT, deflated('x'));
is($off->closed, 1002, 'RSV1 where nothing was agreed on');

my ($worker) = $t->workers;
my $before;
for my $i (1 .. 200) {
    my $half = ws('/on');
    $half->frame(0x41, substr(deflated($long), 0, 500));
    $half->drop;
    $before = $t->private_memory($worker) if $i == 20;
}
SKIP: {
    skip 'memory is not itself here', 1 if $ENV{AIQ_VALGRIND} || sanitized();
    cmp_ok($t->private_memory($worker) - $before, '<', 3 << 20, 'what breaks off leaves nothing');
}

$t->finish;
done_testing();
