package AIQ::FakeEngine;

# fake_engine.c in the engine's place: what the module must stand, and a look
# at what it sends.
#
#     my $e = AIQ::FakeEngine->new($t);
#     $e->start;                     # or start('unsealed'), see fake_engine.c
#     $t->get('/x/error');           # the path says how it answers
#     $e->wait_for(qr/^CANCEL /m);

use strict;
use warnings;

use AIQ::Command;
use Digest::SHA qw(sha256_hex);

sub new {
    my ($class, $t) = @_;
    my $program = $t->dir . '/fake_engine';
    my $root = $AIQ::Test::ROOT;
    my $r = run([ $ENV{CC} // 'cc', '-D_GNU_SOURCE', "-I$root/engine/include",
        "$root/t/lib/fake_engine.c", '-o', $program ]);

    die "fake_engine.c: $r->{err}" if $r->{status};
    return bless { t => $t, program => $program }, $class;
}

sub start {
    my ($self, $handshake) = @_;
    my $t = $self->{t};

    $self->{before} = $self->hellos;
    unlink $t->socket;
    $t->_spawn('engine', $t->dir . '/logs/fake_engine.log', $self->{program}, $t->socket,
        $handshake // 'ok');
    $t->wait_for(sub { -S $t->socket }, 10, 'the fake engine listens');
    return $self;
}

sub stop { return $_[0]{t}->stop('engine', 'KILL') }

# A new one, linked: what an accident of the last one's may have broken is well again.
sub restart {
    my ($self, $handshake) = @_;

    $self->stop if $self->{t}->alive('engine');
    $self->start($handshake);
    $self->wait_for_hellos(1);
    return $self;
}

sub hellos {
    my ($self) = @_;
    my $n = () = $self->log =~ /^HELLO/mg;

    return $n;
}

# Until the worker has come so many times since the start.
sub wait_for_hellos {
    my ($self, $n) = @_;

    $self->{t}->wait_for(sub { $self->hellos - $self->{before} >= $n }, 10, 'the worker comes');
}

# What it knows of API keys from now on, and the epoch that it names: undef: none.
#
#     $e->keys(1, aiq_a => '200 -1 acme ann user key_1', aiq_b => 'hold');
sub keys {
    my ($self, $epoch, %key) = @_;
    my $file = $self->{t}->socket . '.keys';
    my $named = $epoch // 0;

    $self->{t}->write_file("$file.new", join('', defined $epoch ? "epoch $epoch\n" : (),
        map { sha256_hex($_) . " $key{$_}\n" } sort keys %key));
    rename("$file.new", $file) or die "$file: $!";
    return $self unless $self->{t}->alive('engine');
    $self->wait_for(qr/.*^EPOCH $named$(?!.*^EPOCH)/ms, "the epoch $named");
    return $self;
}

# How often it was asked for the key.
sub checks {
    my ($self, $key) = @_;
    my $hash = sha256_hex($key);
    my $n = () = $self->log =~ /^CHECK $hash$/mg;

    return $n;
}

sub log { return $_[0]{t}->read_file('logs/fake_engine.log') }

sub wait_for {
    my ($self, $pattern, $what) = @_;

    return $self->{t}->wait_for(sub { $self->log =~ $pattern }, 10, $what // "$pattern");
}

# What the last OPEN said: {location, method, body, uri, …, headers => {name => value}}.
sub last_open {
    my ($self) = @_;
    my ($first, @fields) = split /\n/, ($self->log =~ /.*^(OPEN .*?)(?=^\S|\z)/ms ? $1 : '');
    my %open = (headers => {}, map { split /=/, $_, 2 } grep { /=/ } split / /, $first // '');

    for (@fields) {
        my ($name, $value) = /^  (\w+)=(.*)$/ or next;

        if ($name eq 'header') {
            my ($n, $v) = $value =~ /^([^:]+): (.*)$/;
            $open{headers}{$n} = $v;
        } else {
            $open{$name} = $value;
        }
    }
    return \%open;
}

1;
