# The semantic cache outlives its engine: in a file beside the socket, which the next one
# reads, also one that takes over while the other still runs. A damaged one is refused, and a
# wrong answer that was taken back does not come back with it.

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
my $file = $t->socket . '.vectors';

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model chat { target mock model=mock-chat; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/     { aiq_cache semantic embed=lexical; aiq_pass gateway; }
        location /api/    { aiq_pass control; }
        location /metrics { aiq_metrics; }
    }");
$t->start;

my $last;
sub chat {
    my ($text) = @_;

    $last = $t->post('/v1/chat/completions', $t->chat('chat', $text, temperature => 0));
    return $last->{headers}{'x-aiq-cache'} // $last->{status};
}
sub entries { return $t->metric('aiq_semantic_entries') // -1 }
sub settled { my ($n) = @_; $t->wait_for(sub { entries() == $n }, 15, "$n questions") }

is(chat('How high is the moon?'), 'MISS', 'an engine');
my $first = $last;
settled(1);
$t->stop('engine');
is((stat $file)[2] & 0777, 0600, 'leaves a file for its own user');
$t->start_engine;
settled(1);
is(chat('how high is the moon, please'), 'SEMANTIC', 'the next one has its answers');
is($last->{body}, $first->{body}, 'as they were');
cmp_ok($last->{headers}{age}, '>=', 0, 'with their age');
my $entry = $last->{headers}{'x-aiq-cache-entry'};

# A takeover: the engine that is there when the other leaves has what that one kept last.
is(chat('Who was Ada Lovelace?'), 'MISS', 'a younger question');
settled(2);
$t->start_engine(name => 'next');
$t->wait_for(sub { !$t->alive('engine') }, 20, 'the old engine leaves');
settled(2);
is(chat('who was Ada Lovelace'), 'SEMANTIC', 'is the new one\'s, too');
is(chat('Please tell me how high the moon is.'), 'SEMANTIC', 'and so is what both had');
is(chat('Is the moon very high?'), 'MISS', 'another question');
settled(3);

# A wrong answer is gone for good.
is($t->post("/api/v1/cache/entries/$entry/feedback", '{"correct":false}')->{status}, 200, 'a wrong answer');
my $inode = (stat $file)[1];
$t->wait_for(sub { (stat $file)[1] != $inode }, 10, 'the file is written anew');
$t->kill_hard('next');
$t->start_engine(name => 'third');
settled(2);
is(chat('so how high is the moon'), 'MISS', 'does not come back');
settled(3);

# A damaged file.
$t->stop('third');
my $bytes = do { open(my $in, '<:raw', $file) or die $!; local $/; <$in> };
substr($bytes, length($bytes) / 2, 1) ^= "\x01";
open(my $out, '>:raw', $file) or die $!;
print $out $bytes;
close($out);
$t->start_engine(name => 'fourth');
settled(0);
is(chat('WHO was Ada Lovelace?'), 'MISS', 'a damaged file is not used');
settled(1);
my ($line) = grep { $_->{message} eq 'a file of vectors cannot be used' } $t->engine_lines;
like($line->{detail}, qr/\.vectors: it is damaged/, 'the log says so');

$t->finish;
done_testing();
