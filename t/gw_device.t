# A local model whose device is lost in the middle of a stream: the stream is whole, the log and
# the metrics say so, and the model goes on on the CPU.

use strict;
use warnings;
use lib 't/lib';
use JSON::PP ();
use Test::More;
use AIQ::Test;

$ENV{AIQ_FAKE} = 'lost=12 slow=5';
$ENV{AIQ_FAKE_NVML} = 37;

my $t = AIQ::Test->new;
$ENV{LD_LIBRARY_PATH} = "$t->{build}/t/nvml";
push @{ $t->{engine_args} }, '--device', 'gone,fake', '--kernels', "$t->{build}/t";
$t->conf("
    aiq_provider local { dialect local; model one $AIQ::Test::ROOT/demo/demo.gguf; }
    aiq_model demo { target local model=one; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
        location /m { aiq_metrics; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

sub line { my ($message) = @_; return grep { ($_->{message} // '') eq $message } $t->engine_lines }

is((line('no such device, others serve'))[0]{device}, 'gone', 'a library that is not there is done without');
is_deeply([ map { $_->{device} } line('device') ], [ 'fake:0' ], 'the device is named');
like($t->get('/m')->{body}, qr/^aiq_device_models\{device="fake:0"\} 1$/m, 'the model is on the device');

sub ask {
    my $r = $t->post('/v1/chat/completions', $t->chat('demo', 'What is aiq?', temperature => 0, @_),
        headers => [ 'Content-Type' => 'application/json' ]);
    is($r->{status}, 200, 'an answer');
    return $r->{body};
}

my @data = ask(stream => JSON::PP::true) =~ /^data: (.*)$/mg;
is(pop @data, '[DONE]', 'a stream to its end');
my $text = join('', map { $t->json($_)->{choices}[0]{delta}{content} // '' } @data);

my @failed = line('device failed, its model moves');
is(scalar @failed, 1, 'the device was lost');
is("$failed[0]{device}: $failed[0]{reason}", 'fake:0: the fake device is lost', 'and the log says which and why');
is("$failed[0]{model} $failed[0]{replica}", 'one 1', 'and whom it took along');
is($t->json(ask())->{choices}[0]{message}{content}, $text, 'the stream said what the CPU says');
is_deeply([ map { $_->{model} } line('no device takes a model, the CPU does') ], ['one'], 'which is worth a line');

my $metrics = $t->get('/m')->{body};
like($metrics, qr/^$_$/m, $_) for 'aiq_device_models\{device="fake:0"\} 0', 'aiq_device_models\{device="cpu"\} 1',
    'aiq_device_failures_total\{device="fake:0"\} 1', 'aiq_device_failures_total\{device="cpu"\} 0';

# the driver's telemetry; the second device tells less
$t->wait_for(sub { $t->get('/m')->{body} =~ /^aiq_gpu_memory_bytes\{gpu="GPU-1"\}/m }, 10, 'the driver was asked');
is_deeply([ sort $t->get('/m')->{body} =~ /^aiq_gpu_(.*)$/mg ], [ sort
    'utilization_percent{gpu="GPU-0"} 37', 'memory_used_bytes{gpu="GPU-0"} 1000000000', 'memory_bytes{gpu="GPU-0"} 150000000000',
    'temperature_celsius{gpu="GPU-0"} 41', 'power_watts{gpu="GPU-0"} 77',
    'utilization_percent{gpu="GPU-1"} 38', 'memory_used_bytes{gpu="GPU-1"} 1000000000', 'memory_bytes{gpu="GPU-1"} 150000000000' ],
    'what each GPU tells');

$t->finish;
done_testing();
