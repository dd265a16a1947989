package AIQ::Run;

# tools/run, what `make run` starts, as a person at a terminal sees it.
#
#     my $run = AIQ::Run->new($t, CONF => 'conf.examples/echo.conf');
#     $run->wait_for(qr/Ctrl-C stops both/);
#     is($run->stop, 0);
#
# Ports and folder are the test's own: PORT is port 0, METRICS_PORT port 1.

use strict;
use warnings;

use IO::Select;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(time);

use AIQ::Test;

sub new {
    my ($class, $t, %env) = @_;
    my $command = delete $env{command} // ["$AIQ::Test::ROOT/tools/run"];
    my $self = bless { t => $t, out => '', started => time() }, $class;

    %env = (PORT => $t->port(0), METRICS_PORT => $t->port(1), RUN_DIR => $t->dir . '/run', %env);
    pipe($self->{read}, my $write) or die "pipe: $!";
    $self->{pid} = fork() // die "fork: $!";
    if ($self->{pid} == 0) {
        setpgrp(0, 0);
        delete @ENV{ grep { /^(?:MAKE|MFLAGS)/ } keys %ENV };
        @ENV{ keys %env } = values %env;
        open(STDIN,  '<',  '/dev/null');
        open(STDOUT, '>&', $write);
        open(STDERR, '>&', $write);
        chdir($AIQ::Test::ROOT);
        exec(@$command) or POSIX::_exit(127);
    }
    close($write);
    $t->{children}{run} = $self->{pid};
    return $self;
}

sub out { return $_[0]{out} }

# Reads on until the output matches; false where the program ends before.
sub wait_for {
    my ($self, $pattern) = @_;
    my $end = time() + 120;
    my $readable = IO::Select->new($self->{read});

    while ($self->{out} !~ $pattern) {
        die "waited in vain for $pattern:\n$self->{out}" if time() > $end;
        $readable->can_read(1) or next;
        sysread($self->{read}, $self->{out}, 65536, length $self->{out}) or return 0;
    }
    return 1;
}

# Its exit status, once it has ended and closed its output.
sub ended {
    my ($self) = @_;

    $self->wait_for(qr/(?!)/);
    waitpid($self->{pid}, 0);
    delete $self->{t}{children}{run};
    return $? & 127 ? "signal $?" : $? >> 8;
}

sub stop {
    my ($self, $signal) = @_;

    kill($signal // 'INT', $self->{pid});
    return $self->ended;
}

# Ids of the processes with this name, or any, that have a file of its folder open.
sub processes {
    my ($self, $name) = @_;
    my $t = $self->{t};
    my $dir = $t->dir . '/run';
    my @found;

    for my $pid (map { m{/proc/(\d+)$} } glob('/proc/[0-9]*')) {
        next if $pid == $self->{pid};
        next if defined $name && $t->read_file("/proc/$pid/comm") ne "$name\n";
        push @found, $pid if grep { (readlink($_) // '') =~ /^\Q$dir\E\// } glob("/proc/$pid/fd/*");
    }
    @found = sort { $a <=> $b } @found;
    return @found;
}

1;
