# docs/websocket.schema.json: the types of the code are its types, and it tells right from
# wrong. What really is said is held against it where it is said (misfits() in ws_*.t).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::WebSocket;

sub slurp { my ($path) = @_; local (@ARGV, $/) = $path; return scalar <> }

my $schema = JSON::PP::decode_json(slurp('docs/websocket.schema.json'));

sub types {
    my ($part) = @_;
    my @types = map { $_->{properties}{type} } @{ $schema->{'$defs'}{$part}{oneOf} };
    return [ sort map { $_->{enum} ? @{ $_->{enum} } : $_->{const} } @types ];
}

my ($kinds) = slurp('engine/services/ws/ws_message.c') =~ /kinds\[\] = \{(.*?)\};/s;
is_deeply(types('message'), [ sort $kinds =~ /"(\w+)"/g ], 'what the client may say');
my $code = join '', map { slurp($_) } glob('engine/services/ws/*.c');
my %said = map { $_ => 1 } map { /"(\w+)"/g } $code =~ /\.type = ([^,]*"\w+")/g;
is_deeply(types('event'), [ sort keys %said ], 'what the server says');

my $event = '"seq":1,"timestamp":"2026-11-21T12:30:00.250Z"';
my @wrong = (
    'message	{}', 'message	{"type":"what"}', 'message	{"type":"ping","id":"a b"}', 'message	{"type":"ping","body":{}}',
    'message	{"type":"chat","id":"c","body":[]}', 'message	{"type":"chat","body":{}}', 'message	{"type":"auth"}',
    'message	{"type":"chat","id":"c","body":{},"headers":{"authorization":"x"}}',
    'message	{"type":"resume","id":"c","stream":"s","after":-1}', 'message	{"type":"subscribe","id":"c","stream":"s"}',
    qq(event	{"type":"pong",$event}), qq(event	{"type":"pong",$event,"data":{},"more":1}),
    qq(event	{"type":"delta",$event,"data":1}), 'event	{"type":"pong","seq":1,"timestamp":"noon","data":{}}',
    qq(event	{"type":"state",$event,"data":{}}), qq(event	{"type":"error",$event,"data":{"status":400}}));
for my $line (@wrong) {
    like(AIQ::WebSocket::misfits("$line\n"), qr/^\w+ \{/, "wrong: $line");
}
is(AIQ::WebSocket::misfits("event	{\"type\":\"pong\",$event,\"data\":{}}\n"), '', 'right');

done_testing;
