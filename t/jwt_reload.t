# A reload with other keys forgets what was verified with the old ones, in all workers; with
# the same keys it forgets nothing. A cache that is full or small is no error.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my ($old, $new) = map { AIQ::JWT->new('ES256', kid => $_) } qw(old new);

$t->write_file('jwks.json', AIQ::JWT::set($old));
$t->conf('
    aiq_auth_cache 64k;
    aiq_jwt_key_file %%DIR%%/jwks.json;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { aiq_jwt api; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /fresh { return 200 ready; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; return 200 hello; }', workers => 3);
$t->start_nginx;

my $token = $old->token(sub => 'ann');
my $next = $new->token(sub => 'ann');

sub status { return $t->get('/', AIQ::JWT::bearer($_[0]))->{status} }
sub statuses { my %seen; $seen{ status($_[0]) }++ for 1 .. 20; return join ' ', sort keys %seen }

# Until the old workers are gone.
sub reloaded {
    my %old = map { $_ => 1 } $t->workers;
    $t->reload;
    $t->wait_for(sub { !grep { $old{$_} } $t->workers }, 20, 'old workers leave');
}

is(statuses($token), '200', 'every worker knows it');
is(statuses($next), '401', 'and not what no key has signed');
reloaded();
is(statuses($token), '200', 'the same keys');

$t->write_file('jwks.json', AIQ::JWT::set($new));
is(statuses($token), '200', 'another file, not read yet');
reloaded();
is(statuses($token), '401', 'read: the old key verifies nothing');
is(statuses($next), '200', 'the new one does');

$t->write_file('jwks.json', 'nonsense');
$t->expect_in_log(qr/\[emerg\].*jwks\.json" is not valid JSON/);
$t->reload(no_wait => 1);
$t->wait_for(sub { $t->error_log =~ /is not valid JSON/ }, 10, 'the refusal');
is(statuses($next), '200', 'a file that is none: the configuration that runs stays');

# more tokens than there is room for
$t->write_file('jwks.json', AIQ::JWT::set($old, $new, my $hmac = AIQ::JWT->new('HS256')));
reloaded();
my @many = map { $hmac->token(sub => "user$_", more => 'x' x (($_ * 37) % 3000)) } 1 .. 300;
is(scalar(grep { status($_) != 200 } @many, @many[0 .. 50]), 0, '300 tokens and a cache for few');
is(statuses($next), '200', 'and one that was pushed out');

$t->finish;
done_testing;
