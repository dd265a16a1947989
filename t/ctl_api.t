# Tenants, users and keys over HTTP: admins of tenants manage what is theirs, and see
# nothing of others.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Test;

my $t = AIQ::Test->new;
$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /api/  { aiq_key "aiq"; aiq_pass control; }
        location /open/ { aiq_pass control /api/; }
    }');
$t->start;

my $admin = AIQ::Admin->new($t);
my %key   = (root => $admin->json(qw(keys create --admin))->{key});

# [status, answer] of a request as somebody
sub call {
    my ($who, $method, $path, $body) = @_;
    my $r = $t->http($method, "/api/v1/$path", headers => AIQ::Admin::bearer($key{$who}),
        defined $body ? (body => ref $body ? JSON::PP::encode_json($body) : $body) : ());

    is($r->{headers}{'content-type'}, 'application/json', "$who: $method $path");
    return ($r->{status}, $t->json($r));
}

sub created {
    my ($status, $item) = call(@_);

    is($status, 201, 'is made') or diag explain $item;
    return $item;
}

sub refused {
    my ($status, $code, $param, @call) = @_;
    my ($got, $reply) = call(@call);

    is($got, $status, "is refused with $status");
    is($reply->{error}{code}, $code, $code);
    is($reply->{error}{param}, $param, 'names ' . ($param // 'no field'));
    like($reply->{error}{message}, qr/^[A-Z'].*\.$/, "in a sentence: $reply->{error}{message}");
}

my $json_true = JSON::PP::true;

# tenants
is_deeply([ map { $_->{name} } @{ (call('root', 'GET', 'tenants'))[1]{data} } ], ['default'], 'one to begin with');
for my $name (qw(acme beta)) {
    my $tenant = created('root', 'POST', 'tenants', { name => $name });
    is($tenant->{name}, $name, 'by its name');
    $key{$name} = created('root', 'POST', 'keys', { tenant => $name, role => 'admin' })->{key};
}
refused(409, 'already_exists', 'name', 'root', 'POST', 'tenants', { name => 'acme' });
refused(403, 'permission_denied', undef, 'acme', 'POST', 'tenants', { name => 'mine' });
refused(403, 'permission_denied', undef, 'acme', 'DELETE', 'tenants/acme');
refused(409, 'tenant_default', undef, 'root', 'DELETE', 'tenants/default');
refused(400, 'invalid_value', 'disabled', 'root', 'PATCH', 'tenants/default', { disabled => $json_true });
is_deeply([ map { $_->{name} } @{ (call('acme', 'GET', 'tenants'))[1]{data} } ], ['acme'], 'sees its own tenant');
is((call('acme', 'GET', 'tenants/acme'))[0], 200, 'by name, too');
refused(404, 'not_found', undef, 'acme', 'GET', 'tenants/beta');

# users and keys of a tenant, made by its admin
my $alice = created('acme', 'POST', 'users', { name => 'alice', role => 'developer' });
is($alice->{tenant}, 'acme', "in the admin's own tenant");
my $bob = created('beta', 'POST', 'users', { name => 'alice' });
is($bob->{role}, 'user', 'another tenant has one of that name, too');
my $made = created('acme', 'POST', 'keys', { user => 'alice', models => ['a'] });
like($made->{key}, qr/^aiq_[0-9A-Za-z]{32}$/, 'a key');
is($made->{role}, 'developer', "with its user's role");
my (undef, $shown) = call('acme', 'GET', "keys/$made->{id}");
is($shown->{key}, undef, 'is never shown again');
delete $made->{key};
is_deeply($shown, $made, 'the rest is');

# what others must not see or touch
for my $path ("keys/$made->{id}", "users/$alice->{id}") {
    refused(404, 'not_found', undef, 'beta', 'GET', $path);
    refused(404, 'not_found', undef, 'beta', 'DELETE', $path);
    is((call('acme', 'GET', $path))[0], 200, 'it is still there');
    is((call('root', 'GET', $path))[0], 200, 'and the operator sees it');
}
refused(404, 'not_found', undef, 'beta', 'PATCH', "users/$alice->{id}", { role => 'admin' });
is((call('acme', 'GET', "users/$alice->{id}"))[1]{role}, 'developer', 'unchanged');
refused(404, 'not_found', 'tenant', 'beta', 'POST', 'keys', { tenant => 'acme', role => 'admin' });
refused(404, 'not_found', 'tenant', 'beta', 'POST', 'users', { tenant => 'acme', name => 'eve' });
refused(404, 'not_found', 'user', 'root', 'POST', 'keys', { user => 'alice' });
for my $list (qw(users keys)) {
    my (undef, $page) = call('beta', 'GET', "$list?tenant=acme");
    is_deeply([ grep { $_->{tenant} ne 'beta' } @{ $page->{data} } ], [], 'a list holds what is its own');
}

# roles
$key{developer} = created('acme', 'POST', 'keys', { user => 'alice' })->{key};
refused(403, 'permission_denied', undef, 'developer', $_->[0], $_->[1], $_->[2])
    for [ 'GET', 'keys' ], [ 'POST', 'keys', {} ], [ 'GET', 'users' ], [ 'DELETE', "keys/$made->{id}" ];
refused(400, 'invalid_value', 'role', 'acme', 'POST', 'keys', { user => 'alice', role => 'admin' });
is($t->get('/open/v1/keys')->{status}, 403, 'nobody in particular is no admin');

# pages
created('beta', 'POST', 'users', { name => "user$_" }) for 1 .. 4;
my ($after, @names) = ('');
do {
    my (undef, $page) = call('beta', 'GET', "users?limit=2$after");
    cmp_ok(scalar @{ $page->{data} }, '<=', 2, 'a page');
    push @names, map { $_->{name} } @{ $page->{data} };
    $after = defined $page->{next} ? "&after=$page->{next}" : undef;
} while (defined $after);
is_deeply(\@names, [ 'alice', map { "user$_" } 1 .. 4 ], 'all pages, oldest first');

# what is wrong with a request
refused(400, 'invalid_json', undef, 'acme', 'POST', 'keys', '{"role":');
refused(400, 'unknown_parameter', 'rate', 'acme', 'POST', 'keys', { rate => 5 });
refused(400, 'invalid_type', 'models', 'acme', 'POST', 'keys', { models => 'a' });
refused(400, 'invalid_value', 'expires_at', 'acme', 'POST', 'keys', { expires_at => '2001-01-01T00:00:00Z' });
refused(400, 'missing_required_parameter', 'name', 'acme', 'POST', 'users', {});
refused(400, 'missing_required_parameter', 'role', 'acme', 'PATCH', "users/$alice->{id}", {});
refused(400, 'invalid_value', 'limit', 'acme', 'GET', 'keys?limit=1000');
refused(400, 'unknown_parameter', 'page', 'acme', 'GET', 'keys?page=2');
refused(404, 'not_found', undef, 'acme', 'GET', 'keys/key_none');
refused(405, 'method_not_allowed', undef, 'acme', 'PUT', 'keys', {});
refused(413, 'body_too_large', undef, 'acme', 'POST', 'keys', '{"models":["' . 'a' x 70000 . '"]}');

# a tenant goes, with all that is its own
is((call('root', 'DELETE', 'tenants/beta'))[0], 200, 'a tenant is deleted');
is($t->get('/api/v1/users', headers => AIQ::Admin::bearer($key{beta}))->{status}, 401, 'its keys are none any more');
is_deeply([ grep { $_->{tenant} eq 'beta' } map { @{ (call('root', 'GET', "$_"))[1]{data} } } qw(users keys) ],
    [], 'nothing of it is left');

$t->finish;
done_testing();
