# OpenAI's endpoints for files and batches, with its SDK, and who may use them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Admin;
use AIQ::Dialects;
use AIQ::Test;

plan(skip_all => 'the SDKs are not installed') if !AIQ::Dialects->available;

my $t = AIQ::Test->new(env => { MOCK_KEY => 'sk-mock' });
my $mock = AIQ::Dialects->new($t);

$t->conf($mock->providers . "
    aiq_model some { target openai model=x; }
    client_max_body_size 8m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_files openai;
        location /v1/ { aiq_pass gateway; }
        location /keys/ { aiq_key all; aiq_pass gateway /v1/; }
        location /budget/ { aiq_budget tenant 1usd/day; aiq_pass gateway /v1/; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

my ($rc, $tap) = $mock->node('files.mjs', 'http://127.0.0.1:' . $t->port(0));
is($rc, 0, 'the program ends well');
like($tap, qr/^1\.\.\d+$/m, 'it ran to its end') or diag $tap;
for my $line (split /\n/, $tap) {
    ok($1 eq 'ok', $2) if $line =~ /^(ok|not ok) \d+ - (.*)/;
}
my @got = $mock->requests;
is((grep { $_->{path} eq '/v1/files?purpose=batch&limit=5' } @got), 1, 'the query string passes');
is((grep { ($_->{headers}{authorization} // '') ne 'Bearer sk-mock' } @got), 0, "with the provider's key");

sub is_answer {
    my ($r, $expected, $name) = @_;
    is("$r->{status} " . ($t->json($r)->{error}{code} // $t->json($r)->{object}), $expected, $name) or diag $r->{body};
}

# ids are no paths
for my $id (qw(a.b a%20b a%3fb a%0d%0ab), 'x' x 129) {
    is_answer($t->get("/v1/files/$id"), '400 invalid_value', "id $id");
}

# who may
is_answer($t->get('/v1/files', port => 1), '400 unsupported_endpoint', 'nobody keeps files for this location');
is_answer($t->get('/budget/files'), '400 unbounded_request', 'what a batch will cost is not known');
my $admin = AIQ::Admin->new($t);
my $root = $admin->json(qw(keys create --admin));
$admin->json(qw(tenants create acme));
my $all = $admin->json(qw(keys create --tenant acme --role developer));
my $some = $admin->json(qw(keys create --tenant acme --models some));
is_answer($t->get('/keys/files', headers => AIQ::Admin::bearer($all->{key})), '200 list', 'a key');
is_answer($t->get('/keys/files', headers => AIQ::Admin::bearer($some->{key})), '403 permission_denied', 'a key for some models only');
is_answer($t->http('DELETE', '/keys/files/file-1', headers => AIQ::Admin::bearer($all->{key})), '200 file', 'a developer removes a file');

$t->finish;
done_testing;
