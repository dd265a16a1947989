# A local model's answers in JSON: any object, or what a schema says.

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

sub ask {
    my ($format, %more) = @_;

    return $t->post('/v1/chat/completions',
        $t->chat('demo', 'What is aiq?', max_tokens => 300, response_format => $format, %more),
        headers => [ 'Content-Type' => 'application/json' ]);
}

sub schema {
    my ($schema) = @_;

    return { type => 'json_schema', json_schema => { name => 'x', strict => $true, schema => $schema } };
}

# a schema whose answers are short, whatever the model says
my $verdict = {
    type => 'object', additionalProperties => $false, required => [ 'good', 'kind', 'list' ],
    properties => {
        good => { type => 'boolean' },
        kind => { enum => [ 'gateway', 'platform', 'both' ] },
        list => { type => 'array', items => { enum => [ 1, 2 ] }, minItems => 1, maxItems => 3 },
    },
};
for my $seed (1 .. 8) {
    my $choice = $t->json(ask(schema($verdict), temperature => $seed / 4, seed => $seed))->{choices}[0];
    my $answer = eval { JSON::PP::decode_json($choice->{message}{content}) };

    ok($answer, "seed $seed: it parses") or diag($choice->{message}{content});
    is($choice->{finish_reason}, 'stop', 'and ends');
    is(join(' ', sort keys %$answer), 'good kind list', 'its members');
    like($answer->{kind}, qr/^(gateway|platform|both)$/, 'one of the values');
    ok(JSON::PP::is_bool($answer->{good}), 'a boolean');
    cmp_ok(scalar(grep { $_ == 1 || $_ == 2 } @{ $answer->{list} }), '==', scalar @{ $answer->{list} }, 'a list of them');
}

# integers as zod writes them: every one has the bounds of those that are exact in JavaScript
my $numbers = { type => 'object', additionalProperties => $false, required => [ 'n', 'stars' ], properties => {
    n => { type => 'integer', minimum => -9007199254740991, maximum => 9007199254740991 },
    stars => { type => 'integer', minimum => 1, maximum => 5 } } };
for my $seed (1 .. 3) {
    my $answer = eval { JSON::PP::decode_json($t->json(ask(schema($numbers), temperature => 1, seed => $seed))->{choices}[0]{message}{content}) };

    like($answer->{n}, qr/^-?\d{1,16}$/, "seed $seed: an integer");
    like($answer->{stars}, qr/^[1-5]$/, 'one to five');
}

# numbers and strings as zod and pydantic bound them
my $bounded = { type => 'object', additionalProperties => $false, required => [ 'share', 'sku', 'name' ], properties => {
    share => { type => 'number', minimum => 0, maximum => 1 }, sku => { type => 'string', pattern => '^[A-Z]{2}-\\d{3}$' },
    name => { type => 'string', minLength => 2, maxLength => 5 } } };
for my $seed (1 .. 3) {
    my $answer = eval { JSON::PP::decode_json($t->json(ask(schema($bounded), temperature => 1, seed => $seed))->{choices}[0]{message}{content}) };

    cmp_ok($answer->{share}, '>=', 0, "seed $seed: a share");
    cmp_ok($answer->{share}, '<=', 1, 'at most all');
    like($answer->{sku}, qr/^[A-Z]{2}-[0-9]{3}\z/, 'a string of the pattern');
    like($answer->{name}, qr/^.{2,5}\z/s, 'a string of the length');
}

# any object
my ($ended, $whole) = (0, 0);
for my $seed (1 .. 6) {
    my $choice = $t->json(ask({ type => 'json_object' }, temperature => 1, seed => $seed))->{choices}[0];

    like($choice->{message}{content}, qr/^\{/, "seed $seed: an object begins");
    $ended++ if $choice->{finish_reason} eq 'stop';
    $whole++ if eval { ref JSON::PP::decode_json($choice->{message}{content}) eq 'HASH' };
}
is($whole, $ended, "those that ended ($ended) are whole");

# in a stream, and for several answers
my $r = ask(schema($verdict), stream => $true, n => 2, temperature => 1, seed => 4);
my @text = ('', '');
for my $c (map { @{ $t->json($_)->{choices} } } grep { $_ ne '[DONE]' } $r->{body} =~ /^data: (.*)$/mg) {
    $text[$c->{index}] .= $c->{delta}{content} // '';
}
is(scalar(grep { eval { JSON::PP::decode_json($_) } } @text), 2, 'streamed');

# what cannot be
for my $case ([ schema({ type => 'string', pattern => 'a(?=b)' }), qr/'pattern': a lookahead is supported .*\(at 1\)/ ],
    [ schema({ type => 'string', format => 'colour' }), qr/format 'colour' is not supported/ ],
    [ schema({ '$ref' => '#' }), qr/refers to itself/ ], [ { type => 'json_schema' }, qr/must be an object whose/ ],
    [ 'json', qr/must be an object/ ], [ { type => 7 }, qr/with a 'type'/ ]) {
    $r = ask($case->[0]);
    my $e = $t->json($r)->{error};
    is("$r->{status} $e->{code} $e->{param}", '400 invalid_value response_format', 'a 400');
    like($e->{message}, $case->[1], 'that says why');
}

# a format that is only a note, unless the schema is strict: asked before and after
my $noted = schema({ type => 'object', additionalProperties => $false, properties => { a => { type => 'string', format => 'colour', maxLength => 3 } } });
for my $strict ($false, $true, $false) {
    $noted->{json_schema}{strict} = $strict;
    is(ask($noted)->{status}, $strict ? 400 : 200, 'an unknown format, ' . ($strict ? 'strict' : 'not strict'));
}
is($t->json(ask({ type => 'grammar' }))->{error}{code}, 'unsupported_parameter', 'another type');

$t->finish;
done_testing;
