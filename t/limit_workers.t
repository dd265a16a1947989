# Many at once, on several workers: never more than the limit, and never less; counts
# outlive a reload.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use Time::HiRes qw(time);
use AIQ::Test;

my $t = AIQ::Test->new;

sub conf {
    my ($rate) = @_;

    $t->conf("
        aiq_limit_zone \$arg_k zone=day:1m rate=${rate}r/d;
        aiq_limit_zone \$arg_k zone=second:1m rate=20r/s;
        aiq_limit_zone \$arg_w zone=user:1m rate=7r/s;
        aiq_limit_log_level info;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /day/ { aiq_limit zone=day; proxy_pass http://127.0.0.1:%%PORT_1%%; }
            location /second/ { aiq_limit zone=second; aiq_limit zone=user; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        }
        server { listen 127.0.0.1:%%PORT_1%%; location / { return 200; } }", workers => 4, log_level => 'warn');
}

# Clients that ask one request after the other; when those that passed were asked and answered.
sub load {
    my ($path, $clients, $enough) = @_;
    my (@pids, @passed);

    for my $client (1 .. $clients) {
        my $pid = fork() // die $!;
        push @pids, $pid and next if $pid;
        my ($asked, $passed, $start) = (0, '', time());
        my $c;
        until ($enough->($asked++, time() - $start)) {
            # another connection now and then, for another worker
            $c = $t->connect if $asked % 8 == 1;
            my $from = time();
            $c->request('GET', "$path&w=" . $client % 5);
            my $status = $c->response->{status};
            $passed .= sprintf("%.6f %.6f\n", $from, time()) if $status == 200;
            $passed .= "wrong $status\n" unless $status == 200 || $status == 429;
        }
        $t->write_file("passed.$client", $passed);
        POSIX::_exit(0);
    }
    waitpid($_, 0) for @pids;
    push @passed, map { [ split / / ] } split /\n/, $t->read_file("passed.$_") for 1 .. $clients;
    return sort { $a->[0] cmp $b->[0] } @passed;
}

conf(150);
$t->start;

my @passed = load('/day/?k=a', 6, sub { $_[0] == 60 });
is(scalar @passed, 150, 'of 360 at once exactly as many as the limit');

my %old = map { $_ => 1 } $t->workers;
conf(170);
$t->reload;
$t->wait_for(sub { !grep { $old{$_} } $t->workers }, 20, 'the old workers go');
@passed = load('/day/?k=a', 4, sub { $_[0] == 20 });
is(scalar @passed, 20, 'a reload forgets nothing, and takes the new rate');

@passed = load('/second/?k=a', 6, sub { $_[1] > 4 });
is(scalar(grep { $_->[0] eq 'wrong' } @passed), 0, 'no other errors');
cmp_ok(scalar @passed, '>=', 20, scalar(@passed) . ' passed in four seconds');

# asked after a time and answered before another: they were let through in between
my $most = 0;
for my $i (0 .. $#passed) {
    my $n = grep { $_->[1] < $passed[$i][0] + 1 } @passed[$i .. $#passed];
    $most = $n if $n > $most;
}
cmp_ok($most, '<=', 20, "never more than 20 in any second ($most)");

$t->finish;
done_testing;
