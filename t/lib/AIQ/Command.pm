package AIQ::Command;

# Runs a program and says what it did:
#
#     my $r = run([$aiq, 'tokenize', '--model', $file], in => 'text');
#     $r->{status}, $r->{out}, $r->{err}
#
# One that would not end by itself is ended once something is so:
#
#     run([ 'curl', $url ], until => sub { $_[0] =~ /what it has printed/ });

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp ();
use POSIX ();

our @EXPORT = qw(aiq run sanitized);

our $ROOT = abs_path(dirname(__FILE__) . '/../../..');

# The aiq command of this build.
sub aiq {
    my $build = $ENV{AIQ_BUILD_DIR} // 'build';

    return ($build =~ m{^/} ? $build : "$ROOT/$build") . '/aiq';
}

# Is this build a sanitizer's? It is slower, and its memory is not that of the program alone.
sub sanitized { return ($ENV{AIQ_BUILD_DIR} // '') =~ /sanitize/ }

sub slurp {
    my ($file) = @_;

    seek($file, 0, 0);
    local $/;
    return scalar <$file> // '';
}

sub run {
    my ($command, %arg) = @_;
    my %file = map { $_ => File::Temp->new } qw(in out err);

    binmode $_ for values %file;
    print { $file{in} } $arg{in} // '';
    $file{in}->flush;
    seek($file{in}, 0, 0);

    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open(STDIN, '<&', $file{in}) or die $!;
        open(STDOUT, '>&', $file{out}) or die $!;
        open(STDERR, '>&', $file{err}) or die $!;
        exec { $command->[0] } @$command or POSIX::_exit(127);
    }
    if ($arg{until}) {
        my $end = time() + 60;
        until (waitpid($pid, POSIX::WNOHANG()) || $arg{until}->(slurp($file{out})) || time() > $end) {
            select(undef, undef, undef, 0.01);
        }
        kill('TERM', $pid);
    }
    waitpid($pid, 0);
    my $status = $? & 127 ? -($? & 127) : $? >> 8;
    return { status => $status, out => slurp($file{out}), err => slurp($file{err}) };
}

1;
