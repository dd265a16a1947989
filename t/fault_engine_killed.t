# kill -9 of the engine under 200 streams: every client sees an error or the end
# at once, nginx stays up, and requests are served again when the engine is back.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);
use AIQ::Mock;
use AIQ::Test;

my $clients = $ENV{AIQ_VALGRIND} ? 20 : 200;
my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-stream-100000x100ms', 'mock-chat', 'mock-hang-headers') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
    }");
$t->start;

my $worker = ($t->workers)[0];
my @streams = map { $t->connect } 1 .. $clients;
my @waiting = map { $t->connect } 1 .. 10;

$_->request('POST', '/v1/chat/completions',
    body => $t->chat('mock-stream-100000x100ms', 'hi', stream => JSON::PP::true)) for @streams;
for my $c (@streams) {
    $c->head->{status} == 200 or die 'no stream';
    defined $c->event or die 'no event';
}
$_->request('POST', '/v1/chat/completions', body => $t->chat('mock-hang-headers', 'hi')) for @waiting;
$t->wait_for(sub { $mock->stats->{open} == $clients + @waiting + 1 }, 10, 'all requests at the provider');

$t->kill_hard('engine');
my $killed = time();

my %ends;
for my $c (@streams) {
    my $last;
    while (defined(my $event = $c->event)) {
        $last = $event;
    }
    my $error = $last && $t->json($last);
    $ends{ !$last ? 'nothing' : $last eq '[DONE]' ? 'done' : $error && $error->{error}
        ? "error $error->{error}{code}" : 'cut' }++;
}
is_deeply(\%ends, { 'error engine_lost' => $clients }, 'every stream ends with an error event')
    or diag explain \%ends;

my %replies;
for my $c (@waiting) {
    my $r = $c->response;
    $replies{ "$r->{status} " . ($t->json($r)->{error}{code} // '') }++;
}
is_deeply(\%replies, { '502 engine_lost' => scalar @waiting }, 'who had no answer yet gets 502');
my $took = time() - $killed;
diag(sprintf('all clients know after %.3f s', $took));

is(($t->workers)[0], $worker, 'the worker is the same');
$t->start_engine;
my $back = time();
$t->wait_for_links(2);
my $r = $t->post('/v1/chat/completions', $t->chat('mock-chat', 'hi'));
is($r->{status}, 200, 'a request is served after the engine\'s return') or diag($r->{body});
diag(sprintf('linked and served %.3f s after the engine\'s return', time() - $back));

$t->finish;
done_testing();
