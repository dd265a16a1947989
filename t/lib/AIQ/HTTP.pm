package AIQ::HTTP;

# A client connection: plain enough to be rude, strict enough to notice.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

# seconds: how long a read waits for bytes; nothing fails for being slow.
sub new {
    my ($class, $port, $seconds) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp')
        or die "connect to port $port: $!";

    $socket->blocking(0);
    return bless { socket => $socket, in => '', seconds => $seconds // 60, eof => 0 }, $class;
}

sub socket { return $_[0]{socket} }
sub close  { close($_[0]{socket}) }

sub send {
    my ($self, $bytes) = @_;
    my $end = time() + $self->{seconds};
    my $writable = IO::Select->new($self->{socket});

    while (length $bytes) {
        die "send: timeout\n" if time() > $end;
        next unless $writable->can_write(0.2);
        my $n = syswrite($self->{socket}, $bytes);
        if (!defined $n) {
            next if $!{EAGAIN} || $!{EINTR};
            return 0;    # the peer has closed; what it said before is still to be read
        }
        substr($bytes, 0, $n) = '';
    }
    return 1;
}

# headers: a reference to pairs. chunks: a reference to pieces, sent chunked.
sub request {
    my ($self, $method, $path, %arg) = @_;
    my @headers = @{ $arg{headers} // [] };
    my $text = "$method $path HTTP/1.1\r\n";
    my $body = $arg{body};

    $text .= "Host: localhost\r\n" unless grep { lc($_) eq 'host' } @headers;
    while (my ($name, $value) = splice(@headers, 0, 2)) {
        $text .= "$name: $value\r\n";
    }
    $text .= "Connection: close\r\n" if $arg{close};
    if ($arg{chunks}) {
        $body = join('', map { sprintf("%x\r\n%s\r\n", length, $_) } @{ $arg{chunks} }) . "0\r\n\r\n";
        $text .= "Transfer-Encoding: chunked\r\n";
    } elsif (defined $body) {
        $text .= 'Content-Length: ' . length($body) . "\r\n";
        $text .= "Content-Type: application/json\r\n" unless $text =~ /^content-type:/mi;
    }
    return $self->send("$text\r\n" . ($body // ''));
}

# More bytes; 0 at the end. Dies when none come in time.
sub fill {
    my ($self, $seconds) = @_;
    my $end = time() + ($seconds // $self->{seconds});
    my $readable = IO::Select->new($self->{socket});

    return 0 if $self->{eof};
    for (;;) {
        my $left = $end - time();
        die "read: timeout\n" if $left <= 0;
        next unless $readable->can_read($left);
        my $n = sysread($self->{socket}, $self->{in}, 65536, length $self->{in});
        next if !defined $n && ($!{EAGAIN} || $!{EINTR});
        $self->{eof} = 1 unless $n;
        $self->{reset} = 1 unless defined $n;
        return $n // 0;
    }
}

sub line {
    my ($self) = @_;

    until ($self->{in} =~ /\n/) {
        $self->fill or return undef;
    }
    $self->{in} =~ s/^(.*?)\r?\n//s;
    return $1;
}

sub bytes {
    my ($self, $n) = @_;

    while (length($self->{in}) < $n) {
        $self->fill or return undef;
    }
    return substr($self->{in}, 0, $n, '');
}

# Status line and headers: {status, headers}; undef where the peer closed. 1xx are skipped.
sub head {
    my ($self) = @_;
    my ($status, %headers);

    do {
        my $first = $self->line // return undef;
        $first =~ m{^HTTP/1\.[01] (\d{3})} or die "not a status line: $first\n";
        $status = $1;
        %headers = ();
        while (defined(my $line = $self->line)) {
            last if $line eq '';
            my ($name, $value) = $line =~ /^([^:]+):\s*(.*?)\s*$/ or die "not a header: $line\n";
            $headers{ lc $name } = exists $headers{ lc $name } ? $headers{ lc $name } . ", $value" : $value;
        }
    } while ($status < 200);
    $self->{head} = { status => $status, headers => \%headers };
    return $self->{head};
}

# The next piece of the body as it comes: undef at its end. After head().
sub piece {
    my ($self) = @_;
    my $headers = $self->{head}{headers};

    if (($headers->{'transfer-encoding'} // '') =~ /chunked/i) {
        my $size = $self->line // return $self->_cut;
        $size =~ /^([0-9a-fA-F]+)/ or die "not a chunk: $size\n";
        my $n = hex $1;
        if ($n == 0) {
            $self->line;
            return undef;
        }
        my $data = $self->bytes($n) // return $self->_cut;
        $self->line;
        return $data;
    }
    if (defined $headers->{'content-length'}) {
        $self->{left} //= $headers->{'content-length'};
        if ($self->{left} == 0) {
            delete $self->{left};
            return undef;
        }
        if ($self->{in} eq '') {
            $self->fill or return $self->_cut;
        }
        my $data = substr($self->{in}, 0, $self->{left}, '');
        $self->{left} -= length $data;
        return $data;
    }
    if ($self->{in} eq '') {
        $self->fill or return undef;
    }
    return substr($self->{in}, 0, length($self->{in}), '');
}

# What is left of the body, to its end; with what event() has not come to.
sub rest {
    my ($self) = @_;
    my $text = delete $self->{events} // '';

    while (defined(my $data = $self->piece)) {
        $text .= $data;
    }
    return $text;
}

sub _cut {
    $_[0]{head}{cut} = 1;
    return undef;
}

# The whole reply: {status, headers, body, cut}. cut: it ended before it was whole.
sub response {
    my ($self, %arg) = @_;
    my $reply = $self->head // return { status => 0, headers => {}, body => '', cut => 1 };

    $reply->{body} = '';
    return $reply if ($arg{method} // '') eq 'HEAD' || $reply->{status} =~ /^(?:204|304)$/;
    $reply->{body} = $self->rest;
    return $reply;
}

# The next event of an event stream, its data lines joined; undef at the end. Comments are skipped.
sub event {
    my ($self) = @_;

    for (;;) {
        $self->{events} //= '';
        while ($self->{events} =~ s/^(.*?)\r?\n\r?\n//s) {
            my @data = map { /^data: ?(.*)$/ ? $1 : () } split /\r?\n/, $1;
            return join("\n", @data) if @data;
        }
        my $data = $self->piece // return undef;
        $self->{events} .= $data;
    }
}

1;
