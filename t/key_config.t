# Mistakes with "aiq_key" are found by nginx -t, with file and line.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

sub config {
    my ($http, $pattern, $what) = @_;

    $t->conf($http);
    my ($status, $text) = $t->test_conf;
    is($status ? 'fails' : 'passes', ref $pattern ? 'fails' : 'passes', $what);
    like($text, $pattern, "$what: why") if ref $pattern;
}

sub location { return "server { listen 127.0.0.1:%%PORT_0%%; location / { $_[0] } }" }

config(location('aiq_key models; aiq_pass echo;'), 'ok', 'a realm');
config('aiq_key "the models"; ' . location('aiq_key off;'), 'ok', 'at every level');
config('aiq_key off; ' . location('limit_except GET { aiq_key models; } proxy_pass http://127.0.0.1:1;'), 'ok',
    'in limit_except');
config(location('aiq_key off;') . '# aiq_engine none', 'ok', 'off needs no engine');
config(location('aiq_key;'), qr/invalid number of arguments in "aiq_key" directive in .*nginx.conf:\d+/, 'no realm');
config(location('aiq_key "";'), qr/invalid realm "" in .*nginx.conf:\d+/, 'an empty realm');
config(location(q{aiq_key 'a"b';}), qr/invalid realm "a"b" in .*nginx.conf:\d+/, 'a realm with a quote');
config(location('aiq_key a; aiq_key b;'), qr/"aiq_key" directive is duplicate in .*nginx.conf:\d+/, 'twice');
config(location('aiq_key off; aiq_key b;'), qr/"aiq_key" directive is duplicate/, 'off, then not');
config('# aiq_engine none
    ' . location('aiq_key models; proxy_pass http://127.0.0.1:1;'),
    qr/no "aiq_engine" is defined for "aiq_key" in .*nginx.conf:\d+/, 'without an engine');
config('aiq_limit_zone $uri zone=aiq_key:10m rate=1r/s; ' . location('aiq_key models; aiq_pass echo;'),
    qr/the zone "aiq_key" is that of "aiq_key" in .*nginx.conf:\d+/, 'a zone of its name');

done_testing;
