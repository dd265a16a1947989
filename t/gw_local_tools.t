# A local model calls tools: what a schema allows, in OpenAI's objects, streamed and whole.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my ($true, $false) = (JSON::PP::true, JSON::PP::false);

$t->serve_demo;

sub tool {
    my ($name, $properties, %more) = @_;

    return { type => 'function', function => { name => $name, %more, parameters => {
        type => 'object', additionalProperties => $false, required => [ sort keys %$properties ],
        properties => $properties } } };
}

# schemas whose answers are short, whatever the model says
my $weather = tool('weather', { unit => { enum => [ 'C', 'F' ] }, days => { enum => [ 1, 2, 3 ] } });
my $switch = tool('switch', { on => { type => 'boolean' } });

sub ask {
    my (%body) = @_;

    return $t->post('/v1/chat/completions', JSON::PP::encode_json({ model => 'demo', max_tokens => 200,
        messages => [ { role => 'user', content => 'What is aiq?' } ], %body }),
        headers => [ 'Content-Type' => 'application/json' ]);
}

sub is_call {
    my ($call, $what) = @_;
    my $f = $call->{function};
    my $arguments = eval { JSON::PP::decode_json($f->{arguments}) };

    like($call->{id}, qr/^call_\w+$/, "$what: an id");
    is($call->{type}, 'function', "$what: its type");
    if ($f->{name} eq 'weather') {
        like($arguments->{unit}, qr/^[CF]$/, "$what: weather's arguments");
        like($arguments->{days}, qr/^[123]$/, "$what: all of them");
    } else {
        is($f->{name}, 'switch', "$what: the other tool");
        ok(JSON::PP::is_bool($arguments->{on}), "$what: its argument");
    }
}

# one must be called
for my $seed (1 .. 4) {
    my $r = ask(tools => [ $weather, $switch ], tool_choice => 'required', temperature => $seed / 3, seed => $seed,
        parallel_tool_calls => $false);
    my $choice = $t->json($r)->{choices}[0];
    is($choice->{finish_reason}, 'tool_calls', "seed $seed: finish_reason") or diag $r->{body};
    ok(!defined $choice->{message}{content}, 'no text');
    is(scalar @{ $choice->{message}{tool_calls} }, 1, 'one call');
    is_call($choice->{message}{tool_calls}[0], "seed $seed");
}

# this one
my $named = { type => 'function', function => { name => 'switch' } };
my $choice = $t->json(ask(tools => [ $weather, $switch ], tool_choice => $named, temperature => 1, seed => 2))->{choices}[0];
is($choice->{message}{tool_calls}[0]{function}{name}, 'switch', 'the tool that was named');
is($choice->{finish_reason}, 'tool_calls', 'its finish_reason');

# the same in a stream
my $r = ask(tools => [ $weather, $switch ], tool_choice => 'required', temperature => 1, seed => 3, n => 2,
    parallel_tool_calls => $false);
my @whole = map { $_->{message}{tool_calls}[0]{function} } @{ $t->json($r)->{choices} };
$r = ask(tools => [ $weather, $switch ], tool_choice => 'required', temperature => 1, seed => 3, n => 2,
    parallel_tool_calls => $false, stream => $true);
my (@calls, @finish, $deltas);
for my $c (map { @{ $t->json($_)->{choices} } } grep { $_ ne '[DONE]' } $r->{body} =~ /^data: (.*)$/mg) {
    my $call = $c->{delta}{tool_calls}[0];
    $finish[$c->{index}] = $c->{finish_reason};
    if ($call) {
        is($call->{index}, 0, 'a call by its index') if $call->{id};
        $calls[$c->{index}]{$_} .= $call->{$_} for grep { $call->{$_} } qw(id type);
        $calls[$c->{index}]{function}{$_} .= $call->{function}{$_} // '' for qw(name arguments);
        $deltas++;
    }
}
is_call($calls[$_], "stream $_") for 0, 1;
is_deeply([ map { $_->{function} } @calls ], \@whole, 'the same calls as whole');
is_deeply(\@finish, [ 'tool_calls', 'tool_calls' ], 'finish_reason');
cmp_ok($deltas, '>=', 4, 'names come before arguments');
isnt($calls[0]{id}, $calls[1]{id}, 'two ids');

# and its result
my $call = $t->json(ask(tools => [ $switch ], tool_choice => 'required', parallel_tool_calls => $false))->{choices}[0]{message};
my @talk = ({ role => 'user', content => 'Hi' }, $call,
    { role => 'tool', tool_call_id => $call->{tool_calls}[0]{id}, content => 'done' });
$r = ask(tools => [ $switch ], messages => \@talk, max_tokens => 20);
is($r->{status}, 200, 'the conversation goes on') or diag $r->{body};
is(ask(tools => [ $switch ], tool_choice => 'none', messages => \@talk, max_tokens => 20)->{status}, 200, 'without calls, too');

# a tool whose schema must hold where the model calls it, and a model that says something else
my $strict = tool('look', { a => { type => 'boolean' } }, strict => $true);
$r = $t->json(ask(tools => [ $strict ], max_tokens => 30));
ok(length $r->{choices}[0]{message}{content}, 'text is text') or diag explain $r;
# an answer in a format, where tools may come instead
my $format = { type => 'json_schema', json_schema => { name => 'x', schema => { enum => [ 'yes', 'no' ] } } };
$choice = $t->json(ask(tools => [ $switch ], response_format => $format))->{choices}[0];
ok($choice->{message}{tool_calls} || $choice->{message}{content} =~ /^"(yes|no)"$/, 'one of both');

# what cannot be
my ($user) = { role => 'user', content => 'x' };
my $calling = { role => 'assistant', tool_calls => [ { id => 'a', type => 'function', function => { name => 'f', arguments => '{}' } } ] };
for my $case (
    [ { tools => 'weather' }, 'tools', qr/an array/ ],
    [ { tools => [ { type => 'web_search' } ] }, 'tools[0].type', qr/Tool 0 must be of type 'function'/ ],
    [ { tools => [ $switch, { type => 'function' } ] }, 'tools[1].function', qr/an object 'function'/ ],
    [ { tools => [ { type => 'function', function => {} } ] }, 'tools[0].function.name', qr/must have a name/ ],
    [ { tools => [ { type => 'function', function => { name => 'a b' } } ] }, 'tools[0].function.name', qr/must have a name/ ],
    [ { tools => [ $switch, $switch ] }, 'tools[1].function.name', qr/name of another, 'switch'/ ],
    [ { tools => [ { type => 'function', function => { name => 'f', parameters => [] } } ] }, 'tools[0].function.parameters',
        qr/schema of tool 'f' must be an object/ ],
    (map { [ { tools => [ tool('f', { a => $_->[0] }) ] }, 'tools[0].function.parameters', qr/schema of tool 'f' is none: its $_->[1]/ ] }
        [ { type => 'text' }, qr/'type' is not a type/ ], [ { type => [ 'string', 1 ] }, qr/'type' is not a type/ ],
        [ { properties => [] }, qr/'properties' is not an object/ ], [ { enum => 'x' }, qr/'enum' is not a list/ ],
        [ { anyOf => [ {}, { items => { required => 'x' } } ] }, qr/'required' is not a list of strings/ ]),
    [ { tools => [ tool('f', { a => { type => 'string', pattern => '(?<=x)' } }, strict => $true) ] }, 'tools',
        qr/tool 'f': .*'pattern': lookbehinds are not supported \(at 0\)/ ],
    [ { tool_choice => 'required' }, 'tool_choice', qr/only where there are tools/ ],
    [ { tools => [ $switch ], tool_choice => 'must' }, 'tool_choice', qr/'auto', 'none', 'required'/ ],
    [ { tools => [ $switch ], tool_choice => { type => 'function', function => { name => 'f' } } }, 'tool_choice',
        qr/name one of the tools/ ],
    [ { tools => [ $switch ], parallel_tool_calls => 'no' }, 'parallel_tool_calls', qr/a boolean/ ],
    [ { messages => [ $user, $calling, { role => 'tool', content => 'x' } ] }, 'messages[2].tool_call_id', qr/which call/ ],
    [ { messages => [ $user, $calling, { role => 'tool', content => 'x', tool_call_id => 'b' } ] }, 'messages[2].tool_call_id',
        qr/a call that was not made/ ],
    [ { messages => [ $user, { role => 'assistant', content => '', tool_calls => {a => 1} } ] }, 'messages[1].tool_calls',
        qr/must be an array/ ],
    [ { messages => [ $user, { role => 'assistant', content => '', tool_calls => [ { id => 'a' } ] } ] }, 'messages[1].tool_calls',
        qr/an id and a function/ ],
    ) {
    my $e = $t->json(ask(%{ $case->[0] }))->{error};
    is("$e->{code} " . ($e->{param} // ''), "invalid_value $case->[1]", "$case->[1]: a 400") or diag explain $e;
    like($e->{message}, $case->[2], 'that says why');
}

$t->finish;
done_testing;
