# The same request from many at the same time goes out once; and whatever becomes of
# that one, somebody goes on.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use IO::Select;
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2, '--drain', 0 ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    @{[ $mock->models(qw(mock-held-0 mock-held-2 mock-first-1-hang-headers mock-first-1-hang-mid
        mock-first-1-hang-headers-2 mock-first-2-400 mock-hang-headers)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        # who leaves, leaves at once
        location /v1/     { aiq_cache exact; aiq_stream_grace 0; aiq_abort_drain 0; aiq_pass gateway; }
        location /metrics { aiq_metrics; }
    }", workers => 2);
$t->start;

sub begin {
    my ($model, %more) = @_;
    my $c = $t->connect(seconds => 30);

    $c->request('POST', '/v1/chat/completions', body => $t->chat($model, 'hi', %more));
    return $c;
}

sub jobs { return $t->metric('aiq_jobs_open') - 1 }
sub wait_jobs { my ($n) = @_; $t->wait_for(sub { jobs() == $n }, 10, "$n jobs") }
sub asked { my ($model) = @_; return scalar grep { $_->{body} =~ /"\Q$model\E"/ } $mock->requests }

# The words of the cache, sorted, and the different bodies.
sub answers {
    my %bodies;
    my @words = sort map { $bodies{ $_->{body} }++; ($_->{headers}{'x-aiq-cache'} // '-') } map { $_->response } @_;

    return ("@words", scalar keys %bodies);
}
sub one_of { return join " ", ("HIT") x ($_[0] - 1), "MISS" }

# As a stream: who waits gets it whole, with the leader's ids.
my @all = map { begin('mock-held-0', stream => JSON::PP::true) } 1 .. 20;
wait_jobs(20);
$t->wait_for(sub { asked('mock-held-0') == 1 }, 10, 'one leads');
$mock->go;
is_deeply([ answers(@all) ], [ one_of(20), 1 ], 'twenty streams, one answer');
is(asked('mock-held-0'), 1, 'the provider was asked once');

# Who leads leaves.
for my $model (qw(mock-first-1-hang-headers mock-first-1-hang-mid)) {
    my %more = $model =~ /mid/ ? (stream => JSON::PP::true) : ();
    my $leader = begin($model, %more);
    $t->wait_for(sub { asked($model) == 1 }, 10, 'it leads');
    @all = map { begin($model, %more) } 1 .. 5;
    wait_jobs(6);
    is(asked($model), 1, "$model: the others wait");
    $leader->close;
    is_deeply([ answers(@all) ], [ one_of(5), 1 ], 'one of them leads then');
    is(asked($model), 2, 'and only one');
}

# Who leads gets an error: the next one asks, one after the other.
@all = map { begin('mock-first-2-400') } 1 .. 6;
my @status = sort map { $_->response->{status} } @all;
is("@status", '200 200 200 200 400 400', 'an error is for who asked');
is(asked('mock-first-2-400'), 3, 'one after the other');

# Some who wait leave; the leader's answer is for the rest.
my $model = 'mock-held-2';
@all = map { begin($model, stream => JSON::PP::true) } 1 .. 8;
$t->wait_for(sub { asked($model) == 1 }, 10, 'one leads');
wait_jobs(8);
# the first events are for the one alone who leads
my $leader = $t->wait_for(sub { (grep { IO::Select->new($_->socket)->can_read(0) } @all)[0] }, 10, 'its first events');
my @stay = ($leader, (grep { $_ != $leader } @all)[ 0 .. 2 ]);
for my $c (@all) {
    $c->close unless grep { $_ == $c } @stay;
}
wait_jobs(4);
$mock->go;
my ($words, $bodies) = answers(@stay);
is($bodies, 1, 'who stays gets the answer');
like($words, qr/HIT/, 'from the cache');

# All leave: nothing remains, and the next one is not stuck.
@all = map { begin('mock-first-1-hang-headers-2') } 1 .. 4;
wait_jobs(4);
$_->close for reverse @all;
wait_jobs(0);
my $r = begin('mock-first-1-hang-headers-2')->response;
is($r->{status}, 200, 'the next one is answered');

# The engine goes while requests wait for each other.
@all = map { begin('mock-hang-headers') } 1 .. 10;
wait_jobs(10);
is($t->stop('engine'), 0, 'the engine ends');
is($_->response->{status}, 503, 'and says so') for @all;

$t->finish;
done_testing();
