package AIQ::WebSocket;

# A WebSocket client that speaks in frames, so that a test can say what it likes.
#
#     my $ws = AIQ::WebSocket->new($t, '/echo');      # dies unless it is a 101
#     $ws->text('hello');
#     is($ws->message, 'hello');
#     $ws->close(1000);
#     is($ws->closed, 1000);

use strict;
use warnings;

use Digest::SHA qw(sha1_base64);
use File::Temp ();
use JSON::PP ();
use MIME::Base64 qw(encode_base64);

use AIQ::HTTP;

use constant { FIN => 0x80, RSV1 => 0x40, MORE => 0, TEXT => 1, BINARY => 2, CLOSE => 8, PING => 9, PONG => 10 };

sub new {
    my ($class, $t, $path, %arg) = @_;
    my $self = $class->ask($t, $path, %arg);

    die "no WebSocket but $self->{status}: " . ($self->{body} // '') . "\n" if $self->{status} != 101;
    my $accept = sha1_base64("$self->{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11") . '=';
    die "another accept than $accept\n" if ($self->{headers}{'sec-websocket-accept'} // '') ne $accept;
    return $self;
}

# The handshake: {status, headers}, body where it was refused. drop: headers not to send;
# headers: pairs more; method; behind: bytes sent with it.
sub ask {
    my ($class, $t, $path, %arg) = @_;
    my %drop = map { lc($_) => 1 } @{ $arg{drop} // [] };
    my $key = encode_base64(join('', map { chr(int(rand(256))) } 1 .. 16), '');
    my @headers = (Host => 'localhost', Upgrade => 'websocket', Connection => 'Upgrade',
        'Sec-WebSocket-Key' => $key, 'Sec-WebSocket-Version' => 13);
    my $self = bless { http => $t->connect(%arg), key => $key, headers => {}, binary => 0 }, $class;
    my $text = ($arg{method} // 'GET') . " $path HTTP/" . ($arg{version} // '1.1') . "\r\n";

    while (my ($name, $value) = splice(@headers, 0, 2)) {
        $text .= "$name: $value\r\n" unless $drop{ lc $name };
    }
    @headers = @{ $arg{headers} // [] };
    while (my ($name, $value) = splice(@headers, 0, 2)) {
        $text .= "$name: $value\r\n";
    }
    $self->{http}->send("$text\r\n" . ($arg{behind} // ''));
    ($self->{status}) = ($self->{http}->line // die "no answer\n") =~ m{^HTTP/1.1 (\d+)};
    while ((my $line = $self->{http}->line // '') ne '') {
        my ($name, $value) = $line =~ /^([^:]+): *(.*)$/;
        $self->{headers}{ lc $name } = $value;
    }
    if ($self->{status} != 101 && ($self->{headers}{'content-length'} // 0)) {
        $self->{body} = $self->{http}->bytes($self->{headers}{'content-length'});
    }
    return $self;
}

sub http { return $_[0]{http} }
sub raw  { return $_[0]{http}->send($_[1]) }
sub drop { return $_[0]{http}->close }

# A masked frame's bytes.
sub frame_of {
    my ($first, $data) = ($_[0], "$_[1]");
    my $n = length $data;
    my @mask = map { int(rand(256)) } 1 .. 4;
    my $mask = pack('C4', @mask);
    my $long = $n < 126 ? pack('C', 0x80 | $n) : $n < 65536 ? pack('Cn', 0xfe, $n) : pack('CQ>', 0xff, $n);

    return pack('C', $first) . $long . $mask . ($data ^ substr($mask x ($n / 4 + 1), 0, $n));
}

sub frame  { my ($self, $first, $data) = @_; return $self->raw(frame_of($first, $data // '')) }
sub text   { return $_[0]->frame(FIN | TEXT, $_[1]) }
sub binary { return $_[0]->frame(FIN | BINARY, $_[1]) }
sub ping   { return $_[0]->frame(FIN | PING, $_[1]) }

sub close {
    my ($self, $code, $reason) = @_;

    return $self->frame(FIN | CLOSE, defined $code ? pack('n', $code) . ($reason // '') : '');
}

# The next frame: (first byte, payload); nothing at the connection's end.
sub next_frame {
    my ($self) = @_;
    my $head = $self->{http}->bytes(2) // return;
    my ($first, $n) = unpack('CC', $head);

    die "a masked frame\n" if $n & 0x80;
    $n = $n == 126 ? unpack('n', $self->{http}->bytes(2)) : $n == 127 ? unpack('Q>', $self->{http}->bytes(8)) : $n;
    return ($first, $n ? $self->{http}->bytes($n) : '');
}

# The next message, whatever its pieces; pongs are kept in {pongs}, pings in {pings}.
# undef at a Close ({code}, {reason}; 1005 without a code) or the end ({code} 1006).
sub message {
    my ($self) = @_;
    my ($text, $open) = ('', 0);

    while (my ($first, $data) = $self->next_frame) {
        my $opcode = $first & 0x0f;
        if ($opcode == CLOSE) {
            ($self->{code}, $self->{reason}) = length $data ? unpack('na*', $data) : (1005, '');
            return undef;
        } elsif ($opcode == PING || $opcode == PONG) {
            push @{ $self->{ $opcode == PING ? 'pings' : 'pongs' } }, $data;
            next;
        }
        die "opcode $opcode within a message\n" if $open != ($opcode == MORE);
        $self->{binary} = $opcode == BINARY unless $open;
        $self->{compressed} = $first & RSV1 unless $open;
        $open = 1;
        $text .= $data;
        return $text if $first & FIN;
    }
    @$self{qw(code reason)} = (1006, '');
    return undef;
}

# Of /ws, docs/websocket.md: says a message, and hears the next event.
my @said; # lines of fits_schema.py

sub say {
    my ($self, %message) = @_;
    my $text = JSON::PP->new->utf8->canonical->encode(\%message);

    push @said, "message\t$text\n";
    return $self->text($text);
}

sub event {
    my ($self) = @_;
    my $text = $self->message;

    return undef unless defined $text;
    push @said, "event\t$text\n";
    return JSON::PP::decode_json($text);
}

# What of all that was said and heard, or of these lines, is not as docs/websocket.schema.json
# has it.
sub misfits {
    my @lines = @_ ? @_ : @said;
    my $out = File::Temp->new;

    # another python3 may come first in the path, but Debian's has what deps/test.txt installs
    open(my $to, '|-', "/usr/bin/python3 t/lib/fits_schema.py docs/websocket.schema.json >$out 2>&1") or die "python3: $!\n";
    print $to @lines;
    CORE::close($to) or print $out "fits_schema.py: exit $?\n";
    return do { local (@ARGV, $/) = "$out"; <> } // '';
}

# The code of the server's Close; what comes before it is read over.
sub closed {
    my ($self) = @_;

    1 while defined $self->message;
    return $self->{code};
}

# Whether the server ends the connection, too.
sub ended {
    my ($self) = @_;

    return !$self->next_frame;
}

1;
