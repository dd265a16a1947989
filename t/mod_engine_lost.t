# The engine dies or falls silent in the middle of requests: 502 and 504 before
# the reply has begun; a stream ends with an error event in the client's
# dialect, another reply is cut.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format aiq "$uri $status $aiq_status";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/access.log aiq;
        location / { aiq_pass echo; }
        location /v1/ { aiq_pass gateway; }
        location /v1/quick/ { aiq_pass gateway; aiq_read_timeout 3s; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);
is($t->get('/ok')->{status}, 200, 'all is well');

# The head and the first event of a stream.
sub stream {
    my ($path) = @_;
    my $c = $t->connect;

    $c->request('GET', $path);
    is($c->head->{status}, 200, "$path: has begun");
    is($c->event, 'one', "$path: the first event");
    return $c;
}

sub is_last_event {
    my ($c, $type, $code, $what) = @_;
    my $error = $t->json($c->event // '')->{error} // {};

    is($error->{type}, $type, "$what: type");
    is($error->{code}, $code, "$what: code");
    is($c->event, undef, "$what: nothing after it");
    ok(!$c->{head}{cut}, "$what: a clean end");
}

# Dead.
my $r = $t->get('/die');
is($r->{status}, 502, 'before the head: 502');
is($t->json($r)->{error}{code}, 'engine_lost', 'in our dialect');
is($t->json($r)->{error}{request_id}, $r->{headers}{'x-request-id'}, 'with the request id');
$e->restart;

my $c = stream('/v1/messages/stream_hang');
$e->stop;
is_last_event($c, 'api_error', undef, q{Anthropic's dialect});
$e->start;
$e->wait_for_hellos(1);

$c = stream('/v1/stream_hang');
$e->stop;
is_last_event($c, 'server_error', 'engine_lost', q{OpenAI's dialect});
$e->start;
$e->wait_for_hellos(1);

$c = $t->connect;
$c->request('GET', '/v1/stream_half');
$c->head;
my ($text, $piece) = ('');
$text .= $c->piece until $text =~ /tw\z/;
$e->stop;
$text .= $piece while defined($piece = $c->piece);
like($text, qr/^data: tw\n\ndata: \{"error":/m, 'half an event is ended before the error event');
unlike($text, qr/DONE/, 'there is no [DONE]');
$e->start;
$e->wait_for_hellos(1);

$c = $t->connect;
$c->request('GET', '/part_hang');
$c->head;
is($c->bytes(5), '01234', 'a part of a reply');
$e->stop;
ok(!defined $c->bytes(1), 'then the connection ends');
$e->start;
$e->wait_for_hellos(1);

# Silent.
$r = $t->get('/v1/quick/silent');
is($r->{status}, 504, 'silence before the head: 504');
is($t->json($r)->{error}{code}, 'engine_timeout', 'the code');
is($t->json($r)->{error}{type}, 'server_error', 'the type');
$e->wait_for(qr{^CANCEL /v1/quick/silent$}m, 'the engine is told');

is_last_event(stream('/v1/quick/stream_hang'), 'server_error', 'engine_timeout',
    'silence in a stream');
is_last_event(stream('/v1/stream_error'), 'server_error', 'provider_lost', 'an ERROR in a stream');

# Away.
$e->stop;
$t->wait_for(sub { $t->get('/ok')->{status} == 503 }, 10, '503 without an engine');
my $begun = Time::HiRes::time();
$r = $t->get('/v1/chat/completions');
is($r->{status}, 503, 'after a second nothing parks');
is($t->json($r)->{error}{code}, 'engine_unavailable', 'the code');
is($r->{headers}{'retry-after'}, 1, 'Retry-After');

# Back.
$e->start;
$e->wait_for_hellos(1);
is($t->wait_for(sub { my $x = $t->get('/ok'); $x->{status} == 200 && $x->{body} }), "ok\n", 'back');

my %logged;
$t->wait_for(sub { $t->read_file('logs/access.log') =~ m{^/ok 200 ok\n\z}m }, 10, 'the last line');
%logged = map { m{^(\S+) (.*)} ? ($1 => $2) : () } split /\n/, $t->read_file('logs/access.log');
is($logged{'/die'}, '502 engine_lost', '$aiq_status of a refusal');
is($logged{'/v1/quick/stream_hang'}, '200 engine_timeout', '$aiq_status of a stream');
is($logged{'/ok'}, '200 ok', '$aiq_status of success');

$t->finish;
done_testing;
