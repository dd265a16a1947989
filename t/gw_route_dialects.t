# Failover between dialects: a client of Anthropic's, a provider of Anthropic's that
# is in trouble, and one of OpenAI's behind it; and the other way round.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use POSIX ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

# Says 429, answers, or dies after the first event, by the model's name.
sub provider {
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5, ReuseAddr => 1) or die $!;
    my $pid = fork() // die "fork: $!";

    return ($listener->sockport, $pid) if $pid;
    $SIG{TERM} = 'DEFAULT';
    while (my $c = $listener->accept) {
        my $request = '';
        sysread($c, $request, 65536, length $request) or last
            until $request =~ /^content-length: (\d+).*?\r\n\r\n(.*)/ims && length $2 == $1;
        my $message = '{"id":"msg_2","type":"message","role":"assistant","model":"claude-3","stop_reason":"end_turn",'
            . '"stop_sequence":null,"content":[{"type":"text","text":"Here I am."}],"usage":{"input_tokens":3,"output_tokens":4}}';
        my $error = '{"type":"error","error":{"type":"rate_limit_error","message":"Slow down."}}';
        print $c $request =~ /"limited"/
            ? "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 100\r\n"
                . 'Content-Length: ' . length($error) . "\r\nConnection: close\r\n\r\n$error"
            : $request =~ /"claude-3"/
            ? "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " . length($message)
                . "\r\nConnection: close\r\n\r\n$message"
            : "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
                . qq(event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",)
                . qq("role":"assistant","content":[],"model":"m","stop_reason":null,"stop_sequence":null,)
                . qq("usage":{"input_tokens":3,"output_tokens":0}}}\n\n);
        close($c);
    }
    POSIX::_exit(0);
}

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my ($port, $pid) = provider();

$t->conf("
    aiq_provider anthropic { dialect anthropic; url http://127.0.0.1:$port/v1; retry 1; breaker failures=1000; }
    aiq_provider openai    { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_provider keyless   { dialect openai; url @{[ $mock->url ]}; key env:NO_SUCH_KEY; }
    aiq_model limited { target anthropic; target openai; }
    aiq_model dies    { target anthropic; target openai; }
    aiq_model gpt-4   { target openai model=mock-500; target anthropic model=claude-3; }
    aiq_model gpt-4o  { target openai model=mock-429; target anthropic model=claude-3; }
    aiq_model lone    { target anthropic model=limited; target keyless; retry_timeout 10s; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

sub ask {
    my ($model, $stream) = @_;

    return $t->post('/v1/messages',
        qq({"model":"$model","max_tokens":9,$stream"messages":[{"role":"user","content":"Hi"}]}));
}

my $r = ask('limited', '');
is($r->{status}, 200, 'a limit: the other dialect answers');
is($r->{headers}{'x-aiq-provider'}, 'openai', 'it does');
is($t->json($r)->{type}, 'message', "in the client's words");

# the events before the first token were those of a provider that is gone
for my $kind ('dies', 'limited') {
    $r = ask($kind, '"stream":true,');
    is($r->{headers}{'x-aiq-provider'}, 'openai', "$kind, stream: goes on");
    is(scalar(() = $r->{body} =~ /^event: message_start$/mg), 1, "$kind, stream: begins once");
    unlike($r->{body}, qr/msg_1/, "$kind, stream: with who answers");
    like($r->{body}, qr/^event: message_stop$/m, "$kind, stream: to its end");
}

# D5: whom clients ask for by OpenAI's name, Anthropic's answers by its own
for my $model (qw(gpt-4 gpt-4o)) {
    $r = $t->post('/v1/chat/completions', $t->chat($model, 'hi'));
    is($r->{status}, 200, "$model: an answer") or diag($r->{body});
    is("@{ $r->{headers} }{qw(x-aiq-provider x-aiq-model x-aiq-attempts)}", 'anthropic claude-3 2', "$model: by whom");
    is($t->json($r)->{choices}[0]{message}{content}, 'Here I am.', "$model: in OpenAI's words");
}

# the failure that is told is told in the dialect of who failed, whoever was looked at since
$r = ask('lone', '');
is($r->{status}, 429, 'the last failure');
is_deeply($t->json($r)->{error}, { type => 'rate_limit_error', message => 'Slow down.' }, 'as it came');
is($r->{headers}{'x-aiq-provider'}, 'anthropic', 'from whom');
is($r->{headers}{'retry-after'}, 100, 'with its Retry-After');

kill('TERM', $pid);
waitpid($pid, 0);
$t->finish;
done_testing;
