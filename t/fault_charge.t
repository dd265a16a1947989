# What is charged is due when whoever knows better is gone: kill -9 of a worker, of the
# engine, with requests that others serve; and many at once never spend too much.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::Admin;
use AIQ::Burst;
use AIQ::Test;

my $t = AIQ::Test->new;
my $silent = IO::Socket::INET->new(Listen => 100, LocalAddr => '127.0.0.1') or die $!;    # takes requests, says nothing

$t->conf("
    server {
        listen 127.0.0.1:%%PORT_0%% backlog=1024;
        aiq_charge 5tokens;
        location /held    { aiq_budget tenant 100tokens/month; proxy_pass http://127.0.0.1:@{[ $silent->sockport ]}; }
        location /burst   { aiq_budget tenant 600tokens/month; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /api/    { aiq_key all; aiq_pass control; }
        location /metrics { aiq_metrics; }
    }
    server { listen 127.0.0.1:%%PORT_1%% backlog=1024; location / { return 200 served; } }");
$t->expect_in_log(qr/exited on signal 9/);
$t->start;
my $root = AIQ::Admin->new($t)->json(qw(keys create --admin));

# (events, their tokens, what the budget says is spent)
sub books {
    my $usage = $t->json($t->get('/api/v1/usage', headers => AIQ::Admin::bearer($root->{key})));
    my $sum = $usage->{data}[0] // {};
    return ($sum->{requests} // 0, $sum->{tokens_in} // 0, $sum->{estimated} // 0);
}

sub settled {
    my ($events, $name) = @_;

    ok(eval { $t->wait_for(sub { $t->metric('aiq_engine_up') && (books())[0] == $events }, 20) }, $name);
    is((books())[1], 5 * $events, 'to the token');
}

sub held {
    my ($n) = @_;
    my @clients = map { $t->connect } 1 .. $n;

    $_->request('GET', '/held') for @clients;
    my @upstream = map { scalar $silent->accept } 1 .. $n;    # so many have passed
    return (\@clients, \@upstream);
}

my ($clients, $upstream) = held(8);
is((books())[0], 0, 'what is served is not settled');
my ($worker) = $t->workers;
kill('KILL', $worker);
$t->wait_for(sub { my ($w) = $t->workers; $w && $w != $worker }, 10, 'a new worker');
settled(8, 'a dead worker has served them, for all we know');

($clients, $upstream) = held(8);
$t->kill_hard('engine');
$t->start_engine;
$t->wait_for(sub { $t->metric('aiq_engine_up') }, 20, 'the engine is back');
settled(16, 'and so what a dead engine held');
is((books())[2], 8, 'which is marked');
syswrite($_, "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nlate") for @$upstream;
is($_->response->{body}, 'late', 'the requests go on') for @$clients;

($clients, $upstream) = held(4);
my $r = $t->get('/held');
is($t->json($r)->{error}{code}, "budget_reserved", "what is held and what is settled is all of the budget");
$t->reload;
syswrite($_, "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nlate") for @$upstream;
is($_->response->{body}, 'late', 'a reload leaves them alone') for @$clients;
$_->close for @$clients;
settled(20, 'and what they cost');

my %status;
my $request = "GET /burst HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
for my $kill (1, 2) {
    my %some = AIQ::Burst::run([ $t->port(0) ], 60, $request, sub { $t->kill_hard('engine') });
    $status{$_} += $some{$_} for keys %some;
    $t->start_engine;
    $t->wait_for(sub { $t->metric('aiq_engine_up') }, 20, 'the engine is back');
}
my %some = AIQ::Burst::run([ $t->port(0) ], 400, $request);
$status{$_} += $some{$_} for keys %some;
$t->wait_for_usage;
my ($events, $tokens) = books();
cmp_ok($tokens, '<=', 600, "$tokens of 600 tokens are spent");
cmp_ok($status{200}, '<=', $events - 20, "$status{200} are served, each is in the books");
cmp_ok($tokens, '>=', 595, 'and nothing of the budget is lost');

$t->finish;
done_testing;
