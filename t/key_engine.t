# Keys from their creation to their end, with the engine, in all workers.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Admin;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%% reuseport;
        aiq_key "models";
        location / {
            add_header X-Who "$pid $aiq_tenant $aiq_user $aiq_role" always;
            aiq_pass echo;
        }
        location /behind { add_header X-Who $pid always; proxy_pass http://127.0.0.1:%%PORT_1%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        aiq_key off;
        return 200 "behind\n";
    }', workers => 3);
$t->start;
$t->wait_for(sub { (() = $t->engine_log =~ /worker connected/g) >= 3 }, 20, 'three links');

my $admin = AIQ::Admin->new($t);

sub get { return $t->get($_[1] // '/behind', headers => [ Authorization => "Bearer $_[0]" ]) }

# Asks until each worker has answered; what they say, and which they were.
sub all_workers {
    my ($key) = @_;
    my (%workers, %status);

    $t->wait_for(sub {
        my $r = get($key);
        $workers{ $r->{headers}{'x-who'} } = 1;
        $status{ $r->{status} }++;
        keys %workers == 3;
    }, 30, 'three workers');
    return join(' ', sort keys %status);
}

# made and used
$admin->json(qw(tenants create acme));
my $user = $admin->json(qw(users create alice --tenant acme --role developer))->{id};
my ($key, $id) = @{ $admin->json(qw(keys create --tenant acme --user alice)) }{qw(key id)};
my $r = get($key, '/echo');
is($r->{status}, 200, 'a key opens');
like($r->{headers}{'x-who'}, qr/^\d+ acme alice developer$/, 'and nginx knows whose it is');
is(all_workers($key), '200', 'in every worker');
is(all_workers("${key}x"), '401', 'another one opens in none');

# the end of a key is one in every worker, at once: not only where it was asked for
$admin->run(qw(keys revoke), $id);
$t->wait_for(sub { get($key)->{status} == 401 }, 10, 'the end of the key');
is(all_workers($key), '401', 'revoked: it opens in none');

# a user
$key = $admin->json(qw(keys create --tenant acme --user alice))->{key};
is(all_workers($key), '200', 'another key');
$admin->json(qw(users change), $user, qw(--role viewer));
$t->wait_for(sub { get($key, '/echo')->{headers}{'x-who'} =~ /viewer$/ }, 10, 'another role');
pass('the role follows');
$admin->json(qw(users disable), $user);
$t->wait_for(sub { get($key)->{status} == 403 }, 10, 'the end of the user');
is(all_workers($key), '403', 'disabled: it opens in none');

# the engine goes; it had acknowledged the key
$key = $admin->json(qw(keys create --admin))->{key};
is(all_workers($key), '200', 'a third key');
$t->kill_hard('engine');
my %status;
$t->wait_for(sub { $status{ get($key)->{status} }++; ($status{503} // 0) >= 6 }, 20, 'the loss is seen');
is(all_workers($key), '503', 'the engine is lost: nothing that is remembered is accepted');
$t->start_engine;
$t->wait_for(sub { get($key)->{status} == 200 }, 20, 'its successor');
is(all_workers($key), '200', 'its successor knows the key');

$t->finish;
done_testing;
