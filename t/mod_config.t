# nginx -t refuses what makes no sense, and says what and where.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->expect_in_log(qr/\[emerg\]/);    # new versions log them even under -t

sub refuses {
    my ($http, $message, $what) = @_;

    $t->conf($http);
    my ($status, $text) = $t->test_conf;
    isnt($status, 0, ($what // $message) . ': refused');
    like($text, $message =~ /^\(\?/ ? $message : qr/\Q$message\E/, 'the message');
    like($text, qr/nginx\.conf:\d+/, 'the line');
    return $text;
}

sub accepts {
    my ($http, $what) = @_;

    $t->conf($http);
    my ($status, $text) = $t->test_conf;
    is($status, 0, $what) or diag($text);
}

sub location { return "server { listen 127.0.0.1:%%PORT_0%%; location / { $_[0] } }" }
sub provider { return "aiq_provider p { $_[0] }" }

# aiq_engine
refuses('aiq_engine /run/x;', 'invalid engine "/run/x", it must be "unix:path"');
refuses('aiq_engine unix:;', 'invalid engine "unix:"');
refuses('aiq_engine unix:/' . 'x' x 120 . ';', 'is too long for a unix socket');
refuses('aiq_engine unix:/a; aiq_engine unix:/b;', '"aiq_engine" directive is duplicate');
$t->raw_conf('load_module %%MODULE%%; events {} pid %%DIR%%/nginx.pid; error_log %%DIR%%/logs/error.log;
    http { server { location / { aiq_pass echo; } } }');
my ($status, $text) = $t->test_conf;
isnt($status, 0, 'aiq_pass without aiq_engine: refused');
like($text, qr/no "aiq_engine" is defined for the service "echo" in .*nginx\.conf:2/, 'the message');

# aiq_pass
refuses(location('aiq_pass Echo;'), 'invalid service name "Echo"');
refuses(location('aiq_pass e$cho;'), 'invalid service name "e$cho"');
refuses(location('aiq_pass echo; aiq_pass echo;'), '"aiq_pass" directive is duplicate');
refuses(location('aiq_pass echo; aiq_health;'), '"aiq_health" directive is duplicate');
refuses(location('aiq_pass echo v1;'), 'invalid prefix "v1", it must begin with "/"');
refuses(location('if ($arg_x) { aiq_pass echo; }'), '"aiq_pass" directive is not allowed here');
refuses('server { aiq_pass echo; }', '"aiq_pass" directive is not allowed here');
refuses('server { location ~ ^/x { aiq_pass echo /; } }', 'cannot have a prefix');
refuses('server { location @x { aiq_pass echo /; } }', 'cannot have a prefix');
refuses(location('aiq_max_body_size big;'), '"aiq_max_body_size" directive invalid value');
refuses(location('aiq_read_timeout 1x;'), '"aiq_read_timeout" directive invalid value');

# aiq_provider
refuses(provider(''), 'provider "p" has no "dialect"');
refuses(provider('dialect klingon;'), 'unknown dialect "klingon"');
refuses(provider('dialect openai; dialect openai;'), '"dialect" is duplicate');
refuses(provider('dialect;'), 'invalid number of arguments in "dialect"');
refuses(provider('colour red;'), 'unknown parameter "colour" in "aiq_provider"');
refuses(provider('dialect openai;'), 'provider "p" has no "url"');
refuses(provider('dialect openai; url ftp://x;'), '"url" must begin with');
refuses(provider('dialect openai; url https://;'), '"url" has no host');
refuses(provider('dialect openai; url https:///v1;'), '"url" has no host');
refuses(provider('dialect openai; url https://me:secret@x/;'), '"url" cannot have credentials');
refuses(provider('dialect openai; url https://x/?a=b;'), '"url" cannot have arguments');
refuses(provider('dialect openai; url "https://x/a b";'), '"url" has characters');
refuses(provider('dialect openai; url https://x; url https://x;'), '"url" is duplicate');
refuses(provider('dialect openai; url https://x; model a b;'), 'is not local and cannot have a "model"');
$text = refuses(provider('dialect openai; url https://x; key sk-123456789;'), '"key" cannot be written here');
like($text, qr/env:NAME.*file:NAME/, 'both forms are named');
unlike($text, qr/sk-1234/, 'the key is not');
refuses(provider('dialect openai; url https://x; key env:;'), '"key" has an invalid name of an environment');
refuses(provider('dialect openai; url https://x; key file:../x;'), '"key" has an invalid name of a file');
refuses(provider('dialect openai; url https://x; key env:A; key env:A;'), '"key" is duplicate');
refuses(provider('dialect openai; url https://x; timeout idle=0;'), 'invalid time in "idle=0"');
refuses(provider('dialect openai; url https://x; timeout idle=2d;'), 'invalid time in "idle=2d"');
refuses(provider('dialect openai; url https://x; timeout idle=x;'), 'invalid time in "idle=x"');
refuses(provider('dialect openai; url https://x; timeout all=1s;'), 'unknown parameter "all=1s"');
refuses(provider('dialect openai; url https://x; timeout idle=1s idle=1s;'), '"timeout" is duplicate');
refuses(provider('dialect local;'), 'is local and has no "model"');
refuses(provider('dialect local; model a b; url https://x;'), 'is local and cannot have a "url"');
refuses(provider('dialect local; model a b; key env:A;'), 'is local and cannot have a "key"');
refuses(provider('dialect local; model a b; timeout idle=1s;'), 'is local and cannot have a "timeout"');
refuses(provider('dialect local; model a b; model a c;'), 'duplicate model "a"');
refuses(provider('dialect local; model a;'), 'invalid number of arguments in "model"');
refuses(provider("dialect local; model \"a\x01\" b;"), 'invalid model');
refuses(provider("dialect local; model \xff b;"), 'invalid model');
refuses(provider('dialect local; model a b; x { }'), 'unexpected "{"');
refuses(provider('dialect local; model a b;') x 2, 'duplicate provider "p"');

# aiq_model
my $local = provider('dialect local; model a b;');
refuses('aiq_model m { }', 'model "m" has no "target"');
refuses("aiq_model m { target p; } \n", 'unknown provider "p" in');
refuses("$local aiq_model m { target p; }", 'provider "p" has no model "m" in');
refuses("$local aiq_model m { target p model=; }", 'invalid model ""');
refuses("$local aiq_model m { target p model=a model=a; }", '"model" is duplicate');
refuses("$local aiq_model m { target p size=a; }", 'unknown parameter "size=a"');
refuses("$local aiq_model m { aim p; }", 'unknown parameter "aim" in "aiq_model"');
refuses("$local aiq_model m { target; }", 'invalid number of arguments in "target"');
refuses("$local aiq_model m { target p model=a; target p model=a; }", 'has a second "target"');
refuses("$local aiq_model a { target p; } aiq_model a { target p; }", 'duplicate model "a"');

accepts('aiq_model m { target p model=a; }' . $local, 'a target before its provider');
accepts('aiq_provider o { dialect openai; url http://[::1]:8080/v1///; key file:a.key;
    timeout first_byte=1m connect=5 idle=500ms; } aiq_model "meta/llama-3:free" { target o; }',
    'a provider with everything');

# -t leaves nothing behind
ok(!-e $t->socket . '.policy', 'nginx -t writes no policy');

$t->finish;
done_testing;
