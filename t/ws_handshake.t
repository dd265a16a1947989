# The handshake of RFC 6455, 4.2: what is a WebSocket, what is refused and why, and whose
# pages may open one.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;
use AIQ::WebSocket;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /echo      { aiq_pass echo; aiq_websocket; aiq_websocket_protocol chat.v2 chat.v1; }
        location /some      { aiq_pass echo; aiq_websocket; aiq_websocket_origin https://a.example same; }
        location /any       { aiq_pass echo; aiq_websocket; aiq_websocket_origin any; }
        location /no        { aiq_pass health; aiq_websocket; }
        location /off       { aiq_pass echo; }
        location /unmatched { aiq_pass control; aiq_websocket; }
    }');
$t->start;

sub ask { return AIQ::WebSocket->ask($t, @_) }

sub refused {
    my ($what, $status, $code, $message, @ask) = @_;
    my $r = ask(@ask);
    my $error = ($t->json($r) // {})->{error} // {};

    is($r->{status}, $status, $what);
    is($error->{code}, $code, "$what: $code");
    like($error->{message}, $message, "$what: in words");
    return $r;
}

my @other = (headers => [ 'Sec-WebSocket-Version' => 8 ], drop => ['Sec-WebSocket-Version']);
my $old = refused('another version', 426, 'websocket_version', qr/13/, '/echo', @other);
is($old->{headers}{'sec-websocket-version'}, 13, 'the reply names ours');
refused('no version', 426, 'websocket_version', qr/13/, '/echo', drop => ['Sec-WebSocket-Version']);

my $wrong = sub { refused($_[0], 400, 'invalid_handshake', $_[1], '/echo', @_[ 2 .. $#_ ]) };
$wrong->('no Connection', qr/Connection/, drop => ['Connection']);
$wrong->('another Connection', qr/Connection/, drop => ['Connection'], headers => [ Connection => 'close' ]);
$wrong->('no key', qr/Key/, drop => ['Sec-WebSocket-Key']);
$wrong->('two keys', qr/Key/, headers => [ 'Sec-WebSocket-Key' => 'dGhlIHNhbXBsZSBub25jZQ==' ]);
my @key = (drop => ['Sec-WebSocket-Key'], headers => [ 'Sec-WebSocket-Key' => 'c2hvcnQ=' ]);
$wrong->('a short key', qr/16 bytes/, @key);
$wrong->('no base64', qr/16 bytes/, @key[ 0, 1 ], headers => [ 'Sec-WebSocket-Key' => '!' x 24 ]);
$wrong->('POST', qr/GET/, method => 'POST');
$wrong->('HTTP/1.0', qr/1\.1/, version => '1.0');
$wrong->('a body', qr/body/, headers => [ 'Content-Length' => 1 ], behind => 'x');

is(ask('/echo', drop => ['Upgrade'])->{status}, 200, 'without Upgrade it is a request as any');
is(ask('/echo', drop => ['Upgrade'], headers => [ Upgrade => 'h2c' ])->{status}, 200, 'with another, too');
is(ask('/off')->{status}, 200, 'without aiq_websocket, too');
is(ask('/no')->{status}, 400, 'a service that speaks no WebSocket refuses it');
is(ask('/unmatched')->{status}, 404, 'a path that is none, too');
is(ask('/echo', drop => [ 'Upgrade', 'Connection' ],
    headers => [ Upgrade => 'foo, WebSocket', Connection => 'keep-alive, UPGRADE' ])->{status},
    101, 'names among others, in any case');

# subprotocols

sub protocol { return ask('/echo', headers => [ map { ('Sec-WebSocket-Protocol' => $_) } @_ ])->{headers}{'sec-websocket-protocol'} }
is(protocol('chat.v1'), 'chat.v1', 'a protocol of ours');
is(protocol('x, chat.v1,chat.v2'), 'chat.v1', 'the first of the offer that is');
is(protocol('x', 'y , chat.v2'), 'chat.v2', 'in the second header');
is(protocol('CHAT.V1'), undef, 'another is none');
is(protocol(), undef, 'none was asked for');

# origins

sub from { my ($path, $host, $origin) = @_; return ask($path, drop => ['Host'], headers => [ Host => $host, Origin => $origin ])->{status} }
is(from('/echo', 'localhost', 'http://localhost'), 101, 'a page of this host');
is(from('/echo', 'LOCALhost', 'https://localHOST'), 101, 'over TLS');
is(from('/echo', 'localhost:80', 'http://localhost'), 101, 'the port may be said');
is(from('/echo', 'localhost:8000', 'http://localhost:8000'), 101, 'another port');
is(from('/echo', 'localhost', 'http://localhost:8000'), 403, 'a page of another port');
is(from('/echo', 'localhost', 'http://localhost.evil'), 403, 'of another host');
is(from('/echo', 'localhost', 'null'), 403, 'of nowhere');
is(from('/echo', 'localhost', 'http://'), 403, 'nothing');
is(from('/some', 'localhost', 'https://a.example'), 101, 'one of the list');
is(from('/some', 'localhost', 'http://localhost'), 101, 'same, in the list');
is(from('/some', 'localhost', 'http://a.example'), 403, 'another scheme');
is(from('/some', 'localhost', 'https://a.example:444'), 403, 'another port');
is(from('/any', 'localhost', 'null'), 101, 'any');
refused('another origin', 403, 'origin_not_allowed', qr/origin/, '/echo', headers => [ Origin => 'http://evil' ]);

# configuration

sub config {
    my ($text) = @_;
    my $c = AIQ::Test->new;

    $c->conf("server { listen 127.0.0.1:%%PORT_0%%; $text }");
    my ($status, $out) = $c->test_conf;
    return $status ? $out : '';
}
like(config('location / { aiq_websocket; }'), qr/without "aiq_pass"/, 'aiq_websocket needs aiq_pass');
like(config('location / { aiq_pass echo; aiq_websocket; aiq_websocket; }'), qr/duplicate/, 'twice');
like(config("aiq_websocket_origin $_;"), qr/invalid origin/, "origin $_") for 'a.example', 'https://a/', 'https://';
like(config('aiq_websocket_protocol "a b";'), qr/invalid protocol/, 'no token');
like(config('aiq_websocket_max_fragments 5000000000;'), qr/too large/, 'too large');

$t->finish;
done_testing();
