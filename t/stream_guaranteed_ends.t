# Guaranteed streams that nobody can go on with once their engine was killed: a completion, one
# with a tool call in it, one whose text is too long, one in another provider's own words. They
# end with an error in the words of the client, behind all that it had; never in silence.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Reader;
use AIQ::Script;
use AIQ::Test;

my $t = AIQ::Test->new;

sub event { my ($data) = @_; return ($data->{type} ? "event: $data->{type}\n" : '') . 'data: ' . JSON::PP::encode_json($data) }
sub chunk { my ($delta) = @_; return event({ id => 'c1', object => 'chat.completion.chunk', created => 1, model => 'm', choices => [ { index => 0, delta => $delta, finish_reason => undef } ] }) }
my $provider = AIQ::Script->new($t,
    text => [ map { event({ id => 'c1', object => 'text_completion', created => 1, model => 'm', choices => [ { index => 0, text => "word $_ ", finish_reason => undef, logprobs => undef } ] }) } 1 .. 5 ],
    tool => [ chunk({ role => 'assistant', content => 'I look ' }), chunk({ content => 'it up.' }),
              chunk({ tool_calls => [ { index => 0, id => 'call_1', type => 'function', function => { name => 'find', arguments => '' } } ] }),
              map { chunk({ tool_calls => [ { index => 0, function => { arguments => '{"a' } } ] }) } 1 .. 3 ],
    long => [ chunk({ role => 'assistant', content => '' }), map { chunk({ content => 'x' x 32768 }) } 1 .. 40 ],
    claude => [ event({ type => 'message_start', message => { id => 'msg_1', type => 'message', role => 'assistant', model => 'm', content => [], stop_reason => undef, stop_sequence => undef, usage => { input_tokens => 3, output_tokens => 1 } } }),
                event({ type => 'content_block_start', index => 0, content_block => { type => 'text', text => '' } }),
                map { event({ type => 'content_block_delta', index => 0, delta => { type => 'text_delta', text => "word $_ " } }) } 1 .. 3 ]);

$t->conf("
    aiq_provider open  { dialect openai;    url @{[ $provider->url ]}; }
    aiq_provider other { dialect anthropic; url @{[ $provider->url ]}; key env:PATH; }
    @{[ map { qq{aiq_model $_ { target open; }} } qw(text tool long) ]}
    aiq_model claude { target other; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
    }");
$t->start;

my %says = (
    '/v1/chat/completions' => qr/^data: \{"error":\{/m,
    '/v1/completions'      => qr/^data: \{"error":\{/m,
    '/v1/messages'         => qr/^event: error\ndata: \{"type":"error","error":\{/m,
    '/v1/responses'        => qr/^event: (?:error|response\.failed)$/m,
);
my @cases = (
    [ 'a completion',                        text   => '/v1/completions', 3, body => { prompt => 'hi', messages => undef } ],
    [ 'a tool call',                         tool   => '/v1/chat/completions', 4 ],
    [ 'a tool call, messages',               tool   => '/v1/messages', 6, body => { max_tokens => 500 } ],
    [ 'a tool call, responses',              tool   => '/v1/responses', 6 ],
    [ 'more than a megabyte',                long   => '/v1/chat/completions', 40 ],
    [ 'more than a megabyte, messages',      long   => '/v1/messages', 40, body => { max_tokens => 500 } ],
    [ 'another provider\'s own words',       claude => '/v1/messages', 4, body => { max_tokens => 500 } ],
);
for my $case (@cases) {
    my ($name, $model, $path, $n, %more) = @$case;
    my $r = AIQ::Reader->new($t, model => $model, path => $path, headers => [ 'X-AIQ-Continue' => 'allow' ], %more);
    $r->read($n);
    push @$case, $r;
}
# two whose requests nobody understands
my @lost = map { AIQ::Reader->new($t, model => $_->[0], path => $_->[1], body => { max_tokens => 500 }) }
    [ text => '/v1/chat/completions' ], [ claude => '/v1/messages' ];
$lost[1]->read(3);
$t->kill_hard('engine');
my $db = $t->dir . '/aiq.db';
is(system('/usr/bin/python3', '-c', <<'PYTHON', $db, map { $_->id } @lost), 0, 'two requests are lost');
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for id in sys.argv[2:]:
    db.execute("UPDATE streams SET request = json_object('uri', json_extract(request, '$.uri')) WHERE id = ?", (id,))
db.commit()
PYTHON
$t->start_engine;
$t->wait_for_links(2);
for my $case (@cases) {
    my ($name, $path, $r) = @$case[ 0, 2, -1 ];
    $r->read;
    my @events = $r->events;
    is_deeply($r->ids, [ 1 .. @{ $r->ids } ], "$name: each event once, in order");
    like($events[-1], $says{$path}, "$name: an error ends it");
    like($events[-1], qr/nobody may go on|Nobody can go on|cannot|ended/, "$name: and says why");
    is($r->again, $r->text, "$name: whoever reads it");
}
for my $case ([ $lost[0], '/v1/chat/completions' ], [ $lost[1], '/v1/messages' ]) {
    my ($r, $path) = @$case;
    $r->read;
    like(($r->events)[-1], $says{$path}, "$path: an error ends it");
    like(($r->events)[-1], qr/Nobody can go on/, "$path: and says why");
}

$t->finish;
done_testing();
