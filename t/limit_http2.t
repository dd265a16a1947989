# HTTP/2: streams of a connection are limited one by one, and wait side by side.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

plan(skip_all => 'no nghttp') if system('nghttp --version >/dev/null 2>&1');

my $t = AIQ::Test->new;

$t->conf('
    log_format limit "$uri $status $aiq_limit_status";
    aiq_limit_zone $arg_k zone=second:1m rate=1r/s;
    aiq_limit_zone $arg_k zone=day:1m rate=2r/d conn=3;
    aiq_limit_zone $arg_k zone=shared:1m rate=2r/d;
    server {
        listen 127.0.0.1:%%PORT_0%% http2;
        access_log %%DIR%%/logs/limit.log limit;
        location /second/ { aiq_limit zone=second burst=2; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /shared/ { aiq_limit zone=shared shared nodes=1; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /day/ { aiq_limit zone=day burst=1; proxy_pass http://127.0.0.1:%%PORT_1%%; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 hello; } }');
$t->start;

sub command { my ($n, $path) = @_; return ('nghttp', map { 'http://127.0.0.1:' . $t->port(0) . "$path&n=$_" } 1 .. $n) }

open(my $out, '-|', command(5, '/second/?k=a')) // die $!;
my $text = join('', <$out>);
my $hello = () = $text =~ /hello/g;
my $refused = () = $text =~ /"rate_limit_exceeded"/g;
cmp_ok($hello, '>=', 3, 'one at once, two wait for their turns');
is($hello + $refused, 5, 'the others are refused');

my $pid = open(my $none, '-|', command(3, '/day/?k=b')) // die $!;
$t->wait_for(sub { $t->error_log =~ /waits, zone "day"/ }, 10, 'the third has to wait');
kill('KILL', $pid);
waitpid($pid, 0);
$t->wait_for(sub { my $n = () = $t->read_file('logs/limit.log') =~ m{^/day/}mg; $n == 3 }, 10, 'the client has left');
open(my $next, '-|', command(1, '/second/?k=c')) // die $!;
is(join('', <$next>), 'hello', 'nginx goes on');

# The engine has no Redis: they ask, side by side, and go by what nginx knows.
open(my $shared, '-|', command(5, '/shared/?k=d')) // die $!;
$text = join('', <$shared>);
is((() = $text =~ /hello/g), 2, 'shared: each stream asks for itself');
is((() = $text =~ /"rate_limit_exceeded"/g), 3, 'the others are refused');

$t->finish;
done_testing;
