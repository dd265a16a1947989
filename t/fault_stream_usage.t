# What a guaranteed stream costs whose engine is killed: the call that died counts at the most
# that it could have cost, as an estimate, and the one that went on as its provider says; each
# once, and the budget knows of both.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Admin;
use AIQ::Mock;
use AIQ::Reader;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat { target mock model=mock-first-1-endless input=1 output=10; }    # then one of 8 tokens
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/         { aiq_budget tenant 100000tokens/month; aiq_pass gateway; }
        location /v1/streams/ { aiq_pass events; }
        location /api/        { aiq_key all; aiq_pass control; }
    }");
$t->start;

my $root = AIQ::Admin->new($t)->json(qw(keys create --admin));

sub usage {
    my $r = $t->get('/api/v1/usage?group_by=model', headers => AIQ::Admin::bearer($root->{key}));

    return (grep { $_->{model} eq 'chat' } @{ $t->json($r)->{data} })[0] // {};
}

my $r = AIQ::Reader->new($t, model => 'chat', headers => [ 'X-AIQ-Continue' => 'allow' ], body => { max_tokens => 500 });
$r->read(10);
$t->kill_hard('engine');
$t->start_engine;
$r->read;
like(($r->events)[-1], qr/\[DONE\]/, 'it has come to its end');

my $usage = $t->wait_for(sub { my $u = usage(); ($u->{requests} // 0) >= 2 && $u }, 20, 'both calls are stored');
is($usage->{requests}, 2, 'two calls');
is($usage->{estimated}, 1, 'of which one is an estimate');
cmp_ok($usage->{tokens_out}, '>=', 508, 'of all that it could have said; the other is as the provider says');
$t->stop('engine');
$t->start_engine;
$t->wait_for(sub { (eval { usage() } // {})->{requests} }, 20, 'the engine is back');
is_deeply(usage(), $usage, 'and nothing comes after');

$t->finish;
done_testing();
