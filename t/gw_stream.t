# Streams are passed on event by event, whatever the network does to them, and
# usage reaches whom it concerns.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $data  = "$AIQ::Test::ROOT/../shared/data/openai-sse";
my @files = map { m{([^/]+)\.sse$} } glob("$data/*.sse");

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

note('seed ' . $mock->seed);
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-held-2', 'mock-stream-2x0ms', map { qq(mock-replay-$_) } @files) ]}
    aiq_model alias { target mock model=mock-stream-2x0ms; }
    log_format usage '\$aiq_model \$aiq_provider \$aiq_tokens_in \$aiq_tokens_out';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/usage.log usage;
        location /v1/ { aiq_pass gateway; }
    }");
$t->start;

sub events {
    my ($body) = @_;
    my $r = $t->post('/v1/chat/completions', $body);

    is($r->{status}, 200, 'a stream');
    is($r->{headers}{'content-type'}, 'text/event-stream', 'of events');
    return $r->{body} =~ /^data: (.*)$/mg;
}

# as they come: the first events are here long before the last one is made
my $c = $t->connect;
$c->request('POST', '/v1/chat/completions',
    body => $t->chat('mock-held-2', 'hi', stream => JSON::PP::true));
is($c->head->{status}, 200, 'the head comes with the first event');
is($t->json($c->event)->{choices}[0]{delta}{role}, 'assistant', 'role');
is($t->json($c->event)->{choices}[0]{delta}{content}, " token$_", "token $_") for 1, 2;
is($mock->stats->{open}, 2, 'the provider is still at it');
$mock->go;
is($t->json($c->event)->{choices}[0]{delta}{content}, " token$_", "token $_") for 3 .. 8;
is($t->json($c->event)->{choices}[0]{finish_reason}, 'stop', 'finish_reason');
is($c->event, '[DONE]', '[DONE]');
is($c->event, undef, 'the end');

# recordings, cut at random places
for my $file (@files) {
    my @sent = $t->read_file("$data/$file.sse") =~ /^data: (.*?)\r?$/mg;
    my @got = events($t->chat("mock-replay-$file", 'hi', stream => JSON::PP::true,
        stream_options => { include_usage => JSON::PP::true }));
    is_deeply(\@got, \@sent, "$file arrives as it was recorded");
}

# usage: always asked for, told to whom asked for it
sub usage { return [ map { $_ eq '[DONE]' ? () : $t->json($_)->{usage} // (/"usage"/ ? 'null' : 'none') } @_ ] }
my %want = (prompt_tokens => 9, completion_tokens => 2, total_tokens => 11);

for my $ask (
    [ '',                                               [ ('none') x 4 ] ],
    [ ',"stream_options":null',                         [ ('none') x 4 ] ],
    [ ',"stream_options":{}',                           [ ('none') x 4 ] ],
    [ ',"stream_options":{"x":1}',                      [ ('none') x 4 ] ],
    [ ',"stream_options":{"include_usage":false}',      [ ('none') x 4 ] ],
    [ ',"stream_options":{"include_usage":true}',       [ ('null') x 4, \%want ] ],
    [ ', "stream_options": { "include_usage": true}', [ ('null') x 4, \%want ] ],
) {
    my $body = '{"messages":[{"role":"user","content":"hi"}],"stream":true,"model":"alias"' . "$ask->[0]}";
    my @got = events($body);
    is_deeply(usage(@got), $ask->[1], "usage of '$ask->[0]'");
    is($got[-1], '[DONE]', 'and [DONE]');
    my $sent = $t->json(($mock->requests)[-1]{body});
    is($sent->{model}, 'mock-stream-2x0ms', "the provider's name of the model");
    ok($sent->{stream_options}{include_usage}, 'the provider is asked for usage');
    is_deeply([ sort keys %$sent ], [qw(messages model stream stream_options)], 'and for nothing else');
}
$t->wait_for(sub { $t->read_file('logs/usage.log') =~ /^alias mock 9 2$/m }, 5, 'the access log has the usage');
pass('the access log has the usage');

$t->finish;
done_testing;
