package AIQ::Postgres;

# A PostgreSQL server of a test, in the test's folder; see t/lib/postgres.sh.
#
#     my $pg = AIQ::Postgres->new($t) or plan skip_all => 'no PostgreSQL';
#     $t->start_engine(args => [ '--store', $pg->url ]);

use strict;
use warnings;

use AIQ::Test;

my @running;

sub new {
    my ($class, $t) = @_;
    my $self = bless { dir => $t->dir, owner => $$ }, $class;

    $self->_do('start') or return;
    push @running, $self;
    return $self;
}

sub _do {
    my ($self, $what) = @_;
    my $status = system("$AIQ::Test::ROOT/t/lib/postgres.sh", $what, $self->{dir}) >> 8;

    die "postgres.sh $what: $status" if $status != 0 && $status != 77;
    return $status == 0;
}

sub url { return "postgres://aiq@/postgres?host=$_[0]{dir}/pg" }

sub sql {
    my ($self, $sql) = @_;

    system('psql', '-q', '-d', $self->url, '-c', $sql) == 0 or die 'psql';
}

# kill -9, all of its processes.
sub kill_hard { return $_[0]->_do('kill') }
sub start     { return $_[0]->_do('start') }

# Before the test's folder goes.
sub stop {
    my ($self) = @_;

    @running = grep { $_ != $self } @running;
    return $self->_do('stop');
}

END {
    my $status = $?;

    $_->_do('stop') for grep { $_->{owner} == $$ } @running;
    $? = $status;
}

1;
