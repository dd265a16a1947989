# OpenAI's endpoints for sounds and images, with its SDK: forms and files pass as they are, but
# for the model's name.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Dialects;

plan(skip_all => 'the SDKs are not installed') if !AIQ::Dialects->available;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

$t->conf($mock->providers . "
    aiq_model media { target openai model=provider-s-own; }
    aiq_model bad { target openai model=bad; }
    aiq_model other { target anthropic model=plain; }
    client_max_body_size 8m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /budget/ { aiq_budget tenant 1usd/day; aiq_pass gateway /v1/; }
    }");
$t->start;

my ($rc, $tap) = $mock->node('media.mjs', 'http://127.0.0.1:' . $t->port(0));
is($rc, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}

my @heard = grep { $_->{path} eq '/v1/audio/transcriptions' && $_->{body}{model} ne 'bad' } $mock->requests;
is_deeply([ map { $_->{body}{model} } @heard ], [ ('provider-s-own') x 2 ], 'the provider gets its own name of the model');
is_deeply([ map { $_->{body}{file}{size} } @heard ], [ 1000, 3000000 ], 'the files');
is($heard[0]{body}{file}{name}, "s\x{f6}und.mp3", 'their names');
is($heard[0]{headers}{authorization}, 'Bearer sk-mock', 'and its key');

# what the SDK does not do
my $form = join "\r\n", '--b', 'Content-Disposition: form-data; name="model"', '', 'media', '--b',
    'Content-Disposition: form-data; name="model"', '', 'bad', '--b--', '';
my $r = $t->post('/v1/audio/transcriptions', $form, headers => [ 'Content-Type' => 'multipart/form-data; boundary=b' ]);
is("$r->{status} " . $t->json($r)->{error}{code}, '400 invalid_form', 'two models in one form');
$r = $t->post('/v1/images/generations?a=b%20c', '{"model":"media","prompt":"x"}');
is($r->{status}, 200, 'a query string');
is(($mock->requests)[-1]{path}, '/v1/images/generations?a=b%20c', 'passes');
$r = $t->post('/budget/images/generations', '{"model":"media","prompt":"x"}');
is("$r->{status} " . $t->json($r)->{error}{code}, '400 unbounded_request', 'nobody knows what an image will cost');

$t->finish;
done_testing;
