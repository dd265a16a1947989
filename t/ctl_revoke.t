# A key that loses something loses it within a second, in every nginx and engine, and
# so do the requests that run with it.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new(engine_args => [ '--loops', 2 ]);
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models('mock-chat', 'mock-stream-100000x20ms') ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_key \"models\"; aiq_pass gateway; }
    }", workers => 2);
$t->start;

my $admin = AIQ::Admin->new($t);
$admin->json(qw(tenants create acme));
my $alice = $admin->json(qw(users create alice --tenant acme --role developer));

sub new_key { return $admin->json(qw(keys create --tenant acme), @_) }
sub models { return $t->get('/v1/models', headers => AIQ::Admin::bearer($_[0]{key})) }
sub status { return models($_[0])->{status} }

sub ends_with {
    my ($key, $status, $name) = @_;

    # longer than promised: the machine may be busy, but never is it for good
    my $row = 0;
    ok(eval { $t->wait_for(sub { ($row = status($key) == $status ? $row + 1 : 0) == 8 }, 10) }, "$name: $status, at every worker");
}

sub open_stream {
    my ($key) = @_;
    my $c = $t->connect;

    $c->request('POST', '/v1/chat/completions', headers => AIQ::Admin::bearer($key->{key}),
        body => $t->chat('mock-stream-100000x20ms', 'hi', stream => JSON::PP::true));
    is($c->head->{status}, 200, 'a stream');
    ok(defined $c->event, 'that runs');
    return $c;
}

# Reads on until the stream's end; without it this would take minutes.
sub stream_ends {
    my ($c, $name) = @_;
    my $end = time() + 60;
    my $last = '';

    while (time() < $end) {
        my $event = eval { $c->event } // last;
        $last = $event;
    }
    cmp_ok(time(), '<', $end, $name);
    like($last, qr/"code":"key_revoked"/, 'and says why');
    ok(eval { $t->wait_for(sub { $mock->stats->{open} == 1 }, 10) }, 'its provider is left alone');
}

my $other = new_key();
my $bystander = open_stream($other);

# a key
my $key = new_key(qw(--user alice));
is(status($key), 200, 'a key is good') for 1 .. 8;
$admin->json('keys', 'revoke', $key->{id});
ends_with($key, 401, 'revoked');

# its user
$key = new_key(qw(--user alice));
is(status($key), 200, 'a key of a user');
$admin->json(qw(users disable), $alice->{id});
ends_with($key, 403, 'its user is disabled');
$admin->json(qw(users enable), $alice->{id});
ends_with($key, 200, 'and enabled');

# its tenant
$admin->json(qw(tenants disable acme));
ends_with($key, 403, 'its tenant is disabled');
$admin->json(qw(tenants enable acme));
ends_with($key, 200, 'and enabled');

stream_ends($bystander, 'the stream of a disabled tenant ends');

# its stream
my $stream = open_stream($key);
$admin->json('keys', 'revoke', $key->{id});
stream_ends($stream, 'the stream of a revoked key ends');

# its role
$key = new_key(qw(--user alice));
$admin->json(qw(users change), $alice->{id}, '--role', 'viewer');
is($t->post('/v1/chat/completions', $t->chat('mock-chat', 'hi'), headers => AIQ::Admin::bearer($key->{key}))->{status}, 403,
    'a role that was taken');

# its models
$key = new_key(qw(--models mock-chat));
is_deeply([ map { $_->{id} } @{ $t->json(models($key))->{data} } ], ['mock-chat'], 'only the models of the key are there');
my $chat = sub {
    my ($model) = @_;
    return $t->post('/v1/chat/completions', $t->chat($model, 'hi'), headers => AIQ::Admin::bearer($key->{key}));
};
is($chat->('mock-chat')->{status}, 200, 'one that it allows');
my $r = $chat->('mock-stream-100000x20ms');
is($r->{status}, 404, 'another is not there');
is($t->json($r)->{error}{code}, 'model_not_found', 'as if it did not exist');
is($t->get('/v1/models/mock-stream-100000x20ms', headers => AIQ::Admin::bearer($key->{key}))->{status}, 404, 'here too');

# its end
my @end = gmtime(time() + 4);
$key = new_key('--expires', sprintf('%04d-%02d-%02dT%02d:%02d:%02dZ', $end[5] + 1900, $end[4] + 1, @end[3, 2, 1, 0]));
ends_with($key, 401, 'expired');

$t->finish;
done_testing();
