package AIQ::Reader;

# A reader of a guaranteed stream who comes back as often as it is cut off, by the number of
# the last event that it has.
#
#     my $r = AIQ::Reader->new($t, model => 'chat');
#     $r->read(5);    # so many events
#     …               # what cuts it off
#     $r->read;       # the rest
#     is($r->again, $r->text);

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(time);

sub new {
    my ($class, $t, %arg) = @_;
    my $self = bless { t => $t, text => '', in => '', port => $arg{port} // 0 }, $class;
    my $c = $self->{c} = $t->connect(port => $self->{port});

    $c->request('POST', $arg{path} // '/v1/chat/completions',
        headers => [ 'X-AIQ-QoS' => 'guaranteed', @{ $arg{headers} // [] } ],
        body => $arg{path} && $arg{path} =~ /responses/
            ? JSON::PP::encode_json({ model => $arg{model}, input => 'hi', stream => JSON::PP::true })
            : $t->chat($arg{model}, 'hi', stream => JSON::PP::true, %{ $arg{body} // {} }));
    my $head = $c->head;
    $self->{id} = $head->{headers}{'x-aiq-stream'} or die "no stream: $head->{status}\n";
    return $self;
}

# One that somebody else has asked for.
sub follow {
    my ($class, $t, $id) = @_;

    return bless { t => $t, id => $id, text => '', in => '', port => 0 }, $class;
}

sub id { return $_[0]{id} }

# What has come, whole numbered events alone.
sub text { return $_[0]{text} }
sub events { return $_[0]{text} =~ /(.*?\n)\n/sg }
sub ids { return [ $_[0]{text} =~ /^id: (\d+)$/mg ] }

sub cut {
    my ($self) = @_;

    $self->{c}->close if $self->{c};
    $self->{c} = undef;
}

sub _take {
    my ($self, $piece) = @_;

    $self->{in} .= $piece;
    while ($self->{in} =~ s/\A(.*?\n)\n//s) {
        my $event = $1 =~ s/^:.*\n//mgr;
        $event =~ s/\Aretry: \d+\n// if $self->{text} ne '';    # each time that one comes back
        $self->{text} .= "$event\n" if $event =~ /^id: \d/m;    # not that it was cut off
    }
}

# False: there is nothing more.
sub _come_back {
    my ($self) = @_;
    my ($last) = reverse @{ $self->ids };
    my $c = eval { $self->{t}->connect(port => $self->{port}) };
    my $head = eval {
        $c->request('GET', "/v1/streams/$self->{id}",
            headers => [ Accept => 'text/event-stream', $last ? ('Last-Event-ID' => $last) : () ]);
        $c->head;
    };

    $self->{in} = '';
    return 0 if $head && $head->{status} == 204;
    if ($head && $head->{status} == 200) {
        $self->{c} = $c;
        return 1;
    }
    die "stream $self->{id}: $head->{status}\n" if $head && $head->{status} =~ /^4/;
    select(undef, undef, undef, 0.05);
    return 1;
}

# Until so many events are there, or to the end.
sub read {
    my ($self, $most) = @_;
    my $end = time() + ($ENV{AIQ_VALGRIND} ? 600 : 90);

    while (!defined $most || @{ $self->ids } < $most) {
        die "stream $self->{id}: " . @{ $self->ids } . " events and no end\n" if time() > $end;
        if (!$self->{c}) {
            $self->_come_back or return;
            $self->{in} = '';
            next;
        }
        my $piece = eval { $self->{c}->piece };
        defined $piece ? $self->_take($piece) : $self->cut;
    }
}

# All of it, read once more.
sub again {
    my ($self) = @_;
    my $r = $self->{t}->get("/v1/streams/$self->{id}", port => $self->{port}, headers => [ Accept => 'text/event-stream' ]);

    return $r->{body};
}

1;
