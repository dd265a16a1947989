# S2: a token is renewed while a stream runs: the stream goes on beyond the old one's end, with
# which nothing new begins.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my $key = AIQ::JWT->new('ES256');
my $model = 'mock-stream-100000x20ms';

$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models($model) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt_key_file %%DIR%%/jwks.json;
        aiq_jwt_leeway 0s;
        location /v1/ { aiq_jwt api; aiq_pass gateway; }
    }");
$t->start;

my $token = $key->token(sub => 'ann', exp => time + 5);
my $renewed = $key->token(sub => 'ann', exp => time + 600);
sub status { return $t->get('/v1/models', AIQ::JWT::bearer($_[0]))->{status} }

my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', AIQ::JWT::bearer($token),
    body => $t->chat($model, 'hi', stream => JSON::PP::true));
is($c->head->{status}, 200, 'a stream');
ok(defined $c->event, 'that runs');

$t->wait_for(sub { status($token) == 401 }, 10, 'the token expires');
is(status($renewed), 200, 'another one is good');
my $events = 0;
$events++ while $events < 300 && defined $c->event;
is($events, 300, 'and six seconds of the stream have come');
is(status($token), 401, 'which the old one did not last');
$c->close;

$t->finish;
done_testing;
