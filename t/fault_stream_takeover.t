# Guaranteed streams where a new engine takes over, nginx's worker is killed or reloaded, and
# the engine is asked to leave: a reader that comes back as often as it is cut off has every
# event once, and the text is whole.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Mock;
use AIQ::Reader;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2, '--drain', 1 ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat  { target mock model=mock-stream-60x20ms; }
    aiq_model chat2 { target mock model=mock-first-4-endless; }    # until the other engine asks
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
    }", workers => 2);
$t->start;

sub reader {
    my ($model, $path) = @_;
    my @more = $path ? (path => $path, body => { max_tokens => 500 }) : ();

    return AIQ::Reader->new($t, model => $model, headers => [ 'X-AIQ-Continue' => 'allow' ], @more);
}

sub all_of {
    my ($name, $r) = @_;

    $r->read;
    is_deeply($r->ids, [ 1 .. @{ $r->ids } ], "$name: each event once, in order");
    is($r->again, $r->text, "$name: and so again");
    return $r->events;
}

# A worker.
my @readers = map { reader('chat') } 1 .. 3;
$_->read(5) for @readers;
$t->expect_in_log(qr/\[alert\].*exited on signal 9/);
kill('KILL', $t->workers);
like((all_of('worker killed', $_))[-1], qr/\[DONE\]/, 'to its end') for @readers;

# A reload.
my $r = reader('chat');
$r->read(5);
$t->reload;
like((all_of('reload', $r))[-1], qr/\[DONE\]/, 'to its end');

# A new engine while the old one drains: the old one is told to leave before it is done.
@readers = (reader('chat2'), reader('chat2', '/v1/messages'), reader('chat2', '/v1/responses'));
$_->read(5) for @readers;
my $left = reader('chat2');
$left->read(3);
$left->cut;
$t->start_engine(name => 'engine2');
$t->wait_for(sub { !$t->alive('engine') }, 20, 'the old engine leaves');
is($t->{status}{engine}, 0, 'in order');
my @events = all_of('takeover', $readers[0]);
like($events[-1], qr/\[DONE\]/, 'to its end');
ok((grep { /"continued"/ } @events), 'the new engine has gone on');
like((all_of('takeover, messages', $readers[1]))[-1], qr/^event: message_stop$/m, 'to its end');
like((all_of('takeover, responses', $readers[2]))[-1], qr/^event: response\.completed$/m, 'to its end');
like((all_of('takeover, without a reader', $left))[-1], qr/\[DONE\]/, 'to its end');

$t->finish;
done_testing();
