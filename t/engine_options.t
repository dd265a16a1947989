# What aiq-engine says to a person: help, version, and one clear line for each
# mistake.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my $dir = $t->dir;

# Runs the engine to its end: (exit status, stdout, stderr).
sub engine {
    my @args = @_;
    my ($out, $err) = ("$dir/out", "$dir/err");
    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        open(STDOUT, '>', $out);
        open(STDERR, '>', $err);
        exec $t->binary('aiq-engine'), @args or POSIX::_exit(127);
    }
    local $SIG{ALRM} = sub { kill 'KILL', $pid };
    alarm 30;
    waitpid($pid, 0);
    my $status = $?;
    alarm 0;
    return ($status >> 8, $t->read_file('out'), $t->read_file('err'));
}

# One line, this exit status, these words.
sub refuses {
    my ($name, $expected, $pattern, @args) = @_;
    my ($status, $out, $err) = engine(@args);

    subtest $name => sub {
        is($status, $expected, "exit status $expected");
        is($out, '', 'nothing on stdout');
        like($err, $pattern, 'says what is wrong');
        is($err =~ tr/\n//, 1, 'in one line') or diag($err);
    };
}

my ($status, $out, $err) = engine('--help');
is($status, 0, '--help succeeds');
is($err, '', 'and speaks on stdout');
like($out, qr/\Q$_\E\b/, "--help names $_")
    for map { "--$_" } qw(socket socket-group drain store models secrets cache-size stream-memory redis loops device kernels spin-us
        log-level version help);
cmp_ok(length((sort { length $b <=> length $a } split /\n/, $out)[0]), '<=', 90, 'lines fit a terminal');

($status, $out) = engine('--version');
is($status, 0, '--version succeeds');
like($out, qr/^aiq-engine \d+\.\d+\.\d+\n\z/, 'and is one line');

my @socket = ('--socket', "$dir/e.sock");

refuses('no socket',           2, qr/--socket PATH is missing/);
refuses('loops not a number',  2, qr/--loops takes a number from 1 to 64/,    @socket, '--loops', 'x');
refuses('too many loops',      2, qr/--loops takes/,                          @socket, '--loops', 65);
refuses('no loops',            2, qr/--loops takes/,                          @socket, '--loops', 0);
refuses('a negative number',   2, qr/--drain takes/,                          @socket, '--drain', -1);
refuses('a size that is none',  2, qr/--cache-size takes a size/,  @socket, '--cache-size', $_) for qw(x 1x 1kk -1 2000g 99999999999999999999);
refuses('an endless spin',     2, qr/--spin-us takes a number from 0 to 1000/, @socket, '--spin-us', 1e6);
refuses('a wrong level',       2, qr/--log-level takes debug, info, warn or error/, @socket, '--log-level', 'loud');
refuses('no list of devices',  2, qr/--device takes a list such as cuda:0,cuda:1, not cuda:x/, @socket, '--device', 'cuda:x');
refuses('no folder of kernels', 2, qr/--kernels: \/nowhere is no folder/, @socket, '--kernels', '/nowhere');
refuses('models in a file',    2, qr{--models: /etc/passwd is no folder},     @socket, '--models', '/etc/passwd');
refuses('secrets nowhere',     2, qr{--secrets: \S+/none is no folder},       @socket, '--secrets', "$dir/none");
refuses('a stray word',        2, qr/what is "extra"\?/,                      @socket, 'extra');

refuses('a socket nowhere',    1, qr{/none/e\.sock.*No such file},
    '--socket', "$dir/none/e.sock", '--store', "sqlite:$dir/a.db");
refuses('a path too long',     1, qr/the path of --socket is too long/,
    '--socket', "$dir/" . 'x' x 120, '--store', "sqlite:$dir/a.db");
refuses('an unknown group',    1, qr/there is no group "nobody-has-this"/,
    @socket, '--store', "sqlite:$dir/a.db", '--socket-group', 'nobody-has-this');
refuses('an unknown store',    1, qr/--store takes sqlite:PATH/, @socket, '--store', 'mysql:x');
refuses('Redis with TLS',      1, qr/--redis .* TLS/, @socket, '--store', "sqlite:$dir/a.db", '--redis', 'rediss://localhost');
refuses('another Redis',       1, qr{--redis takes redis://}, @socket, '--store', "sqlite:$dir/a.db", '--redis', 'localhost:6379');
refuses('a store nowhere',     1, qr{none/a\.db}, @socket, '--store', "sqlite:$dir/none/a.db");

$t->write_file('e.sock', 'precious');
refuses('a file in the way',   1, qr{e\.sock exists and is no socket}, @socket, '--store', "sqlite:$dir/a.db");
is($t->read_file('e.sock'), 'precious', 'which stays as it was');

ok(!(grep { -S } glob("$dir/e.sock.*")), 'no socket is left beside');

$t->finish;
done_testing();
