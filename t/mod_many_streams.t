# More requests have something to do at once than a worker runs in a turn: all get all of their
# events, in order, and all of them their end, also where it is the engine's.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;

use constant MANY => 700;

my $t = AIQ::Test->new;
$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%% backlog=1024;
        location /echo/ { aiq_pass echo; }
    }');
$t->start;

sub open_all {
    my ($args) = @_;
    my @all = map { $t->connect } 1 .. MANY;

    $_->request('GET', "/echo/events?$args") for @all;
    $_->head for @all;
    return @all;
}
sub numbers {
    my ($c) = @_;
    my @numbers;

    while (defined(my $event = $c->event)) { push @numbers, $event =~ /"n":(\d+)/ ? $1 : $event }
    return @numbers;
}

my @all = open_all('count=40&every=2ms');
my %seen;
$seen{ join ' ', numbers($_) }++ for @all;
is_deeply(\%seen, { join(' ', 1 .. 40) => MANY }, 'each of them has each event once');
$_->close for @all;

@all = open_all('every=5ms');
$_->event for @all;
$t->kill_hard('engine');
my $told = 0;
for my $c (@all) {
    my @numbers = numbers($c);
    $told += "@numbers[0 .. $#numbers - 1]" eq join(' ', 2 .. @numbers) && $numbers[-1] =~ /engine_lost/;
}
is($told, MANY, 'each of them is told that the engine has gone, behind what it had');

$t->finish;
done_testing();
