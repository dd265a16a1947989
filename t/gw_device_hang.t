# A GPU that stops answering in the middle of a stream: another device goes on with it, the log,
# the metrics and /health say so, and the engine ends in time, though the call never returns, nor
# what asks the driver how busy the GPUs are.

use strict;
use warnings;
use lib 't/lib';
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);
use AIQ::Test;

$ENV{AIQ_FAKE} = 'devices=2 limit=3000 only=0 hang=12';
$ENV{AIQ_FAKE_NVML} = 'hang';

my $t = AIQ::Test->new;
$ENV{LD_LIBRARY_PATH} = "$t->{build}/t/nvml";
push @{ $t->{engine_args} }, '--device', 'fake', '--kernels', "$t->{build}/t";
$t->conf("
    aiq_provider local { dialect local; model one $AIQ::Test::ROOT/demo/demo.gguf replicas=2; }
    aiq_model demo { target local model=one; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
        location /m { aiq_metrics; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');
like($t->get('/m')->{body}, qr/^aiq_device_models\{device="fake:$_"\} 1$/m, "a replica is on device $_") for 0, 1;

# greedily; of replicas that are equals the first is chosen
sub ask {
    my $r = $t->post('/v1/chat/completions', $t->chat('demo', 'What is aiq?', temperature => 0, @_),
        headers => [ 'Content-Type' => 'application/json' ]);
    is($r->{status}, 200, 'an answer');
    return $r->{body};
}

my @data = ask(stream => JSON::PP::true) =~ /^data: (.*)$/mg;
is(pop @data, '[DONE]', 'a stream to its end');
my $text = join('', map { $t->json($_)->{choices}[0]{delta}{content} // '' } @data);

my @failed = grep { ($_->{message} // '') eq 'device failed, its model moves' } $t->engine_lines;
is(join(' ', map { "$_->{device}: $_->{reason}" } @failed), 'fake:0: the device does not answer', 'the log says which and why');
is("$failed[0]{model} $failed[0]{replica}", 'one 1', 'and which replica it took along');
is($t->json(ask())->{choices}[0]{message}{content}, $text, 'the stream said what the other device says');

my $metrics = $t->get('/m')->{body};
like($metrics, qr/^$_$/m, $_) for 'aiq_device_models\{device="fake:0"\} 0', 'aiq_device_models\{device="fake:1"\} 1',
    'aiq_device_failures_total\{device="fake:0"\} 1', 'aiq_device_failures_total\{device="fake:1"\} 0', 'aiq_local_replicas\{model="one"\} 1';
my ($model) = grep { $_->{name} eq 'model one' } @{ $t->json($t->get('/health'))->{components} };
is($model->{reason}, '1 of 2 replicas', 'and /health is degraded');

my $start = time;
$t->stop("engine");
ok(time - $start < 20, 'the engine ends without those threads');
ok((grep { ($_->{message} // '') eq 'the driver does not answer, its GPUs are not watched' } $t->engine_lines),
    'the log says that the driver hangs');
ok((grep { ($_->{message} // '') eq 'ended' } $t->engine_lines), 'and cleanly');

$t->finish;
done_testing();
