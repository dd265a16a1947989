package AIQ::Load;

# Requests in the background, in processes of their own, until finish(): what a
# fault test runs its fault under.
#
#     my $load = AIQ::Load->new($t, clients => 4, path => '/echo', body => 'x' x 1000);
#     $load->wait_for_requests(100);
#     ...
#     my $r = $load->finish;    # {ok, late, refused, lost, wrong, first_wrong, longest}
#
# lost: the connection was closed or refused before the first byte of a reply.
# late: a second passed without a link to the engine, as it may on a machine that is busy: 503.
# refused: the same at once, for those who come after that second. Wrong, if no request took one:
# it may be the worker that stood still, and the first who comes then does not wait any more.
# wrong: another reply than 200 with the same body, or a part of one.

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(time);

use AIQ::HTTP;

sub new {
    my ($class, $t, %arg) = @_;
    my $self = bless { t => $t, children => [], %arg }, $class;

    pipe(my $stop_read, my $stop_write) or die "pipe: $!";
    for my $i (1 .. $arg{clients} // 4) {
        pipe(my $read, my $write) or die "pipe: $!";
        my $pid = fork() // die "fork: $!";
        if ($pid == 0) {
            close($stop_write);
            $SIG{INT} = $SIG{TERM} = 'DEFAULT';
            my $result = eval { $self->_client($stop_read, $write) } // { error => "$@" };
            syswrite($write, "\n" . JSON::PP::encode_json($result) . "\n");
            POSIX::_exit(0);
        }
        close($write);
        push @{ $self->{children} }, { pid => $pid, read => $read, done => 0 };
    }
    close($stop_read);
    $self->{stop} = $stop_write;
    return $self;
}

# One client: a dot a finished request, then its counts.
sub _client {
    my ($self, $stop, $out) = @_;
    my %n = (ok => 0, late => 0, refused => 0, lost => 0, wrong => 0, longest => 0);
    my $stopped = IO::Select->new($stop);
    my $port = $self->{t}->port($self->{port} // 0);
    my $c;

    until ($stopped->can_read(0)) {
        my $begun = time();
        my $reply = eval {
            $c //= AIQ::HTTP->new($port, 20);
            $c->request('POST', $self->{path}, body => $self->{body}, headers => $self->{headers},
                close => !$self->{keepalive});
            $c->response;
        };
        my $error = $@;
        my $took = time() - $begun;

        $n{longest} = $took if $took > $n{longest};
        if (!$reply || $reply->{status} == 0) {
            $n{lost}++;
            $n{first_lost} //= $error || 'closed before the reply';
            undef $c;
            select(undef, undef, undef, 0.01);    # a refused port is not hammered
            next;
        }
        my $right = $reply->{status} == 200 && !$reply->{cut}
            && ($self->{any_body} || $reply->{body} eq ($self->{expect} // $self->{body}));
        my $refused = $reply->{status} == 503 && $reply->{body} =~ /"engine_unavailable"/;
        $n{ $right ? 'ok' : !$refused ? 'wrong' : $took >= 1 ? 'late' : 'refused' }++;
        $n{first_wrong} //= "$reply->{status} " . ($reply->{cut} ? 'cut ' : '')
            . substr($reply->{body}, 0, 200) unless $right;
        select(undef, undef, undef, 0.01) if $refused;
        undef $c if !$self->{keepalive} || ($reply->{headers}{connection} // '') =~ /close/i;
        syswrite($out, '.');
    }
    return \%n;
}

sub _read {
    my ($self, $child) = @_;

    my $n = sysread($child->{read}, my $bytes, 65536);
    if (!$n) {
        $child->{done} = 1;
        return;
    }
    $child->{text} .= $bytes;
    $child->{requests} = ($child->{text} =~ tr/././);
}

# Until that many more requests than now are finished.
sub wait_for_requests {
    my ($self, $n) = @_;
    my $count = sub {
        my $sum = 0;
        for my $child (@{ $self->{children} }) {
            while (!$child->{done} && IO::Select->new($child->{read})->can_read(0)) {
                $self->_read($child);
            }
            $sum += $child->{requests} // 0;
        }
        return $sum;
    };
    my $goal = $count->() + $n;

    $self->{t}->wait_for(sub { $count->() >= $goal }, 60, "$n requests under load");
}

sub finish {
    my ($self) = @_;
    my %sum = (ok => 0, late => 0, refused => 0, lost => 0, wrong => 0, longest => 0);

    syswrite($self->{stop}, 'x');    # not its end: a later load's clients hold it open
    close($self->{stop});
    for my $child (@{ $self->{children} }) {
        $self->_read($child) until $child->{done};
        waitpid($child->{pid}, 0);
        my ($json) = $child->{text} =~ /\n(.*)\n\z/s or die "a client died";
        my $r = JSON::PP::decode_json($json);
        die $r->{error} if $r->{error};
        $sum{$_} += $r->{$_} for qw(ok late refused lost wrong);
        $sum{longest} = $r->{longest} if $r->{longest} > $sum{longest};
        $sum{$_} //= $r->{$_} for qw(first_wrong first_lost);
    }
    $sum{wrong} += $sum{refused} unless $sum{longest} >= 1;
    return \%sum;
}

1;
