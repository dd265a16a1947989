# Provider keys: sent to the provider, seen by nobody else.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-from-env' });
my $mock = AIQ::Mock->new($t);
my $secrets = $t->dir . '/secrets';

mkdir $secrets;
$t->write_file('secrets/mock.key', "sk-from-file\n");
$t->{engine_args} = [ '--secrets', $secrets ];
$t->conf("
    aiq_provider env  { dialect openai; url @{[ $mock->url ]}; key env:MOCK_KEY; }
    aiq_provider file { dialect openai; url @{[ $mock->url ]}; key file:mock.key; }
    aiq_provider gone { dialect openai; url @{[ $mock->url ]}; key env:NO_SUCH_KEY; }
    aiq_model env { target env; }
    aiq_model file { target file; }
    aiq_model gone { target gone; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } location /health { aiq_health; } }");
$t->start;

sub ask {
    return $t->post('/v1/chat/completions', $t->chat($_[0], 'hi'),
        headers => [ Authorization => 'Bearer the-clients-own' ]);
}

sub sent { return ($mock->requests)[-1]{head} =~ /^Authorization: (.*?)\r?$/mi ? $1 : undef }

is(ask('env')->{status}, 200, 'a key from the environment');
is(sent(), 'Bearer sk-from-env', 'is sent');
is(ask('file')->{status}, 200, 'a key from a file');
is(sent(), 'Bearer sk-from-file', 'is sent');

# a new key in the file is found without a restart
$t->write_file('secrets/mock.key', 'sk-other');
ok(eval { $t->wait_for(sub { ask('file')->{status} == 200 && sent() eq 'Bearer sk-other' }, 10) }, 'a new one is read');

my $r = ask('gone');
is($r->{status}, 503, 'a missing key');
my $e = $t->json($r)->{error};
is($e->{code}, 'provider_key_missing', 'its code');
like($e->{message}, qr/'gone'/, 'names the provider');
unlike($e->{message}, qr/NO_SUCH_KEY/, 'and not the secret');

$r = $t->get('/health');
is($r->{status}, 200, 'the engine serves on');
is($t->json($r)->{status}, 'degraded', 'but says so');
my ($c) = grep { $_->{name} eq 'provider gone' } @{ $t->json($r)->{components} };
is($c->{status}, 'degraded', 'of this provider');
ok(!(grep { $_->{name} eq 'provider env' && $_->{status} ne 'healthy' } @{ $t->json($r)->{components} }),
    'not of the others');

unlike($t->engine_log . $t->error_log . $t->get('/health')->{body}, qr/sk-(?:from|other)/, 'no log has a key');

$t->finish;
done_testing;
