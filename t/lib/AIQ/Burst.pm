package AIQ::Burst;

# The same request many times at once, each on a connection of its own.
#
#     my %status = AIQ::Burst::run(\@ports, 1000, $request);    # (200 => 100, 402 => 900)
#
# $request: all of its bytes, with "Connection: close". Requests go to the ports in
# turn. A connection that ends without a reply counts as status 0. $during, if given,
# is called once, when a tenth of the replies has come.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

sub run {
    my ($ports, $n, $request, $during) = @_;
    my $waiting = IO::Select->new;
    my (%reply, %status);
    my $done = 0;

    for my $i (0 .. $n - 1) {
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ports->[ $i % @$ports ], Proto => 'tcp')
            or die "connect: $!";
        syswrite($s, $request) == length $request or die "send: $!";
        $waiting->add($s);
        $reply{ fileno $s } = '';
    }
    my $end = time() + 180;
    while ($waiting->count) {
        die $waiting->count . " requests are without a reply\n" if time() > $end;
        for my $s ($waiting->can_read(1)) {
            next if sysread($s, $reply{ fileno $s }, 65536, length $reply{ fileno $s });
            $status{ $reply{ fileno $s } =~ m{^HTTP/1\.1 (\d+)} ? $1 : 0 }++;
            $waiting->remove($s);
            close($s);
            $done++;
        }
        if ($during && $done >= $n / 10) {
            $during->();
            undef $during;
        }
    }
    return %status;
}

1;
