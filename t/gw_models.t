# GET /v1/models: the configuration's models, as OpenAI lists them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    aiq_provider one { dialect openai; url http://127.0.0.1:1/v1; }
    aiq_provider two { dialect openai; url http://127.0.0.1:1/v1; }
    aiq_model zeta      { target one; }
    aiq_model org/alpha { target two model=x; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }');
$t->start;

my $list = $t->json($t->get('/v1/models'));
is($list->{object}, 'list', 'a list');
is_deeply([ map { $_->{id} } @{ $list->{data} } ], [ 'org/alpha', 'zeta' ], 'of all models');
for my $model (@{ $list->{data} }) {
    is($model->{object}, 'model', "$model->{id}: object");
    like($model->{created}, qr/^1\d{9}$/, "$model->{id}: created");
    is_deeply($t->json($t->get("/v1/models/$model->{id}")), $model, "$model->{id} alone");
}
is($list->{data}[0]{owned_by}, 'two', 'owned by its first provider');

for my $id ('nope', 'org', '%ff%00%22') {
    my $r = $t->get("/v1/models/$id");
    next if $r->{status} == 400;    # nginx refuses a NUL itself
    is($r->{status}, 404, "$id: 404");
    is($t->json($r)->{error}{code}, 'model_not_found', "$id: code");
}
# a client of Anthropic's
my @client = (headers => [ 'anthropic-version' => '2023-06-01' ]);
my $page = $t->json($t->get('/v1/models', @client));
is_deeply([ @$page{qw(first_id last_id)}, $page->{has_more} ? 1 : 0, scalar @{ $page->{data} } ], [ 'org/alpha', 'zeta', 0, 2 ], 'Anthropic: a page');
is_deeply([ @{ $page->{data}[1] }{qw(type id display_name)} ], [ 'model', 'zeta', 'zeta' ], 'Anthropic: a model');
like($page->{data}[1]{created_at}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'Anthropic: created_at');
is_deeply($t->json($t->get('/v1/models/zeta', @client)), $page->{data}[1], 'Anthropic: one alone');
is($t->get('/v1/models/nope', @client)->{status}, 404, 'Anthropic: none');

is($t->post('/v1/models', '{}')->{status}, 405, 'not to be posted to');
is($t->http('HEAD', '/v1/models', method => 'HEAD')->{status}, 200, 'HEAD');

$t->finish;
done_testing;
