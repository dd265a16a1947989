# Reading a topic: as events and as JSON, from now, from anywhere, by several, and after a
# cut: no gap, no repeat.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/topics/ { aiq_pass events; }
    }', workers => 2);
$t->start;

sub as { return (Authorization => 'Bearer ' . $key->token(sub => 'ann', tenant => $_[0], role => $_[1] // 'admin')) }
my @acme = as('acme');

sub say_it {
    my ($name, $data, @as) = @_;
    return $t->json($t->post("/v1/topics/$name", "{\"type\":\"t\",\"data\":$data}", headers => [ @as ? @as : @acme ]))->{seq};
}

sub follow {
    my ($name, %arg) = @_;
    my $c = $t->connect;
    $c->request('GET', "/v1/topics/$name" . ($arg{args} ? "?$arg{args}" : ''), headers => [
        $arg{as} ? @{ $arg{as} } : @acme, Accept => 'text/event-stream',
        $arg{last} ? ('Last-Event-ID' => $arg{last}) : () ]);
    is($c->head->{status}, 200, "$name is read");
    return $c;
}

# The next frame: its fields by name.
sub frame {
    my ($c) = @_;
    my %field;
    for (;;) {
        my $line = frame_line($c);
        return if !defined $line;
        return \%field if $line eq '' && %field;
        $field{$1} = $2 if $line =~ /^(\w+): (.*)/;
    }
}

sub frame_line {
    my ($c) = @_;
    until ($c->{text} && $c->{text} =~ /\n/) {
        $c->{text} .= $c->piece // return;
    }
    $c->{text} =~ s/^(.*)\n//;
    return $1;
}

# From now.
my $first = say_it('news', 1);
my $c = follow('news');
my $state = frame($c);
is_deeply([ @$state{qw(retry event id)} ], [ 2000, 'state', $first ], 'the first event says where it is');
is_deeply($t->json({ body => $state->{data} }), { topic => 'news', seq => $first }, 'and what');
say_it('news', 2);
my $frame = frame($c);
my $event = $t->json({ body => $frame->{data} });
is_deeply([ $frame->{id}, @$event{qw(seq type data)} ], [ $first + 1, $first + 1, 't', 2 ], 'then come events');

# From anywhere.
for my $arg ([ args => "after=$first" ], [ last => $first ], [ args => 'after=0', last => $first ]) {
    my $c = follow('news', @$arg);
    is(frame($c)->{id}, $first + 1, "@$arg");
}
is(frame(follow('news', args => 'after=0'))->{id}, $first, 'all that there is');

# Who was cut off before the first event.
$c = follow('quiet');
my $last = frame($c)->{id};
$c->close;
say_it('quiet', 3);
is($t->json({ body => frame(follow('quiet', last => $last))->{data} })->{data}, 3, 'nothing is lost between two connections');

# Polling.
my $page = $t->json($t->get('/v1/topics/news', headers => [@acme]));
is_deeply([ @$page{qw(data next)} ], [ [], $first + 1 ], 'JSON, from now');
my $wait = $t->connect;
$wait->request('GET', "/v1/topics/news?after=$page->{next}&wait=20s", headers => [@acme]);
say_it('news', 4);
$page = $t->json($wait->response);
is_deeply([ map { $_->{data} } @{ $page->{data} } ], [4], 'who waits gets the next');
is($page->{truncated}, undef, 'and no more than that');

# A number of another time.
$page = $t->json($t->get('/v1/topics/news?after=5', headers => [@acme]));
ok($page->{truncated}, 'what is not kept is said to be missing');
is_deeply([ map { $_->{data} } @{ $page->{data} } ], [ 1, 2, 4 ], 'before what is kept');
$c = follow('news', last => 5);
is(frame($c)->{event}, 'stream_truncated', 'as an event, too');
is(frame($c)->{id}, $first, 'which does not end it');

# Several readers of one piece, one of whom reads nothing.
my @readers = map { follow('many') } 1 .. 40;
frame($_) for @readers[ 1 .. 39 ];
my @said = map { say_it('many', "\"$_\"") } 1 .. 20;
for my $reader (@readers[ 1 .. 39 ]) {
    my @got = map { frame($reader)->{id} } @said;
    is_deeply(\@got, \@said, 'a reader has them all');
}

# Whose it is.
say_it('news', 9);
$c = follow('news', as => [ as('bolt') ]);
frame($c);
say_it('news', 7);
say_it('news', 8, as('bolt'));
is($t->json({ body => frame($c)->{data} })->{data}, 8, "another tenant's topic is another");
is($t->get('/v1/topics/news')->{status}, 401, 'not for nobody');
is($t->get('/v1/topics/aiq.admin.providers', headers => [ as('acme', $_->[0]) ])->{status}, $_->[1],
    "an admins' topic for: $_->[0]") for [ 'developer', 403 ], [ 'admin', 200 ];
is($t->get('/v1/topics/a%20b', headers => [@acme])->{status}, 404, 'no name');
is($t->get("/v1/topics/news?after=x", headers => [@acme])->{status}, 400, 'no number');

$t->finish;
done_testing();
