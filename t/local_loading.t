# How a model is loaded: in several files as in one, told to admins by a topic, and by /health
# until it is there.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::GGUF;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('EdDSA');

to_parts("$AIQ::Test::ROOT/demo/demo.gguf", $t->dir . '/split', 2);
$t->write_file('jwks.json', AIQ::JWT::set($key));
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_provider local { dialect local; model split %%DIR%%/split-00001-of-00002.gguf;
                         model lost %%DIR%%/split-00002-of-00002.gguf; model nameless; }
    aiq_model split { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/        { aiq_pass gateway; }
        location /v1/topics/ { aiq_jwt api; aiq_pass events; }
        location /health     { aiq_health; }
    }');
$t->start;

my $health;
$t->wait_for(sub {
    my $r = $t->get('/health');
    $health = $t->json($r);
    for my $c (grep { $_->{name} =~ /^model/ && ($_->{reason} // '') eq 'loading' } @{ $health->{components} }) {
        like($c->{percent}, qr/^\d+$/, 'while it loads: how far');
    }
    return $r->{status} == 200;
}, 20, 'it is loaded');
my ($c) = grep { $_->{name} eq 'model split' } @{ $health->{components} };
is($c->{percent}, undef, 'then no percentage');

my $r = $t->post('/v1/chat/completions', $t->chat('split', 'What is aiq?', temperature => 0),
    headers => [ 'Content-Type' => 'application/json' ]);
like($t->json($r)->{choices}[0]{message}{content}, qr/nginx/, 'it answers');

my @said;
$t->wait_for(sub {
    @said = @{ $t->json($t->get('/v1/topics/aiq.admin.models?after=0',
        headers => [ Authorization => 'Bearer ' . $key->token(sub => 'root', role => 'admin') ]))->{data} };
    return grep({ $_->{type} eq 'model.ready' } @said) && grep({ $_->{type} eq 'model.failed' } @said) == 2;
}, 20, 'a topic tells of all');
my @split = grep { $_->{data}{model} eq 'split' } @said;
is_deeply($split[0]{data}, { model => 'split', percent => 0 }, 'that it is loading');
is_deeply([ map { $_->{type} } @split ], [ ('model.loading') x $#split, 'model.ready' ], 'and then that it is ready');
my @percent = map { $_->{data}{percent} } @split[0 .. $#split - 1];
is_deeply(\@percent, [ sort { $a <=> $b } @percent ], 'further and further');
is($percent[-1], 100, 'to the end');
is_deeply({ map { $_->{data}{model} => $_->{data}{reason} } grep { $_->{type} eq 'model.failed' } @said },
    { lost => 'it is part 2 of a model in 2 files; name the first, *-00001-of-00002.gguf',
      nameless => 'it has no path, and the engine has no --models' }, 'the others why not');

$t->finish;
done_testing;
