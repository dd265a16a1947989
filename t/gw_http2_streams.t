# Streams of one HTTP/2 connection do not hang together: one that is not read, is
# left, breaks or is silent is no trouble for the others.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Command qw(sanitized);
use AIQ::Test;
use AIQ::Mock;

my $tokens = 60_000;    # about 10 MB of events
my $t = AIQ::Test->new;
my $dir = $t->dir;
my $mock = AIQ::Mock->new($t);
my $data = "$AIQ::Test::ROOT/../shared/data/openai-sse";
my @files = map { m{([^/]+)\.sse$} } glob("$data/*.sse");
my %models = ((map { $_ => "mock-replay-$_" } @files), map { $_ => "mock-$_" } qw(chat reset-mid 100mb-line error-mid));
my @silent = qw(hang-mid hang-headers trickle-headers);
$t->conf("
    aiq_provider front { dialect openai; url http://127.0.0.1:%%PORT_1%%/v1; http_version 2; retry 1; breaker failures=1000; }
    aiq_provider hasty { dialect openai; url http://127.0.0.1:%%PORT_1%%/v1; http_version 2; retry 1;
                         timeout first_byte=3s idle=3s; breaker failures=1000; }
    aiq_provider other { dialect openai; url @{[ $mock->url ]}; }
    @{[ map { qq(aiq_model $_ { target front model=$models{$_}; }) } sort keys %models ]}
    @{[ map { qq(aiq_model $_ { target hasty model=mock-$_; }) } @silent ]}
    aiq_model long { target hasty model=mock-stream-${tokens}x0ms; }
    aiq_model slow { target front model=mock-stream-100000x100ms; }
    aiq_model continued { target front model=mock-reset-mid; target other model=mock-chat; }
    aiq_stream_grace 0;
    aiq_abort_drain 0;
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }
    log_format how '\$server_protocol \$connection \$status';
    server {
        listen 127.0.0.1:%%PORT_1%% http2;
        access_log $dir/logs/how.log how;
        keepalive_requests 1000000;
        location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; proxy_buffering off; }
    }");
$t->start;

sub ask { return $t->post('/v1/chat/completions', $t->chat($_[0], 'hi')) }

sub stream {
    my ($model, @headers) = @_;
    my $c = $t->connect(seconds => 60);

    $c->request('POST', '/v1/chat/completions', headers => \@headers, body => $t->chat($model, 'hi', stream => JSON::PP::true));
    return $c;
}

sub events { return map { $t->json($_) // $_ } $_[0]{body} =~ /^data: (.*)$/mg }
sub text { return join '', map { ref && $_->{choices} ? $_->{choices}[0]{delta}{content} // '' : '' } @_ }

# one that nobody reads, for longer than the time-outs
my $before = $t->private_memory($t->pid('engine'));
my $unread = stream('long');
is($unread->head->{status}, 200, 'a stream that nobody reads');
my $end = time() + 5;
my $served = 0;
while (time() < $end || $served <= 10) {
    $served += ask('chat')->{status} == 200;
}
cmp_ok($served, '>', 10, 'others are served meanwhile');
SKIP: {
    skip 'memory is not itself here', 1 if $ENV{AIQ_VALGRIND} || sanitized();
    cmp_ok($t->private_memory($t->pid('engine')) - $before, '<', 4 << 20, 'little is held, of 10 MB');
}

# those in trouble
my $running = stream('slow');
is($running->head->{status}, 200, 'a stream that goes on');
my %expect = ('reset-mid' => 'provider_error', 'hang-mid' => 'provider_timeout', '100mb-line' => 'provider_error', 'error-mid' => 'provider_error');
for my $kind (sort keys %expect) {
    is((events(stream($kind)->response))[-1]{error}{code}, $expect{$kind}, "$kind: ends with an error");
}
is(stream($_)->response->{status}, 504, "$_: has its time-out") for qw(hang-headers trickle-headers);
my @events = events(stream('continued', 'X-AIQ-Continue' => 'allow')->response);
is($events[-1], '[DONE]', 'a broken stream is continued');
is(text(@events), ' token1 token2' . join('', map { " token$_" } 1 .. 8), 'with what was said');

# recordings, cut at random places
for my $file (@files) {
    my @sent = $t->read_file("$data/$file.sse") =~ /^data: (.*?)\r?$/mg;
    my $c = $t->connect;
    $c->request('POST', '/v1/chat/completions', body => $t->chat($file, 'hi', stream => JSON::PP::true,
        stream_options => { include_usage => JSON::PP::true }));
    my @got = $c->response->{body} =~ /^data: (.*)$/mg;
    is_deeply(\@got, \@sent, "$file arrives as it was recorded");
}

# those who leave
my @left = map { stream('slow') } 1 .. 20;
$_->head->{status} == 200 && defined $_->event or die 'no stream' for @left;
my $aborted = $mock->stats->{aborted};
$_->close for @left;
ok(eval { $t->wait_for(sub { $mock->stats->{aborted} >= $aborted + 20 }, 10) }, 'who leaves is not read on');

# and the others all the while
ok(defined $running->event, 'the stream goes on');
$running->close;
my $text = $unread->rest;
my @numbers = $text =~ /"content":" token(\d+)"/g;
is(scalar(@numbers), $tokens, 'what nobody read has not lost a token');
is(scalar(grep { $numbers[$_] != $_ + 1 } 0 .. $#numbers), 0, 'in order');
like($text, qr/^data: \[DONE\]$/m, 'to the end');
is(ask('chat')->{status}, 200, 'the next request');
my %connections = map { $_ => 1 } $t->read_file('logs/how.log') =~ /^HTTP\/2\.0 (\d+)/mg;
is(scalar(keys %connections), 1, 'all of it on one connection');

$t->finish;
done_testing;
