# Operators manage tenants, users and keys over the admin socket.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Command;
use AIQ::Test;

my $t = AIQ::Test->new;
$t->start_engine;

my $admin = $t->socket . '.admin';
my $aiq   = $t->binary('aiq');

sub aiq_ok {
    my (@args) = @_;
    my $r = run([$aiq, @args, '--admin-socket', $admin]);

    is($r->{status}, 0, "aiq @args") or diag($r->{err});
    return $r->{out};
}

sub fails {
    my ($says, @args) = @_;
    my $r = run([$aiq, @args, '--admin-socket', $admin]);

    is($r->{status}, 1, "aiq @args fails");
    is($r->{err}, "$says\n", 'and says why');
}

sub rows { return [ map { [ split /\t/ ] } split /\n/, $_[0] ] }

# the first key
my $key = aiq_ok('keys', 'create', '--admin');
like($key, qr/^aiq_[0-9A-Za-z]{32}\n\z/, 'the key, alone on standard output');
my $list = rows(aiq_ok('keys', 'list'));
is(@$list, 1, 'it is listed');
like($list->[0][0], qr/^key_[0-9A-HJKMNP-TV-Z]{26}\z/, 'with its id');
is($list->[0][1], substr($key, 0, 8), 'and how it begins');
is_deeply([ @{ $list->[0] }[2 .. 6] ], [qw(default - admin - -)], 'its tenant, user, role, models, end');

# tenants and users
like(aiq_ok('tenants', 'create', 'acme'), qr/^acme\tno\t20\d\d-/, 'a tenant');
fails('aiq tenants create: name: There is a tenant of this name.', 'tenants', 'create', 'acme');
fails("aiq tenants create: name: 'name' must be 1 to 63 of a-z, 0-9 and '-', and not begin with '-'.",
    'tenants', 'create', 'Acme');
my $alice = rows(aiq_ok('users', 'create', 'alice', '--tenant', 'acme', '--role', 'developer'))->[0];
like($alice->[0], qr/^usr_/, 'a user');
is_deeply([ @$alice[1 .. 4] ], [qw(alice acme developer no)], 'as it was asked for');
fails('aiq users create: name: The tenant has a user of this name.', 'users', 'create', 'alice', '--tenant', 'acme');
fails('aiq users create: tenant: There is no such tenant.', 'users', 'create', 'bob', '--tenant', 'none');

# keys of a user
my $more = $t->json(aiq_ok('keys', 'create', '--tenant', 'acme', '--user', 'alice', '--models', 'a,b',
    '--expires', '2999-01-31T12:00:00+01:00', '--json'));
is($more->{role}, 'developer', "a key has its user's role");
is_deeply($more->{models}, ['a', 'b'], 'and its models');
is($more->{expires_at}, '2999-01-31T11:00:00.000Z', 'and its end, in UTC');
fails('aiq keys create: role: A key may do no more than its user, who is developer.',
    'keys', 'create', '--tenant', 'acme', '--user', 'alice', '--admin');
fails('aiq keys create: user: There is no such user.', 'keys', 'create', '--user', 'alice');
fails("aiq keys create: expires_at: 'expires_at' must be a time as in RFC 3339, 2030-01-31T12:00:00Z.",
    'keys', 'create', '--expires', 'tomorrow');
is(@{ rows(aiq_ok('keys', 'list', '--tenant', 'acme')) }, 1, "a tenant's keys");

# what goes
aiq_ok('users', 'change', $alice->[0], '--role', 'viewer');
is(rows(aiq_ok('users', 'list'))->[0][3], 'viewer', 'a role changes');
aiq_ok('users', 'disable', $alice->[0]);
is(rows(aiq_ok('users', 'list'))->[0][4], 'yes', 'a user is disabled');
is(aiq_ok('keys', 'revoke', $list->[0][0]), '', 'a key is revoked, silently');
fails('aiq keys revoke: There is no such key.', 'keys', 'revoke', $list->[0][0]);
fails('aiq tenants disable: disabled: The tenant \'default\' cannot be disabled.', 'tenants', 'disable', 'default');
aiq_ok('tenants', 'delete', 'acme');
is(aiq_ok('keys', 'list'), '', 'a tenant goes with its keys');
is(aiq_ok('users', 'list'), '', 'and users');

# pages
aiq_ok('keys', 'create') for 1 .. 3;
is(@{ rows(aiq_ok('keys', 'list')) }, 3, 'a list is whole');

# what is called wrong
for my $case (
    [['keys'], 'aiq keys: what shall be done? (see --help)'],
    [['keys', 'make'], 'aiq keys: there is no make (see --help)'],
    [['keys', 'revoke'], 'aiq keys revoke: the id is missing (see --help)'],
    [['tenants', 'create'], 'aiq tenants create: the name is missing (see --help)'],
    [['tenants', 'create', 'x', '--admin'], 'aiq tenants create: --admin does not go with this (see --help)'],
    [['users', 'list', 'x'], 'aiq users list: unexpected argument x (see --help)'],
) {
    my $r = run([$aiq, @{ $case->[0] }]);
    is($r->{status}, 2, "aiq @{ $case->[0] }: called wrong");
    is($r->{err}, "$case->[1]\n", 'in one line');
}
like(run([$aiq, 'keys', 'list', '--admin-socket', $t->dir . '/none'])->{err},
    qr{^aiq keys list: no engine at \S+/none: No such file}, 'no engine');

# the door
is((stat $admin)[2] & 0777, 0600, 'the admin socket is for its owner');
SKIP: {
    skip 'another user needs root', 2 if $> != 0;
    chmod 0666, $admin;
    my $pid = fork() // die;
    if ($pid == 0) {
        $( = $) = 65534;
        $< = $> = 65534;
        my $r = run([$aiq, 'keys', 'list', '--admin-socket', $admin]);
        POSIX::_exit($r->{status} == 1 && $r->{out} eq '' ? 0 : 1);
    }
    waitpid($pid, 0);
    is($?, 0, 'another user is sent away, whatever the mode');
    is(aiq_ok('tenants', 'list') =~ tr/\n//, 1, 'root is not');
}

# an engine that takes over takes this door, too
$t->start_engine(name => 'next');
$t->wait_for(sub { !$t->alive('engine') }, 40, 'the old engine leaves');
is(aiq_ok('tenants', 'list') =~ tr/\n//, 1, 'a new engine');
ok(-S $admin, 'the old one left its socket alone');

unlike($t->engine_log, qr/$_/, 'no key in the log') for map { substr($_, 4, 32) } $key, $more->{key};
like($t->engine_log, qr/"message":"key revoked".*"by_user":"operator"/, 'who did what is logged');

$t->finish;
done_testing();
