# The policy document: what it holds, where it lies, what happens when it
# cannot be written.

use strict;
use warnings;
use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use JSON::PP ();
use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;
my $http = '
    aiq_model m { target local model=demo; }
    aiq_model "x/y:z \"q\"" {
        target remote weight=3 input=2.50 cached=0.000000001 output=10;
        target local model=two noncritical backup;
        policy weight; fallback context=m; retry_timeout 5s;
    }
    aiq_model chosen {
        target remote if=$http_x_one max_body=64k;
        target remote model=b if=$http_x_two;
        target remote model=c if=$http_x_one;
        policy hash $aiq_user; hedge 500ms;
    }
    aiq_provider local { dialect local; model demo models/demo.gguf; model two /abs/two.gguf; }
    aiq_provider remote { dialect openai; url https://api.example.com/v1/;
                          key env:KEY header=api-key; key file:key2 header=api-key;
                          header X-Project "a \"b\""; header X-Team c; query api-version=1&x=2;
                          ca ca.pem; certificate c.pem /abs/c.key; proxy http://proxy:3128; http_version 2;
                          retry 3 backoff=100ms; breaker failures=2 open=1m;
                          timeout idle=5s connect=200ms;
                          lacks stream_options; health_check uri=/up fails=3; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /echo { aiq_pass echo; aiq_max_body_size 0; location /echo/small { aiq_pass echo; } }
        location /health { aiq_health; }
        location = /metrics { aiq_metrics; }
    }';
$t->conf($http);

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;

my $folder = $t->socket . '.policy';
sub files { my @names = glob("$folder/*"); return @names }

my @files = files();
is(scalar @files, 1, 'one file');
my $text = $t->read_file($files[0]);
my $sha = sha256_hex($text);
like($files[0], qr{/$sha\.json$}, 'named by its SHA-256');
is((stat $files[0])[2] & 07777, 0644, 'its mode');
is((stat $folder)[2] & 07777, 0755, "the folder's mode");

my $policy = $t->json($text);
cmp_ok(abs(delete($policy->{epoch}) / 1e6 - Time::HiRes::time()), '<', 600, 'the epoch is now, in microseconds');
my %streams = (stream_buffer => 262144, stream_grace_ms => 10000, abort_drain_ms => 5000);

is_deeply($policy, {
    aiq => 1,
    providers => [
        { name => 'local', dialect => 'local', attempts => 5, backoff_ms => 2000,
          breaker_failures => 5, breaker_open_ms => 30000, models => [
            { name => 'demo', path => $t->dir . '/models/demo.gguf' }, { name => 'two', path => '/abs/two.gguf' } ] },
        { name => 'remote', dialect => 'openai', attempts => 3, backoff_ms => 100,
          breaker_failures => 2, breaker_open_ms => 60000, url => 'https://api.example.com/v1',
          keys => [ 'env:KEY', 'file:key2' ], key_header => 'api-key',
          headers => [ { name => 'X-Project', value => 'a "b"' }, { name => 'X-Team', value => 'c' } ],
          query => 'api-version=1&x=2', no_stream_options => JSON::PP::true,
          check => { uri => '/up', interval_ms => 5000, timeout_ms => 5000, fails => 3, passes => 1 }, ca => $t->dir . '/ca.pem', certificate => $t->dir . '/c.pem',
          certificate_key => '/abs/c.key', proxy => 'http://proxy:3128', http2 => JSON::PP::true,
          connect_ms => 200, first_byte_ms => 30000, idle_ms => 5000, total_ms => 600000 },
    ],
    models => [
        { name => 'm', policy => 'order', retry_timeout_ms => 60000,
          targets => [ { provider => 'local', model => 'demo', weight => 1 } ] },
        { name => 'x/y:z "q"', policy => 'weight', retry_timeout_ms => 5000, context_fallback => 'm',
          targets => [
            { provider => 'remote', model => 'x/y:z "q"', weight => 3, input => 2500000000, cached => 1,
              output => 10000000000 },
            { provider => 'local', model => 'two', weight => 1, backup => JSON::PP::true,
              noncritical => JSON::PP::true } ] },
        { name => 'chosen', policy => 'hash', key => 0, hedge_ms => 500, retry_timeout_ms => 60000,
          targets => [
            { provider => 'remote', model => 'chosen', weight => 1, condition => 0, max_body => 65536 },
            { provider => 'remote', model => 'b', weight => 1, condition => 1 },
            { provider => 'remote', model => 'c', weight => 1, condition => 0 } ] },
    ],
    locations => [
        { service => 'gateway', max_body => 10485760, %streams },
        { service => 'echo', max_body => 0, %streams },
        { service => 'echo', max_body => 0, %streams },
        { service => 'health', max_body => 10485760, %streams },
        { service => 'metrics', max_body => 10485760, %streams },
    ],
}, 'what it says');

# a probe does not wait for a link
$t->wait_for(sub { $t->get('/health')->{status} == 200 });
is($e->last_open->{location}, 3, 'OPEN names the location by its place in it');
is($e->last_open->{conditions}, undef, 'no condition holds');
like(my $hash = $e->last_open->{hashes}, qr/^[0-9a-f]{8}$/, 'one hash');
$t->get('/echo', headers => [ 'X-Two' => 'yes', 'X-One' => '0' ]);
is($e->last_open->{conditions}, '0200000000000000', 'the second condition holds');
is($e->last_open->{hashes}, $hash, 'of the same key');

# reloads
$t->reload;
is(scalar(@{ [ files() ] }), 2, 'a reload writes another');
for my $i (2 .. 18) {
    $t->reload;
    my @names = files();
    is(scalar @names, $i < 16 ? $i + 1 : 16, "after reload $i") if $i > 14;
}

# a reload that cannot write keeps what runs
my $before = join(',', files());
rename($folder, "$folder.aside");
$t->write_file($folder, 'in the way');
kill('HUP', $t->nginx_pid);
$t->expect_in_log(qr/of the policy for the engine/);
$t->wait_for(sub { $t->error_log =~ /\[emerg\].* cannot write ".*" of the policy for the engine; the folder of/ },
    10, 'a clear message');
pass('a reload that cannot write says so');
# of the last reload's worker it may be the first request
ok($t->wait_for(sub { $t->get('/echo')->{status} == 200 }, 10, 'it runs'), 'and what ran runs on');
unlink $folder;
rename("$folder.aside", $folder);
is(join(',', files()), $before, 'nothing has changed');

$t->stop('nginx', 'QUIT');
is(scalar(@{ [ files() ] }), 15, 'the master takes its own with it');

# neither does a start
$t->conf('aiq_engine unix:%%DIR%%/no/such/folder/engine.sock;' . $http);
ok(!eval { $t->start_nginx; 1 }, 'a start that cannot write fails');
like($@, qr/cannot make the folder ".*" of the policy for the engine/, 'and says why');

$t->finish;
done_testing;
