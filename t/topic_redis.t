# Topics of two engines that share Redis: what is published at one is read at both, with the same
# numbers, and who is cut off goes on at either; Redis killed, nothing can be published, and who
# reads stays; it has forgotten all when it is back, and readers hear of the gap.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Redis;
use AIQ::Test;

my ($here, $there) = (AIQ::Test->new, AIQ::Test->new);
my $redis = AIQ::Redis->new($here) or plan skip_all => 'no Redis here';

my $key = AIQ::JWT->new('EdDSA');
my @me = (Authorization => 'Bearer ' . $key->token(sub => 'ann', tenant => 'acme:', role => 'admin'));

for my $t ($here, $there) {
    $t->write_file('jwks.json', AIQ::JWT::set($key));
    $t->{engine_args} = [ '--redis', $redis->url, '--loops', 2 ];
    $t->conf('
        server {
            listen 127.0.0.1:%%PORT_0%%;
            aiq_jwt_key_file %%DIR%%/jwks.json;
            location /v1/topics/ { aiq_jwt api; aiq_pass events; }
        }');
    $t->start;
}

sub post { my ($t, $name, $data) = @_; return $t->post("/v1/topics/$name", "{\"type\":\"t\",\"data\":$data}", headers => \@me) }
sub page { my ($t, $path) = @_; return $t->json($t->get("/v1/topics/$path", headers => \@me)) }

# Redis may be slow to answer where others are at work on the machine: then once more, and both may
# be published.
my $late = 0;
sub say_it {
    my ($t, $name, $data) = @_;
    my $r;

    $t->wait_for(sub { ($r = post($t, $name, $data))->{status} == 202 || ($late++ && 0) }, 20, "$data is published");
    return $t->json($r)->{seq};
}

# All of it again, with other topics, until nothing was published twice.
sub once {
    my ($do) = @_;
    my $n = 0;

    $here->wait_for(sub { $late = 0; $do->($n++); return !$late }, 20, 'all is published once');
}
sub follow {
    my ($t, $name, $last) = @_;
    my ($c, $head);
    $t->wait_for(sub {
        $c = $t->connect;
        $c->request('GET', "/v1/topics/$name", headers => [ @me, Accept => 'text/event-stream', defined $last ? ('Last-Event-ID' => $last) : () ]);
        ($head = $c->head)->{status} == 200;
    }, 20, "$name is read");
    return $c;
}

# The next event's id, name and data.
sub event {
    my ($c) = @_;
    my %field;
    for (;;) {
        until ($c->{text} && $c->{text} =~ /\n/) { $c->{text} .= $c->piece // return }
        $c->{text} =~ s/^(.*)\n//;
        my $line = $1;
        return \%field if $line eq '' && defined $field{data};
        $field{$1} = $2 if $line =~ /^(\w+): (.*)/;
    }
}
sub data_of { my ($e) = @_; return $e->{data} =~ /"data":(\d+)/ ? $1 : $e->{event} }

# What the next event says that does not say the same as the last one.
sub next_of {
    my ($c) = @_;
    my $data;

    do { $data = data_of(event($c)) } while $data eq ($c->{said} // '');
    return $c->{said} = $data;
}
# The same numbers everywhere.
my ($news, $reader_a, $reader_b, @state, @seq);
once(sub {
    $news = "news$_[0]";
    ($reader_a, $reader_b) = map { follow($_, $news) } $here, $there;
    @state = map { event($_)->{id} } $reader_a, $reader_b;
    @seq = map { say_it($_ % 2 ? $here : $there, $news, $_) } 1 .. 20;
});
is($state[0], $state[1], 'both begin at the same number');
is_deeply(\@seq, [ map { $state[0] + $_ } 1 .. 20 ], 'numbers follow each other, whoever publishes');
for my $c ($reader_a, $reader_b) {
    my @events = map { event($c) } 1 .. 20;
    is_deeply([ map { data_of($_) } @events ], [ 1 .. 20 ], 'all is read, in order');
    is_deeply([ map { $_->{id} } @events ], \@seq, 'by these numbers');
    $c->{said} = 20;
}

# Who is cut off goes on anywhere; an engine that has never seen the topic knows it.
$reader_b->close;
say_it($here, $news, 21);
$reader_b = follow($there, $news, $seq[17]);
is_deeply([ map { next_of($reader_b) } 1 .. 3 ], [ 19, 20, 21 ], 'on from there, at the other engine');
my ($topic, $old);
once(sub {
    $topic = "old$_[0]";
    $old = say_it($here, $topic, 1);
    say_it($here, $topic, 2);
});
my $page = page($there, "$topic?after=$old");
is_deeply([ map { $_->{data} } @{ $page->{data} } ], [2], 'what was said before the engine knew of it');
is($page->{next}, $old + 1, 'and how far it is');

# Others' topics stay theirs.
say_it($here, 'other', 99);
say_it($there, $news, 22);
is(next_of($reader_a), 21, 'a reader gets those of its topic');
is(next_of($reader_a), 22, 'alone');
is(next_of($reader_b), 22, 'at both');
# Many at once from both.
my @many = map { [ $_, ($_ % 2 ? $here : $there)->connect ] } 1 .. 60;
$_->[1]->request('POST', '/v1/topics/many', headers => \@me, body => qq({"type":"t","data":$_->[0]})) for @many;
my %by_seq;
for (@many) {
    my $r = $_->[1]->response;
    $by_seq{ $here->json($r)->{seq} } = $_->[0] if $r->{status} == 202;
}
my ($first) = sort { $a <=> $b } keys %by_seq;
my @pages;
my $log = JSON::PP->new->canonical;
ok($here->wait_for(sub {
    @pages = map { page($_, 'many?after=' . ($first - 1)) } $here, $there;
    return @{ $pages[0]{data} } >= keys %by_seq && $log->encode($pages[0]{data}) eq $log->encode($pages[1]{data});
}, 10, 'the same log'), 'published at once: the same log at both');
my %read = map { $_->{seq} => $_->{data} } @{ $pages[0]{data} };
is(scalar(grep { $read{$_} != $by_seq{$_} } keys %by_seq), 0, 'by the numbers that the publishers were told');

# Redis killed.
$here->kill_hard('redis');
my $r = post($here, $news, 23);
is($r->{status}, 503, 'Redis away: nothing is published');
is($here->json($r)->{error}{code}, 'topics_unavailable', 'and that is said');
$redis->start;
my $after = say_it($there, $news, 24);
cmp_ok($after, '>', $seq[-1] + 2, 'back, and empty: numbers do not come again');
for my $c ($reader_a, $reader_b) {
    my $e = event($c);
    is($e->{event}, 'stream_truncated', 'who reads is told of the gap');
    is(next_of($c), 24, 'and reads on');
}
say_it($here, $news, 25);
is(next_of($_), 25, 'as before') for $reader_a, $reader_b;
$_->stop_all for $there;
$here->stop('engine');
$here->kill_hard('redis');
$_->finish for $there, $here;
done_testing();
