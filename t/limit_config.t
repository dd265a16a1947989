# Mistakes with limits are found by nginx -t, with file and line.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

sub config {
    my ($http, $pattern, $what) = @_;

    $t->conf("# aiq_engine none\n$http");
    my ($status, $text) = $t->test_conf;
    is($status ? 'fails' : 'passes', ref $pattern ? 'fails' : 'passes', $what);
    like($text, $pattern, "$what: why") if ref $pattern;
}

sub location { return "server { listen 127.0.0.1:%%PORT_0%%; location / { $_[0] proxy_pass http://127.0.0.1:1; } }" }
sub zone { return "aiq_limit_zone \$remote_addr $_[0];" . location('') }
sub limit { return 'aiq_limit_zone $remote_addr zone=a:1m rate=2r/m; aiq_limit_zone $host zone=c:1m conn=2;' . location($_[0]) }

my $here = qr/ in .*nginx.conf:\d+/;

config(zone('zone=a:1m rate=100r/m'), 'ok', 'a rate, without an engine');
config(zone("zone=a:1m rate=1r/$_"), 'ok', "per $_") for qw(s m h d);
config(zone('zone=a:1m conn=10'), 'ok', 'concurrency');
config(zone('conn=10 rate=1000000000r/d zone=a-b_c:32k'), 'ok', 'both');
config(zone('zone=a:1m'), qr/must have "rate" or "conn" parameter$here|invalid number of arguments/, 'nothing to limit');
config(zone('rate=1r/s conn=1'), qr/must have "zone" parameter$here/, 'no zone');
config(zone("zone=$_ rate=1r/s"), qr/invalid zone "zone=$_", it must be "zone=name:size"$here/, "zone=$_") for 'a', 'a:', ':1m', 'a:x';
config(zone('zone="a b:1m" rate=1r/s'), qr/invalid zone/, 'a name with a space');
config(zone('zone=a:16k rate=1r/s'), qr/zone "zone=a:16k" is too small$here/, 'a small zone');
config(zone("zone=a:1m rate=$_"), qr/invalid rate "rate=\Q$_\E"/, "rate=$_")
    for '0r/s', '-1r/s', '1', 'r/s', '1r/w', '1.5r/s', '1000000001r/d', '0t/m', '5x/m', '1r/ms';
config(zone('zone=a:1m rate=5t/m conn=1'), qr/"conn" needs a zone without a rate of tokens$here/, 'tokens at a time');
config(zone("zone=a:1m conn=$_"), qr/invalid number of requests "conn=$_"$here/, "conn=$_") for 0, 'x', '-1', 1000000001;
config(zone('zone=a:1m rate=1r/s shared'), qr/invalid parameter "shared"$here/, 'what it does not know');
config(zone('zone=a:1m rate=1r/s') . 'aiq_limit_zone $uri zone=a:1m rate=1r/s;', qr/zone "a" is duplicate$here/, 'a zone twice');
config('aiq_limit_zone $nothing zone=a:1m rate=1r/s;' . location(''), qr/unknown "nothing" variable/, 'an unknown variable');

config(limit('aiq_limit zone=a burst=5 dry_run; aiq_limit zone=c;'), 'ok', 'two limits');
config(limit('aiq_limit burst=5;'), qr/must have "zone" parameter$here/, 'a limit without a zone');
config(limit('aiq_limit zone=a; aiq_limit zone=a;'), qr/"aiq_limit" directive is duplicate$here/, 'a limit twice');
config(limit('aiq_limit zone=other;'), qr/no "aiq_limit_zone" is defined for the zone "other"$here/, 'a zone that is not');
config(limit("aiq_limit zone=a burst=$_;"), qr/invalid burst value "burst=$_"/, "burst=$_") for 0, -1, 'x', 1025;
config(limit('aiq_limit zone=c burst=1;'), qr/"burst" needs a zone with "rate"$here/, 'a burst without a rate');
config('aiq_limit_zone $host zone=d:1m rate=1r/d;' . location('aiq_limit zone=d burst=2;'),
    qr/longer than a day$here/, 'who would wait for days');
config(limit('aiq_limit zone=a burst=2 nodelay;'), qr/there is no "nodelay": without "burst" requests are let through at once, or refused$here/, 'nodelay');
config(limit("aiq_limit zone=a burst=2 delay=$_;"), 'ok', "delay=$_") for 0, 1;
config(limit("aiq_limit zone=a burst=2 delay=$_;"), qr/invalid delay value "delay=$_"$here/, "delay=$_") for -1, 'x', '';
config(limit('aiq_limit zone=a burst=2 delay=2;'), qr/"delay" must be less than the rate's number$here/, 'no delay at all');
config(limit("aiq_limit zone=a delay=1 $_;"), qr/"delay" needs "burst", and is not for what is "shared"$here/, "delay with '$_'")
    for '', 'burst=2 shared nodes=1';
config(join('', map { "aiq_limit_zone \$host zone=z$_:32k rate=1r/s;" } 1 .. 17)
    . location(join('', map { "aiq_limit zone=z$_;" } 1 .. 17)), qr/"aiq_limit" directive is one too many$here/, 'seventeen');
sub tokens { return 'aiq_limit_zone $host zone=t:1m rate=9t/m;' . $_[0] }
config(tokens(location('aiq_limit zone=t;')), qr/a rate of tokens has nothing to count in a location without "aiq_pass gateway" or "aiq_charge" of tokens$here/,
    'tokens of what is proxied');
config(tokens('aiq_limit zone=t;' . location('')), 'ok', 'unless it is inherited');
config('aiq_engine unix:%%DIR%%/e;' . tokens('server { listen 127.0.0.1:%%PORT_0%%; location / { aiq_limit zone=t; aiq_pass echo; } }'),
    qr/without "aiq_pass gateway" or "aiq_charge" of tokens$here/, 'tokens of an echo');
config(tokens(location('') . "server { aiq_limit zone=t $_; }"), qr/"burst" and "dry_run" are not for a rate of tokens$here/, $_)
    for 'burst=1', 'dry_run';
config(join('', map { "aiq_limit_zone \$host zone=t$_:1m rate=9t/m;" } 1 .. 5)
    . 'server { ' . join('', map { "aiq_limit zone=t$_;" } 1 .. 5) . ' }', qr/more than 4 rates of tokens on this level$here/, 'five');
sub shared { return "aiq_engine unix:%%DIR%%/e;" . limit("aiq_limit zone=a shared $_[0];") }
config(shared($_), 'ok', $_) for 'nodes=2', 'fail_closed', 'nodes=1 burst=2', 'dry_run fail_closed';
config(shared($_), qr/"shared" must have either "nodes=number" or "fail_closed", and these are for nothing else$here/, "shared $_")
    for '', 'burst=2', 'nodes=2 fail_closed';
config(limit("aiq_limit zone=a $_;"), qr/these are for nothing else$here/, "$_ of what is not shared") for 'nodes=2', 'fail_closed';
config(shared("nodes=$_"), qr/invalid number of nodes "nodes=$_"$here/, "nodes=$_") for 0, 'x', -1;
config(shared('nodes=3'), qr/"nodes" is more than the rate has requests for$here/, 'nothing left for a node');
config('aiq_engine unix:%%DIR%%/e;' . limit('aiq_limit zone=c shared nodes=1;'),
    qr/"shared" needs a zone with a rate and nothing else$here/, 'concurrency is not shared');
sub shared_tokens { return 'aiq_engine unix:%%DIR%%/e; aiq_limit_zone $remote_addr zone=t:1m rate=2t/m;'
    . "server { listen 127.0.0.1:%%PORT_0%%; location / { aiq_limit zone=t shared $_[0]; aiq_pass gateway; } }" }
config(shared_tokens($_), 'ok', "tokens, $_") for 'nodes=2', 'fail_closed';
config(shared_tokens('nodes=3'), qr/"nodes" is more than the rate has tokens for$here/, 'no tokens left for a node');
config(shared_tokens('fail_closed burst=1'), qr/"burst" and "dry_run" are not for a rate of tokens$here/, 'nor do tokens wait');
config(limit('aiq_limit zone=a shared nodes=1;'), qr/no "aiq_engine" is defined for the service "limits"$here/, 'shared by whom');
config('aiq_engine unix:%%DIR%%/e;' . join('', map { "aiq_limit_zone \$host zone=s$_:1m rate=9r/m;" } 1 .. 9)
    . 'server { ' . join('', map { "aiq_limit zone=s$_ shared nodes=2;" } 1 .. 9) . ' }', qr/more than 8 shared limits on this level$here/, 'nine');
config(limit('aiq_limit_log_level info;'), 'ok', 'a level');
config(limit('aiq_limit_log_level loud;'), qr/invalid value "loud"$here/, 'no level');

done_testing;
