# A stream that has nothing to say yet, whatever it waits for, says so after 15 seconds:
# nobody between takes it for dead.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_abort_drain 0;
    aiq_stream_grace 0;
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; timeout first_byte=120s; }
    @{[ $mock->models(qw(mock-hang-headers mock-stream-4x5000ms mock-first-1-hang-headers
        mock-first-1-hang-headers-2)) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_cache exact; aiq_pass gateway; }
    }");
$t->start;

sub begin {
    my ($model, $path, %more) = @_;
    my $c = $t->connect(seconds => 60);

    $c->request('POST', $path // '/v1/chat/completions',
        body => $t->chat($model, 'hi', stream => JSON::PP::true, %more));
    return $c;
}

# One that leads, and one that waits for its answer.
sub two {
    my ($model, @more) = @_;
    my $leader = begin($model, @more);
    $t->wait_for(sub { grep { $_->{body} =~ /"\Q$model\E"/ } $mock->requests }, 10, 'it leads');
    return ($leader, begin($model, @more));
}

my $slow = begin('mock-hang-headers');
my (undef, $waits) = my @replayed = two('mock-stream-4x5000ms');
my ($leaves, $follows) = two('mock-first-1-hang-headers');
my ($fails, $failed) = two('mock-first-1-hang-headers-2', '/v1/messages', max_tokens => 9);

my $comment = ": keep-alive\n";
sub is_kept {
    my ($c, $what) = @_;
    my $head = $c->head;

    is($head->{status}, 200, "$what: its head");
    is($head->{headers}{'content-type'}, 'text/event-stream', 'is a stream\'s');
    is($c->piece, $comment, 'a comment comes');
    return $head->{headers};
}
is_kept($slow, 'a provider that thinks');
$slow->close;

# The answer of another.
is(is_kept($waits, 'an answer that is waited for')->{'x-aiq-cache'}, undef, 'nobody knows yet what it will be');
my $answer = $replayed[0]->response->{body};
unlike($answer, qr/keep-alive/, 'who leads had enough to say');
is($waits->rest, $answer, 'and then all of it, once');

# Who leads is gone, and the other one goes on.
is_kept($follows, 'one that leads later');
$leaves->close;
like($follows->rest, qr/\A(?:: keep-alive\n)*data: .*"role":"assistant".*data: \[DONE\]\n\n\z/s, 'is answered');

# What goes wrong then is an event, in the client's dialect.
is_kept($failed, 'one whose leader fails');
$t->stop('mock', 'KILL');
$fails->head;
like($_->rest, qr/event: error\ndata: \{"type":"error","error":\{[^\n]+\}\n\n\z/, 'an error event') for $fails, $failed;

$t->finish;
done_testing();
