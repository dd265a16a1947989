# A stream that breaks in the middle: another target goes on with it, where the
# client allows that.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my $rules = "dialect openai; url @{[ $mock->url ]}; retry 2 backoff=1ms; breaker failures=1000;";

$t->conf("
    aiq_provider first  { $rules }
    aiq_provider hasty  { $rules timeout idle=300ms; }
    aiq_provider second { $rules }
    aiq_provider once   { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model reset-mid { target first model=mock-reset-mid; target second model=other; }
    aiq_model hang-mid  { target hasty model=mock-hang-mid; target second model=other; }
    aiq_model twice { target first model=mock-reset-mid; target second model=mock-error-mid; target second model=third; }
    aiq_model same  { target first model=mock-first-1-reset-mid; }
    aiq_model lone  { target once model=mock-reset-mid; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

sub ask {
    my ($model, %headers) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi', stream => JSON::PP::true),
        headers => [%headers]);
}

sub text { return join '', map { $_->{choices}[0]{delta}{content} // '' } @_ }
sub events { return map { $t->json($_) // $_ } $_[0]{body} =~ /^data: (.*)$/mg }
sub asked { return $t->json(($mock->requests)[-1]{body}) }

my @broken = events(ask('reset-mid'));
like($broken[-1]{error}{code}, qr/provider_error/, 'without a word of the client it is broken');
my $said = text(@broken);
is($said, ' token1 token2', 'after two tokens');

for my $kind (qw(reset-mid hang-mid)) {
    my @events = events(ask($kind, 'X-AIQ-Continue' => 'allow'));
    is($events[-1], '[DONE]', "$kind: to the end");
    my ($mark) = grep { ref && $_->{aiq} } @events;
    is_deeply($mark, { id => '', object => 'chat.completion.chunk', created => 0, model => $kind, choices => [],
        aiq => { continued => { provider => 'second', model => 'other', attempt => 2 } } }, "$kind: who goes on is marked");
    pop @events;
    is(text(@events), $said . join('', map { " token$_" } 1 .. 8), "$kind: with what was said");
    is(scalar(grep { exists(($_->{choices}[0]{delta} // {})->{role}) } @events), 1, "$kind: one role");
    is_deeply(asked()->{messages}, [ { role => 'user', content => 'hi' }, { role => 'assistant', content => $said } ],
        "$kind: the other one was asked to");
    is(asked()->{model}, 'other', "$kind: by its name");
}

my @events = events(ask('twice', 'X-AIQ-Continue' => 'allow'));
is($events[-1], '[DONE]', 'broken twice: to the end');
is(scalar(grep { ref && $_->{aiq} } @events), 2, 'broken twice: two marks');
is(asked()->{messages}[1]{content}, $said . $said, 'broken twice: all of it was said');
is(scalar(@{ asked()->{messages} }), 2, 'broken twice: in one message');

@events = events(ask('same', 'X-AIQ-Continue' => 'allow'));
is($events[-1], '[DONE]', 'the only target may go on itself');

@events = events(ask('lone', 'X-AIQ-Continue' => 'allow'));
is($events[-1]{error}{code}, 'provider_error', 'where nobody can, it is broken');
is(text(@events), $said, 'and says nothing twice');

my @lines = grep { $_->{message} eq 'attempt failed' && $_->{model} eq 'hang-mid' } $t->engine_lines;
is($lines[0]{next}, 'second', 'the log tells it');

$t->finish;
done_testing;
