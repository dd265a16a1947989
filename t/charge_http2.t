# HTTP/2: the streams of a connection are charged one by one, side by side.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

plan(skip_all => 'no nghttp') if system('nghttp --version >/dev/null 2>&1');

my $t = AIQ::Test->new;

$t->conf('
    log_format cost "$uri $status $aiq_tokens_in";
    server {
        listen 127.0.0.1:%%PORT_0%% http2;
        access_log %%DIR%%/logs/cost.log cost;
        location /charged { aiq_budget tenant 10tokens/month; aiq_charge 2tokens; proxy_pass http://127.0.0.1:%%PORT_1%%; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 hello; } }');
$t->start;

my @urls = map { 'http://127.0.0.1:' . $t->port(0) . "/charged?n=$_" } 1 .. 8;
open(my $out, '-|', 'nghttp', @urls) // die $!;
my $text = join('', <$out>);
my $hello = () = $text =~ /hello/g;
my $refused = () = $text =~ /"budget_(?:exceeded|reserved)"/g;
is("$hello $refused", '5 3', 'as many as the budget is for');
$t->wait_for(sub { my $n = () = $t->read_file('logs/cost.log') =~ /^/mg; $n == 8 }, 10, 'the log');
my @charged = $t->read_file('logs/cost.log') =~ m{^/charged 200 2$}mg;
is(scalar @charged, 5, 'each is charged');

$t->finish;
done_testing;
