# Two engines with one store: what one of them takes away the other takes away, too,
# within a second; and a key that was answered outlives the engine that made it.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Admin;
use AIQ::Postgres;
use AIQ::Test;

my ($t, $pg, $socket, $other, $store);

sub start_other {
    unlink "$socket.admin";
    $t->_spawn('other', $t->dir . '/logs/other.log', $t->binary('aiq-engine'), '--socket', $socket,
        '--store', $store);
    $t->wait_for(sub { -S $socket && -S "$socket.admin" }, 30, 'the other engine listens');
}

sub status {
    return $t->get('/v1/models', headers => AIQ::Admin::bearer($_[0]{key}))->{status};
}

sub becomes {
    my ($key, $status, $name) = @_;

    ok(eval { $t->wait_for(sub { status($key) == $status }, 10) }, "$name: $status");
}

sub two_engines {
    $t->conf('
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /v1/ { aiq_key "models"; aiq_pass gateway; }
        }');
    $t->start;

    $socket = $t->dir . '/other.sock';
    $other  = AIQ::Admin->new($t, socket => "$socket.admin");
    start_other();

    # made here, used there, revoked here
    my $key = $other->json(qw(keys create));
    is(status($key), 200, 'a key of the other engine');
    is(status($key), 200, 'again') for 1 .. 3;
    $other->json('keys', 'revoke', $key->{id});
    becomes($key, 401, 'revoked by the other engine');

    # the engine dies after its answer
    for (1 .. 3) {
        my @keys = map { $other->json(qw(keys create)) } 1 .. 3;
        $other->json('keys', 'revoke', $keys[0]{id});
        $t->kill_hard('other');
        becomes($keys[0], 401, 'what was revoked before the crash');
        is(status($keys[$_]), 200, 'what was made before the crash') for 1, 2;
        start_other();
        is(scalar(grep { $_->{id} eq $keys[1]{id} } @{ $other->json(qw(keys list)) }), 1, 'and is listed after it');
    }

    # nginx's own engine dies, too
    $key = $other->json(qw(keys create));
    is(status($key), 200, 'a key');
    $t->kill_hard('engine');
    $other->json('keys', 'revoke', $key->{id});
    becomes($key, 503, 'without an engine nobody is let in');
    $t->start_engine;
    becomes($key, 401, 'revoked while its engine was away');
}

subtest 'SQLite' => sub {
    $t = AIQ::Test->new;
    $store = 'sqlite:' . $t->dir . '/aiq.db';
    two_engines();
    $t->finish;
};

subtest 'PostgreSQL' => sub {
    $t  = AIQ::Test->new;
    $pg = AIQ::Postgres->new($t) or plan skip_all => 'no PostgreSQL here';
    $store = $pg->url;
    $t->{engine_args} = [ '--store', $store ];
    two_engines();

    # the store dies
    my $key = $other->json(qw(keys create));
    is(status($key), 200, 'a key');
    $pg->kill_hard;
    becomes($key, 503, 'nobody can say whose it is');
    like($other->run(qw(keys create))->{err}, qr/^aiq keys create: /, 'nor make another');
    $pg->start;
    becomes($key, 200, 'the store is back');
    $t->stop_all;
    $pg->stop;
    $t->finish;
};

done_testing();
