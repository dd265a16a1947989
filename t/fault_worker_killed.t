# kill -9 of a worker: its jobs end in the engine at once, the provider's calls
# with them, and nginx's next worker goes on.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-stream-100000x100ms', 'mock-hang-headers', 'mock-chat') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /metrics { aiq_metrics; }
    }");
$t->expect_in_log(qr/exited on signal 9/);
$t->start;

my $worker = ($t->workers)[0];
my @streams = map { $t->connect } 1 .. 30;
my @waiting = map { $t->connect } 1 .. 30;

$_->request('POST', '/v1/chat/completions',
    body => $t->chat('mock-stream-100000x100ms', 'hi', stream => JSON::PP::true)) for @streams;
$_->event for map { $_->head; $_ } @streams;
$_->request('POST', '/v1/chat/completions', body => $t->chat('mock-hang-headers', 'hi')) for @waiting;
$t->wait_for(sub { $mock->stats->{open} == 61 }, 10, 'all requests at the provider');

kill('KILL', $worker);
ok(eval { $t->wait_for(sub { $mock->stats->{open} == 1 }, 10) }, 'the provider\'s calls end');
$t->wait_for(sub { my ($w) = $t->workers; $w && $w != $worker }, 10, 'a new worker');

my $metrics;
$t->wait_for(sub { ($metrics = $t->get('/metrics')->{body}) =~ /^aiq_engine_up 1$/m }, 10, 'the link of the new worker');
like($metrics, qr/^aiq_jobs_open 1$/m, 'the engine has no job left but the one that asks');
like($metrics, qr/^aiq_active_connections 0$/m, 'nor has nginx');
is($t->post('/v1/chat/completions', $t->chat('mock-chat', 'hi'))->{status}, 200, 'requests are served');

$t->finish;
done_testing();
