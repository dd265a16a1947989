# A provider's HTTP/2 server that is killed: its streams break or are continued, the
# breaker opens, and what comes back is used again. One that leaves in good order
# loses nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $dir = $t->dir;
my $mock = AIQ::Mock->new($t);
my $front = 'url http://127.0.0.1:%%PORT_1%%/v1; http_version 2;';

$t->conf("
    aiq_provider front { dialect openai; $front retry 1; breaker failures=1000; }
    aiq_provider other { dialect openai; url @{[ $mock->url ]}; }
    aiq_provider three { dialect openai; $front retry 1; breaker failures=3 open=1h; }
    aiq_provider again { dialect openai; $front retry 9 backoff=100ms; breaker failures=1000; }
    @{[ map { qq(aiq_model $_ { target $_ model=mock-chat; }) } qw(front three again) ]}
    aiq_model slow { target front model=mock-stream-100000x100ms; }
    aiq_model timely { target front model=mock-stream-20x100ms; }
    aiq_model safe { target front model=mock-stream-100000x100ms; target other model=mock-chat; }
    aiq_stream_grace 0;
    aiq_abort_drain 0;
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

# an nginx of its own, so that it may die alone
$t->write_file('front.conf', $t->expand("
    @{[ $> == 0 ? 'user nobody nogroup;' : '' ]}
    error_log $dir/logs/front.log;
    pid $dir/front.pid;
    events {}
    http {
        access_log off;
        @{[ map { qq(${_}_temp_path $dir/temp/front_$_;) } qw(client_body proxy fastcgi uwsgi scgi) ]}
        server {
            listen 127.0.0.1:%%PORT_1%% http2;
            location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; proxy_buffering off; }
        }
    }"));

sub start_front {
    local $ENV{AIQ_VALGRIND};
    $t->_spawn('front', "$dir/logs/front.log", $t->{nginx}, '-p', "$dir/", '-c', "$dir/front.conf",
        '-g', 'daemon off;');
    $t->wait_for(sub { AIQ::Test::tcp_connects($t->port(1)) }, 10, 'the front listens');
}

sub ask { return $t->post('/v1/chat/completions', $t->chat($_[0], 'hi')) }

sub stream {
    my ($model, @headers) = @_;
    my $c = $t->connect(seconds => 60);

    $c->request('POST', '/v1/chat/completions', headers => \@headers, body => $t->chat($model, 'hi', stream => JSON::PP::true));
    $c->head->{status} == 200 && defined $c->event or die 'no stream';
    return $c;
}

# The events that are still to come.
sub rest {
    return map { $t->json($_) // $_ } $_[0]->rest =~ /^data: (.*)$/mg;
}

start_front();
is(ask($_)->{status}, 200, "$_: a request") for qw(front three again);

my @broken = map { stream('slow') } 1 .. 5;
my $safe = stream('safe', 'X-AIQ-Continue' => 'allow');
kill('KILL', -$t->pid('front'));    # its worker, too
$t->kill_hard('front');
is((rest($_))[-1]{error}{code}, 'provider_error', 'killed: a stream ends with an error') for @broken;
is((rest($safe))[-1], '[DONE]', 'killed: a stream that may be continued is');
my $r = ask('front');
is($t->json($r)->{error}{code}, 'provider_unreachable', 'killed: nobody is there');
is(ask('three')->{status}, 502, "killed: failure $_") for 1 .. 3;
is(ask('three')->{status}, 503, 'killed: the breaker is open');

my $patient = $t->connect(seconds => 60);
$patient->request('POST', '/v1/chat/completions', body => $t->chat('again', 'hi'));
start_front();
is($patient->response->{status}, 200, 'back again: who waited is served');
is(ask('front')->{status}, 200, 'back again: a request');

# in good order: GOAWAY, and what is under way is finished
my @running = map { stream('timely') } 1 .. 5;
kill('QUIT', $t->pid('front'));
is((rest($_))[-1], '[DONE]', 'on leaving: a stream is finished') for @running;
$t->wait_for(sub { !$t->alive('front') }, 30, 'the front has left');
start_front();
is(ask('front')->{status}, 200, 'and who comes after it is asked');

$t->finish;
done_testing;
