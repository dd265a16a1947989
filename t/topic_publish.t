# Publishing to a topic: who may, what an event is, what is refused.

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

my %as = map { $_ => [ Authorization => 'Bearer ' . $key->token(sub => 'ann', tenant => 'acme', role => $_) ] }
    qw(admin developer user viewer);

sub publish {
    my ($name, $body, $role) = @_;
    return $t->post("/v1/topics/$name", $body, headers => $as{ $role // 'developer' });
}

sub error { return $t->json($_[0])->{error} }

# What it is told, and what a reader gets.
my $before = time;
my $r = publish('news', "{\"data\": {\"a\":\n [1, \"\\u00e9\\n\"]},\r\n \"type\": \"a \\\"b\\\"\"}");
is($r->{status}, 202, 'an event is taken');
my $seq = $t->json($r)->{seq};
cmp_ok($seq, '>=', $before * 1e6, 'it has a number, of which the first is the time');
is($t->json(publish('news', '{"type":"t","data":null}'))->{seq}, $seq + 1, 'the next has the next');
my $page = $t->json($t->get('/v1/topics/news?after=0', headers => $as{viewer}));
my @all = @{ $page->{data} };
like($_->{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'it has its time') for @all;
delete $_->{timestamp} for @all;
is_deeply(\@all, [ { type => 'a "b"', data => { a => [ 1, "\x{e9}\n" ] }, seq => $seq },
                   { type => 't', data => undef, seq => $seq + 1 } ], 'any value comes through');
is_deeply([ @$page{qw(next done)} ], [ $seq + 1, JSON::PP::false ], 'and a topic does not end');

# Who may.
is(publish('news', '{"type":"t","data":1}', $_)->{status}, 403, "not a $_") for qw(user viewer);
is(publish('news', '{"type":"t","data":1}', 'admin')->{status}, 202, 'an admin may');
is($t->post('/v1/topics/news', '{}')->{status}, 401, 'nobody may not');
$r = publish('aiq.admin.budgets', '{"type":"t","data":1}', 'admin');
is($r->{status}, 403, "the engine's own topics are the engine's");
like(error($r)->{message}, qr/aiq\./, 'which is said');

# What is no event, and no topic.
for (['{"type":"t"}', 'data'], ['{"data":1}', 'type'], ['{"type":1,"data":1}', 'type'], ['{"type":"","data":1}', 'type'],
     [ '{"type":"' . 'x' x 65 . '","data":1}', 'type' ]) {
    $r = publish('news', $_->[0]);
    is($r->{status}, 400, "no event: $_->[0]");
    is(error($r)->{param}, $_->[1], 'names what');
}
is(publish('news', $_)->{status}, 400, "no event: $_")
    for '', '1', '[]', '{"type":"t","data":1', '{"type":"t","data":1,"more":2}', ' {"type":"t","data":1,"more":2}', '{"type":"t","type":"u","data":1}';
is(publish($_, '{"type":"t","data":1}')->{status}, 404, "no topic: $_") for 'a%20b', 'x' x 65, 'a/b';
is(publish('x' x 64, '{"type":"t","data":1}')->{status}, 202, 'the longest name');
is(publish('news', '{"type":"t","data":"' . 'x' x 65000 . '"}')->{status}, 202, 'a large event');
is(publish('news', '{"type":"t","data":"' . 'x' x 66000 . '"}')->{status}, 413, 'one that is too large');

# There is an end to them.
my %status;
my $refused;
for (1 .. 600) {
    $r = publish("topic.$_", q({"type":"t","data":1}));
    $status{ $r->{status} }++;
    $refused = $r if $r->{status} == 429;
}
is(join(' ', sort keys %status), '202 429', 'a tenant has only so many');
cmp_ok($status{202}, '>', 400, 'which are many');
is(error($refused)->{code}, "too_many_topics", "and is told why");

$t->finish;
done_testing();
