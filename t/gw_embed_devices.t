# Embeddings on devices that are lost: every answer is whole, in its order, and what the CPU
# says; the metrics tell where the model is.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Encoder;
use AIQ::Test;

$ENV{AIQ_FAKE} = 'lost=3';

my $t = AIQ::Test->new;
my $bert = "$t->{dir}/bert.gguf";

tiny_encoder('bert', $bert);
push @{ $t->{engine_args} }, '--device', 'fake', '--kernels', "$t->{build}/t";
$t->conf("
    aiq_provider local { dialect local; model tiny $bert; }
    aiq_model bert { target local model=tiny; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
        location /m { aiq_metrics; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');
like($t->get('/m')->{body}, qr/^aiq_device_models\{device="fake:0"\} 1$/m, 'the model is on the device');

sub ask {
    my $r = $t->post('/v1/embeddings', JSON::PP->new->encode({ model => 'bert', input => \@_ }),
        headers => [ 'Content-Type' => 'application/json' ]);
    return map { join ' ', @{ $_->{embedding} } } @{ $t->json($r)->{data} // [] };
}

my @texts = map { join ' ', ('where are the metrics', 'what is the password')[ $_ % 2 ], ('a') x ($_ % 9) } 1 .. 200;
my @many = ask(@texts);
is(scalar @many, 200, 'each text has a vector');
is(scalar(grep { ($_->{message} // '') eq 'device failed, its model moves' } $t->engine_lines),
    1, 'the device was lost meanwhile');
is_deeply(\@many, [ map { ask($_) } @texts ], 'and they are those of the texts, one by one');

my $metrics = $t->get('/m')->{body};
like($metrics, qr/^$_$/m, $_) for 'aiq_device_models\{device="fake:0"\} 0', 'aiq_device_models\{device="cpu"\} 1';

$t->finish;
done_testing();
