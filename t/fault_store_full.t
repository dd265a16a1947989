# A full disk: what writes fails with 503 and a reason in /health, what reads goes on,
# and with room again the engine goes on by itself. A limit on the size of files stands
# for the disk.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Command;
use AIQ::Test;

my $t = AIQ::Test->new;

sub limit {
    my ($bytes) = @_;

    system('prlimit', '--pid', $t->pid('engine'), "--fsize=$bytes:unlimited") == 0 or die 'prlimit';
}

sub store { return (grep { $_->{name} eq 'store' } @{ $t->json($t->get('/health'))->{components} })[0] }

$t->conf('server { listen 127.0.0.1:%%PORT_0%%;
    location = /health { aiq_health; }
    location /api/ { aiq_key "t"; aiq_pass control; } }');
$t->start;
chomp(my $key = run([ aiq(), 'keys', 'create', '--admin', '--admin-socket', $t->socket . '.admin' ])->{out});
my @key = (headers => [ Authorization => "Bearer $key" ]);

sub create { return $t->post('/api/v1/tenants', qq({"name":"$_[0]"}), @key) }
sub names { return join ' ', map { $_->{name} } @{ $t->json($t->get('/api/v1/tenants', @key))->{data} } }

is(create('before')->{status}, 201, 'a write');
is(store()->{status}, 'healthy', 'healthy');

# nothing more fits into the log of changes
limit(-s $t->dir . '/aiq.db-wal');
my $full = create('during');
is($full->{status}, 503, 'without room a write fails');
is($t->json($full)->{error}{code}, 'store_unavailable', 'and says so');
is($full->{headers}{'retry-after'}, 1, 'and when to come again');
my $down = store();
is($down->{status}, 'unhealthy', '/health says that it is down');
like($down->{reason}, qr/disk|full/, "and why: $down->{reason}");
is($t->get('/health')->{status}, 503, 'for balancers too');
is(names(), 'before default', 'reads go on');

limit('unlimited');
$t->wait_for(sub { store()->{status} eq 'healthy' }, 30, 'it recovers, though nobody writes');
is(create('after')->{status}, 201, 'a write');
is(names(), 'after before default', 'what was told is there, and nothing else');

$t->finish;
done_testing();
