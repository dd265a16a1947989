# conn=: so many requests at a time, on all workers; they end with their connections,
# and with their workers.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

# what is behind takes connections and never answers
my $behind = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100, Blocking => 0) or die $!;
my $port = $behind->sockport;

sub conf {
    my ($conn) = @_;

    $t->conf("
        aiq_limit_zone \$arg_k zone=open:1m conn=$conn;
        aiq_limit_zone \$arg_k zone=both:1m conn=1 rate=3r/d;
        aiq_limit_zone \$arg_k zone=day:1m rate=1r/d;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /slow/ { aiq_limit zone=open; proxy_pass http://127.0.0.1:$port; }
            location /echo/ { aiq_limit zone=open; aiq_pass echo; }
            location /both/ { aiq_limit zone=both; proxy_pass http://127.0.0.1:$port; }
            location /both/echo/ { aiq_limit zone=both; aiq_pass echo; }
            location /refused/ { aiq_limit zone=open; aiq_limit zone=day; aiq_pass echo; }
        }", workers => 2);
}

# Those of so many requests that get through, when each has or was refused; they stay open.
my @behind;
sub open_up {
    my ($path, $n) = @_;
    my ($through, @open) = (0);

    for (1 .. $n) {
        my $c = $t->connect;
        $c->request('GET', $path);
        push @open, $c;
    }
    $t->wait_for(sub {
        while (my $c = $behind->accept) {
            push @behind, $c;
            $through++;
        }
        @open = grep { !IO::Select->new($_->socket)->can_read(0) } @open;
        return @open <= $through;
    }, 20, "$n requests");
    return @open;
}
sub echo { return $t->post("/echo/?k=$_[0]", 'x')->{status} }
sub free_again { my ($k, $what) = @_; ok($t->wait_for(sub { echo($k) == 200 }, 20, $what), $what) }

conf(3);
$t->start;

# A request has its place until a moment after its reply: those before may have theirs still.
sub two_of_five {
    my ($key) = @_;
    my @open;

    eval {
        $t->wait_for(sub {
            $_->close for @open;
            @open = open_up("/slow/?k=$key", 5);
            return @open >= 2;
        }, 20);
    };
    return @open;
}

my @open = open_up('/slow/?k=a', 8);
is(scalar @open, 3, 'three at a time');
my $r = $t->post('/echo/?k=a', 'x');
is($r->{status}, 429, 'not one more');
is($t->json($r)->{error}{code}, 'concurrency_limit_exceeded', 'told apart from too many in a time');
is("$r->{headers}{'retry-after'} $r->{headers}{'retry-after-ms'}", '1 1000', 'when to try again');
ok(!exists $r->{headers}{'x-ratelimit-limit-requests'}, 'but not of how many in a time');
is(echo('b'), 200, 'another key');
is(echo('b'), 200, 'one after the other is no concurrency') for 1 .. 5;
pop(@open)->close;
free_again('a', 'a client that leaves makes room');

my $other = $t->connect;
$other->request('POST', '/both/echo/?k=c', body => 'x');
is($other->response->{status}, 200, 'a rate, too');
is($t->post('/refused/?k=d', 'x')->{status}, 200, 'a rate beside');
is($t->post('/refused/?k=d', 'x')->{status}, 429, 'which refuses') for 1 .. 5;
is(echo('d'), 200, 'holds no place of what it refused');

my ($one) = open_up('/both/?k=e', 1);
$r = $t->post('/both/echo/?k=e', 'x');
is($r->{status}, 429, 'a zone with both: one at a time');
$one->close;
$t->wait_for(sub { ($r = $t->post('/both/echo/?k=e', 'x'))->{status} == 200 }, 20, 'room') for 1, 2;
is($r->{headers}{'x-ratelimit-remaining-requests'}, 0, 'and what it refused is not in the rate');
is($t->post('/both/echo/?k=e', 'x')->{status}, 429, 'three in a time');
# a reload: requests of old workers count on
@open = (@open, open_up('/slow/?k=f', 3));
my %old = map { $_ => 1 } $t->workers;
conf(2);
$t->reload;
is(echo('f'), 429, 'after a reload the old ones count');
$_->close for @open;
free_again('f', 'until they end');
$t->wait_for(sub { !grep { $old{$_} } $t->workers }, 20, 'the old workers go');
@open = two_of_five('f');
is(scalar @open, 2, 'and the new number holds');

# kill -9
$t->expect_in_log(qr/worker process \d+ exited on signal 9/);
$t->expect_in_log(qr/shared memory zone .* was locked by/);
kill('KILL', $_) for $t->workers;
$t->wait_for_links(6);
free_again('f', 'a killed worker makes room');
@open = two_of_five('f');
is(scalar @open, 2, 'and no more than that');
$_->close for @open;

$t->finish;
done_testing;
