# Models with replicas on two devices, one of which is lost in the middle of many chats and
# embeddings: each answer is whole and what it is alone; health, log and metrics say what is left.
# A reload that asks for another number of replicas has it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Encoder;
use AIQ::Test;

$ENV{AIQ_FAKE} = 'devices=2 only=1 lost=15';

my $t = AIQ::Test->new;
my $bert = "$t->{dir}/bert.gguf";
my @type = (headers => [ 'Content-Type' => 'application/json' ]);

tiny_encoder('bert', $bert);
push @{ $t->{engine_args} }, '--device', 'fake', '--kernels', "$t->{build}/t";

sub conf {
    my ($demo, $tiny) = @_;

    $t->conf("
        aiq_provider local { dialect local; model demo %%ROOT%%/demo/demo.gguf replicas=$demo; model tiny $bert replicas=$tiny; }
        aiq_model demo { target local; }
        aiq_model tiny { target local; }
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /v1/ { aiq_pass gateway; }
            location /health { aiq_health; }
            location /m { aiq_metrics; }
        }");
}

sub metric { return (map { /^\Q$_[0]\E (\S+)$/m } $t->get('/m')->{body})[0] }

sub health {
    my $whole = $t->json($t->get('/health'));
    return join ', ', $whole->{status}, sort map { $_->{reason} // () } @{ $whole->{components} };
}

conf(3, 2);
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the models are loaded');
is(metric('aiq_device_models{device="fake:0"}'), 2, 'both are on the first device');
is(metric('aiq_device_models{device="fake:1"}'), 2, 'and on the second one');
is(metric('aiq_local_replicas{model="demo"}'), 2, 'of three that were asked for');
my ($few) = grep { ($_->{message} // '') eq q{too few devices have room for the model's replicas} } $t->engine_lines;
is("$few->{replicas} of $few->{wanted}", '2 of 3', 'the log says so');
is(health(), 'degraded, 2 of 3 replicas', 'and so does /health');

# chats, streamed, and embeddings at once
my @questions = map { "What is aiq? ($_)" } 1 .. 8;
my @texts = map { join ' ', ('where are the metrics', 'what is the password')[ $_ % 2 ], ('a') x ($_ % 9) } 1 .. 150;

sub begin {
    my ($path, $body) = @_;
    my $c = $t->connect(seconds => 60);
    $c->request('POST', $path, @type, body => $body);
    return $c;
}

sub begin_chat {
    return begin('/v1/chat/completions', $t->chat('demo', $_[0], temperature => 0, max_tokens => 24, stream => JSON::PP::true));
}

sub begin_embed { return begin('/v1/embeddings', JSON::PP->new->encode({ model => 'tiny', input => \@_ })) }

sub said {
    my @data = $_[0]->response->{body} =~ /^data: (.*)$/mg;
    my $end = pop @data // '';
    return join '', (map { $t->json($_)->{choices}[0]{delta}{content} // '' } @data), $end;
}

sub vectors { return map { join ' ', @{ $_->{embedding} } } @{ $t->json($_[0]->response)->{data} // [] } }

my @chats = map { begin_chat($_) } @questions;
my @embeds = map { begin_embed(@texts) } 1 .. 3;
my @said = map { said($_) } @chats;
my @vectors = map { [ vectors($_) ] } @embeds;

is(scalar(grep { /\[DONE\]$/ } @said), 8, 'each stream has its end');
$t->wait_for(sub { vectors(begin_embed(@texts)); metric('aiq_local_replicas{model="tiny"}') == 1 }, 20, 'the device was lost for embeddings');
$t->wait_for(sub { said(begin_chat('Hi')); metric('aiq_local_replicas{model="demo"}') == 1 }, 20, 'and for chats');
is_deeply(\@said, [ map { said(begin_chat($_)) } @questions ], 'chats are what they are alone');
my @alone = map { vectors(begin_embed($_)) } @texts;
is(scalar @alone, 150, 'as many vectors as texts');
is_deeply($_, \@alone, 'in their order') for @vectors;

is(metric("aiq_device_models{device=\"$_->[0]\"}"), $_->[1], "models on $_->[0]") for [ 'fake:0', 2 ], [ 'fake:1', 0 ], [ 'cpu', 0 ];
is(metric('aiq_device_failures_total{device="fake:1"}'), 2, 'each model lost it once');
is(health(), 'degraded, 1 of 2 replicas, 1 of 3 replicas', 'what is left of them');

# another number
conf(1, 1);
$t->reload;
$t->wait_for(sub { 4 == grep { ($_->{message} // '') eq 'model loaded' } $t->engine_lines }, 20, 'both are loaded anew');
$t->wait_for(sub { health() eq 'healthy' }, 20, 'what is asked for is there');
$t->wait_for(sub { metric('aiq_device_models{device="fake:0"}') == 2 }, 20, 'where it was');
is(said(begin_chat($questions[0])), $said[0], 'it says the same');

$t->finish;
done_testing;
