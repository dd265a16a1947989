# What a strict server does on the wire, in the order of the Autobahn test suite's
# categories 1 to 7, 9 and 10: messages come back, whatever breaks a rule closes. The
# frames' own cases are in t/unit/test_ws_frame.c.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo {
            aiq_pass echo;
            aiq_websocket;
            aiq_websocket_max_message 16m;
            aiq_websocket_max_fragments 0;
        }
    }');
$t->start;

use constant { TEXT => 0x81, BINARY => 0x82, CLOSE => 0x88, PING => 0x89, PONG => 0x8a };

# Sends frames, [first byte, payload]; what comes: messages, pongs as "pong:…", the close
# code, "end".
sub exchange {
    my ($frames, %how) = @_;
    my $ws = AIQ::WebSocket->new($t, '/echo');
    my $bytes = join('', map { AIQ::WebSocket::frame_of(@$_) } @$frames);
    my @got;

    $bytes .= AIQ::WebSocket::frame_of(CLOSE, pack('n', 1000)) unless $how{open};
    if ($how{cut}) {
        $ws->raw($_) or last for unpack("(a$how{cut})*", $bytes);
    } else {
        $ws->raw($bytes);
    }
    while (1) {
        my $message = $ws->message;
        push @got, map { "pong:$_" } splice @{ $ws->{pongs} //= [] };
        last unless defined $message;
        push @got, $message;
    }
    push @got, $ws->{code};
    push @got, 'end' if $ws->ended;
    return \@got;
}

sub case {
    my ($name, $frames, @expected) = @_;

    is_deeply(exchange($frames, cut => $_), [ @expected, 'end' ], $name . ($_ ? ", $_ bytes at a time" : ''))
        for 0, 1;
}

# 1: framing
for my $n (0, 1, 125, 126, 127, 128, 65535, 65536) {
    my $text = '*' x $n;
    is_deeply(exchange([ [ TEXT, $text ], [ BINARY, "\xfe" x $n ] ], cut => 997), [ $text, "\xfe" x $n, 1000, 'end' ],
        "1: $n bytes");
}

# 2: pings
case('2: a ping', [ [ PING, '' ] ], 'pong:', 1000);
case('2: with a payload', [ [ PING, 'Hello, world!' ] ], 'pong:Hello, world!', 1000);
case('2: of bytes', [ [ PING, "\x00\xff\xfe" ] ], "pong:\x00\xff\xfe", 1000);
case('2: of 125', [ [ PING, '*' x 125 ] ], 'pong:' . '*' x 125, 1000);
case('2: of 126', [ [ PING, '*' x 126 ] ], 1002);
case('2: a pong unasked for', [ [ PONG, 'x' ], [ PING, 'y' ] ], 'pong:y', 1000);
case('2: ten pings', [ map { [ PING, $_ ] } 0 .. 9 ], (map { "pong:$_" } 0 .. 9), 1000);

# 3: reserved bits
for my $bits (1 .. 7) {
    is_deeply(exchange([ [ TEXT | $bits << 4, 'x' ], [ PING, '' ] ]), [ 1002, 'end' ], "3: bits $bits of a message");
    is_deeply(exchange([ [ PING | $bits << 4, 'x' ] ]), [ 1002, 'end' ], "3: bits $bits of a ping");
}

# 4: reserved opcodes
is_deeply(exchange([ [ 0x80 | $_, 'x' ] ]), [ 1002, 'end' ], "4: opcode $_") for 3 .. 7, 11 .. 15;

# 5: fragmentation
case('5: a ping in two', [ [ 9, 'a' ], [ 0x80, 'b' ] ], 1002);
case('5: text in two', [ [ 1, 'a' ], [ 0x80, 'b' ] ], 'ab', 1000);
# in any order
is_deeply([ sort @{ exchange([ [ 1, 'a' ], [ PING, 'p' ], [ 0, '' ], [ PING, 'q' ], [ 0x80, 'b' ] ]) } ],
    [ 1000, 'ab', 'end', 'pong:p', 'pong:q' ], '5: with pings between');
case('5: more of nothing', [ [ 0x80, 'x' ], [ TEXT, 'y' ] ], 1002);
case('5: more of nothing, not the last', [ [ 0, 'x' ] ], 1002);
case('5: text within text', [ [ 1, 'a' ], [ TEXT, 'b' ] ], 1002);
case('5: five pieces', [ [ 2, 'a' ], [ 0, 'b' ], [ 0, '' ], [ 0, 'c' ], [ 0x80, 'd' ] ], 'abcd', 1000);

# 6: UTF-8
my $greek = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
case('6: Greek', [ [ TEXT, $greek ] ], $greek, 1000);
case('6: cut everywhere', [ [ 1, '' ], (map { [ 0, $_ ] } split //, $greek), [ 0x80, '' ] ], $greek, 1000);
case("6: $_", [ [ TEXT, pack('H*', $_) ] ], 1007)
    for qw(cebae1bdb9cf83cebceda080 80 bf c0af e080af f08080af f4908080 fe ff edbfbf cebae1bdb9cf);
case('6: binary may be anything', [ [ BINARY, "\xc0\xff" ] ], "\xc0\xff", 1000);
{
    # a frame that will never be whole
    my $ws = AIQ::WebSocket->new($t, '/echo');
    $ws->raw(substr(AIQ::WebSocket::frame_of(TEXT, "$greek\xf4\x90" . 'x' x 1000), 0, 40));
    is($ws->closed, 1007, '6: text fails as soon as it can only fail');
}

# 7: closing
is_deeply(exchange([ [ TEXT, 'a' ], [ CLOSE, pack('n', 1000) ], [ TEXT, 'late' ] ], open => 1), [ 'a', 1000, 'end' ],
    '7: what follows a Close is not looked at');
is_deeply(exchange([ [ CLOSE, '' ] ], open => 1), [ 1005, 'end' ], '7: without a code');
is_deeply(exchange([ [ CLOSE, 'x' ] ], open => 1), [ 1002, 'end' ], '7: half a code');
is_deeply(exchange([ [ CLOSE, pack('n', 1000) . 'x' x 123 ] ], open => 1), [ 1000, 'end' ], '7: a long reason');
is_deeply(exchange([ [ CLOSE, pack('n', 1000) . 'x' x 124 ] ], open => 1), [ 1002, 'end' ], '7: too long a reason');
is_deeply(exchange([ [ CLOSE, pack('n', 1000) . "\xce" ] ], open => 1), [ 1007, 'end' ], '7: a reason that is no text');
is_deeply(exchange([ [ CLOSE, pack('n', $_) ] ], open => 1), [ $_, 'end' ], "7: code $_")
    for 1000 .. 1003, 1007 .. 1011, 3000, 3999, 4000, 4999;
is_deeply(exchange([ [ CLOSE, pack('n', $_) ] ], open => 1), [ 1002, 'end' ], "7: code $_ is none")
    for 0, 999, 1004 .. 1006, 1016, 1100, 2000, 2999, 5000, 65535;

# frames that no client may send
{
    my $ws = AIQ::WebSocket->new($t, '/echo');
    $ws->raw("\x81\x05Hello");
    is($ws->closed, 1002, 'not masked');
    $ws = AIQ::WebSocket->new($t, '/echo');
    $ws->raw("\x82\xfe\x00\x05aaaa.....");
    is($ws->closed, 1002, 'a length that has a shorter form');
    $ws = AIQ::WebSocket->new($t, '/echo');
    $ws->raw("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffaaaa");
    is($ws->closed, 1002, 'a length beyond 63 bits');
}

# 9: long messages, in one and in many frames; 10: cut at will
for my $n (65536, 1 << 20, 8 << 20) {
    my $text = 'abcdefghijklmnop' x ($n / 16);
    my $ws = AIQ::WebSocket->new($t, '/echo', seconds => 60);
    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        # the other half of the same connection: who only sends would wait for himself
        $ws->text($text);
        my @pieces = unpack('(a4096)*', $text);
        $ws->frame(2, shift @pieces);
        my $last = pop @pieces;
        $ws->frame(0, $_) for @pieces;
        $ws->frame(0x80, $last);
        POSIX::_exit(0);
    }
    ok($ws->message eq $text, "9: $n bytes in a frame");
    ok($ws->message eq $text, '9: and in many');
    waitpid($pid, 0);
}

$t->finish;
done_testing();
