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
refuses(location("aiq_stream_buffer $_;"), '"aiq_stream_buffer" directive must be 0 or from 16k to 64m') for qw(1 16383 65m);
refuses(location("$_ 25h;"), qq("$_" directive must be at most 1d)) for qw(aiq_stream_grace aiq_abort_drain);
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
refuses(provider('dialect openai; url https://x; key env:A x=y;'), '"key" has an unknown parameter');
refuses(provider('dialect openai; url https://x; key env:A header=;'), '"key" has an invalid name of a header');
refuses(provider('dialect openai; url https://x; key env:A; key env:B header=x;'), '"key" must have the same "header="');
refuses(provider('dialect openai; url https://x; header "a b" c;'), '"header" has an invalid name');
refuses(provider("dialect openai; url https://x; header a \"b\r\nc: d\";"), 'invalid header');
refuses(provider('dialect openai; url https://x; header Authorization b;'), '"header" cannot have credentials');
refuses(provider('dialect openai; url https://x; header Host b;'), '"header" names one that the engine writes');
refuses(provider('dialect openai; url https://x; query "a b";'), '"query" has characters');
refuses(provider('dialect openai; url https://x; query a; query a;'), '"query" is duplicate');
refuses(provider('dialect openai; url https://x; ca a; ca b;'), '"ca" is duplicate');
refuses(provider('dialect openai; url https://x; certificate a;'), 'invalid number of arguments in "certificate"');
refuses(provider('dialect openai; url https://x; proxy socks://x;'), '"proxy" must begin with');
refuses(provider('dialect openai; url https://x; http_version 3;'), 'invalid value "3", it must be "1.1" or "2"');
refuses(provider('dialect openai; url https://x; http_version 2; http_version 1.1;'), '"http_version" is duplicate');
refuses(provider('dialect local; model a b; http_version 1.1;'), 'is local and cannot have a "http_version"');
refuses(provider('dialect openai; url https://x; retry 0;'), 'invalid number of attempts "0"');
refuses(provider('dialect openai; url https://x; retry 2 after=1s;'), 'unknown parameter "after=1s"');
refuses(provider('dialect openai; url https://x; retry 2 backoff=0;'), 'invalid time in "backoff=0"');
refuses(provider('dialect openai; url https://x; retry 2; retry 3;'), '"retry" is duplicate');
refuses(provider('dialect openai; url https://x; breaker failures=0;'), 'invalid number in "failures=0"');
refuses(provider('dialect openai; url https://x; breaker open=1s open=1s;'), '"breaker" is duplicate');
refuses(provider('dialect openai; url https://x; breaker half=1;'), 'unknown parameter "half=1"');
refuses(provider("dialect openai; url https://x; health_check $_->[0];"), $_->[1])
    for [ 'uri=models', 'does not begin with "/"' ], [ 'uri=/a?b', 'must encode' ], [ 'fails=0', 'invalid number in "fails=0"' ],
        [ 'passes=1 passes=2', '"health_check" is duplicate' ], [ 'interval=0', 'invalid time in "interval=0"' ],
        [ 'every=1s', 'unknown parameter "every=1s"' ], [ '; health_check', '"health_check" is duplicate' ];
refuses(provider('dialect local; model a b; health_check;'), 'is local and cannot have a "health_check"');
refuses(provider('dialect local;'), 'is local and has no "model"');
refuses(provider('dialect local; model a b; url https://x;'), 'is local and cannot have a "url"');
refuses(provider('dialect openai; url https://x; lacks temperature;'), 'unknown parameter "temperature"');
refuses(provider('dialect openai; url https://x; lacks;'), 'invalid number of arguments in "lacks"');
refuses(provider('dialect anthropic; url https://x; lacks stream_options;'), 'cannot have a "lacks"');
refuses(provider('dialect local; model a b; key env:A;'), 'is local and cannot have a "key"');
refuses(provider('dialect local; model a b; timeout idle=1s;'), 'is local and cannot have a "timeout"');
refuses(provider('dialect local; model a b; model a c;'), 'duplicate model "a"');
refuses(provider('dialect local; model a b c;'), 'invalid number of arguments in "model"');
refuses(provider("dialect local; model a $_->[0];"), $_->[1])
    for [ 'replicas=0', 'invalid number in "replicas=0", it must be between 1 and 15' ], [ 'b replicas=16', 'invalid number' ],
        [ 'replicas=2 replicas=2', '"model" is duplicate' ], [ 'b replicas=2 c', 'unknown parameter "c"' ],
        [ 'builtin:lexical replicas=2', '"builtin:lexical" computes on no device and cannot have "replicas"' ];
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
refuses("$local aiq_model m { target p model=a model=a; }", '"target" has a duplicate "model"');
refuses("$local aiq_model m { target p size=a; }", 'unknown parameter "size=a"');
refuses("$local aiq_model m { aim p; }", 'unknown parameter "aim" in "aiq_model"');
refuses("$local aiq_model m { target; }", 'invalid number of arguments in "target"');
refuses("$local aiq_model m { " . 'target p model=a; ' x 33 . '}', '"target" is given too often');
refuses("$local aiq_model m { target p model=a weight=0; }", 'invalid number in "weight=0"');
refuses("$local aiq_model m { target p model=a weight=1 weight=1; }", '"target" has a duplicate "weight"');
refuses("$local aiq_model m { target p model=a input=x; }", 'invalid price in "input=x"');
refuses("$local aiq_model m { target p model=a output=-1; }", 'invalid price in "output=-1"');
refuses("$local aiq_model m { target p model=a output=0.0000000001; }", 'with at most 9 decimals');
refuses("$local aiq_model m { target p model=a output=1000000.1; }", 'up to 1000000');
refuses("$local aiq_model m { target p model=a input=1 input=1; }", '"target" has a duplicate price');
refuses("$local aiq_model m { target p model=a cached=1; }", 'but none of "input"');
refuses("$local aiq_model m { target p model=a; policy best; }", 'unknown policy "best"');
refuses("$local aiq_model m { target p model=a; policy cost; policy cost; }", '"policy" is duplicate');
refuses("$local aiq_model m { target p model=a; policy order $_; }", '"policy" has an invalid number of arguments') for 'x', '$host';
refuses("$local aiq_model m { target p model=a; policy hash; }", '"hash" needs a key');
refuses("$local aiq_model m { target p model=a if=; }", '"target" has an empty value');
refuses("$local aiq_model m { target p model=a if=\$host if=1; }", '"target" has a duplicate "if"');
refuses("$local aiq_model m { target p model=a max_body=$_; }", qq{invalid size in "max_body=$_"}) for 0, 'x';
refuses("$local aiq_model m { target p model=a max_body=1 max_body=2; }", '"target" has a duplicate "max_body"');
refuses($local . join(' ', map { "aiq_model m$_ { target p model=a if=\$http_x_$_; }" } 0 .. 64),
    'too many different values "$http_x_64", there can be 64');
refuses($local . join(' ', map { "aiq_model m$_ { target p model=a; policy hash \$http_x_$_; }" } 0 .. 8),
    'too many different values "$http_x_8", there can be 8');
refuses("$local aiq_model m { target p model=a; hedge 1s; }", '"hedge" of model "m" needs another "target"');
refuses("$local aiq_model m { target p model=a; $_ 1s 2s; }", qq{invalid number of arguments in "$_"}) for qw(hedge retry_timeout);
refuses("$local aiq_model m { target p model=a; hedge 0; }", 'invalid time in "0"');
refuses("$local aiq_model m { target p model=a; retry_timeout x; }", 'invalid time in "x"');
refuses("$local aiq_model m { target p model=a; fallback on=x; }", 'unknown parameter "on=x"');
refuses("$local aiq_model m { target p model=a; fallback context=x; }", 'leads to an unknown model "x" in');
refuses("$local aiq_model m { target p model=a; fallback content=m; }", 'leads to itself, "m" in');
refuses('aiq_provider o { dialect openai; url http://x; } aiq_model m { target o input=1; policy cost; }',
    '"policy cost" of model "m" needs "input=" and "output=" in');
refuses("$local aiq_model a { target p; } aiq_model a { target p; }", 'duplicate model "a"');

accepts('aiq_model m { target p model=a; }' . $local, 'a target before its provider');
accepts('aiq_provider o { dialect openai; url http://[::1]:8080/v1///; key file:a.key;
    key env:B; header X-Title "a b"; query v=1; ca ca.pem; certificate c.pem c.key; proxy http://x:3128; http_version 1.1;
    retry 3 backoff=1s; breaker failures=3 open=1m; timeout first_byte=1m connect=5 idle=500ms total=1h; lacks stream_options max_completion_tokens;
    health_check; }
    aiq_model "meta/llama-3:free" { target o weight=2 input=0.1 output=0; target o model=x backup noncritical;
    policy latency; retry_timeout 1m; hedge 500ms; fallback context=big content=big; }
    aiq_model big { target o input=1 output=1; policy cost; }
    aiq_model same { target o if=$http_x max_body=1m; target o model=x; policy hash "$aiq_tenant of $host"; }',
    'a provider with everything');
accepts($local . join(' ', map { "aiq_model m$_ { target p model=a if=\$host; policy hash \$host; }" } 0 .. 64),
    'one condition in many models');

# aiq_budget
refuses(location('aiq_budget everybody 1usd/day; aiq_pass gateway;'), 'invalid scope "everybody"');
refuses(location("aiq_budget tenant $_; aiq_pass gateway;"), qq{invalid budget "$_", it must be like})
    for qw(1usd 1usd/year usd/day 0usd/day 0.0000000001usd/day 1.usd/day 1.2.3usd/day -1usd/day 1eur/day
        1000000001usd/day 1.5tokens/day 0tokens/day tokens/day 1tokens);
refuses(location('aiq_budget user 1usd/day; aiq_budget user 2usd/day; aiq_pass gateway;'),
    'duplicate budget of a user in usd a day');
refuses(location('proxy_pass http://127.0.0.1:1; aiq_budget user 1usd/day;'), '"aiq_budget" has nothing to count in a location');
accepts('aiq_budget tenant 200usd/month; ' . location('aiq_budget user 0.000000001usd/day;
    aiq_budget user 1000000tokens/month; aiq_budget key 99.95usd/day; aiq_pass gateway;'), 'budgets');

# aiq_files
refuses(location('aiq_files nobody; aiq_pass gateway;'), '"nobody" is no provider of the dialect "openai"');
refuses('aiq_provider files-a { dialect anthropic; url http://h; } ' . location('aiq_files files-a; aiq_pass gateway;'), '"files-a" is no provider of the dialect "openai"');
refuses(location('aiq_files a; aiq_files b; aiq_pass gateway;'), '"aiq_files" directive is duplicate');
accepts('aiq_files files-o; ' . location('aiq_pass gateway;') . ' aiq_provider files-o { dialect openai; url http://h; }', 'a provider for files');

# -t leaves nothing behind
ok(!-e $t->socket . '.policy', 'nginx -t writes no policy');

$t->finish;
done_testing;
