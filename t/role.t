# aiq_require_role: who may, in front of whatever answers, however one got in.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my $issuer = AIQ::JWT->new('HS256');

$t->write_file('jwks.json', AIQ::JWT::set($issuer));
$t->write_file('file', 'hello');
$t->conf('
    aiq_jwt_key_file %%DIR%%/jwks.json;
    aiq_limit_zone $aiq_user zone=user:1m rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt "tokens";
        aiq_key "keys";
        location = /file { aiq_require_role developer; alias %%DIR%%/file; }
        location /proxy { aiq_require_role developer viewer; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /v1/ { aiq_require_role developer; aiq_pass gateway; }
        location /v1/messages { aiq_require_role developer; aiq_pass gateway; }
        location /any { satisfy any; allow all; aiq_require_role user; alias %%DIR%%/file; }
        location /page { error_page 403 = /said; aiq_require_role admin; alias %%DIR%%/file; }
        location /said { aiq_require_role off; alias %%DIR%%/file; }
        location /moved { try_files /nothing /file; }
        location /limited { aiq_require_role developer; aiq_limit zone=user; alias %%DIR%%/file; }
        location /write { limit_except GET { aiq_require_role developer; }
                          proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /above {
            aiq_require_role developer;
            location /above/same { alias %%DIR%%/file; }
            location /above/off { aiq_require_role off; alias %%DIR%%/file; }
            location /above/other { aiq_require_role viewer; alias %%DIR%%/file; }
        }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200 "there\n"; } }');

my $e = AIQ::FakeEngine->new($t);
$e->keys(1, aiq_dev => '200 -1 acme ann developer key_1', aiq_viewer => '200 -1 acme vic viewer key_2');
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

sub as { return AIQ::JWT::bearer($issuer->token(sub => $_[0], role => $_[0])) }
sub status { my ($path, @as) = @_; return $t->get($path, @as)->{status} }
sub statuses { my ($path) = @_; return join ' ', map { status($path, as($_)) } qw(admin developer user viewer) }

is(statuses('/file'), '200 200 403 403', 'files: the role, and admin');
is(statuses('/proxy'), '200 200 403 200', 'proxy_pass: one of two roles');
is(statuses('/any'), '200 403 200 403', 'satisfy any: with a token');
is(status('/any'), 403, 'satisfy any: who has no role is let in by nobody');
is(statuses('/moved'), '200 200 403 403', 'after a redirect');
is(statuses('/page'), '200 200 200 200', 'error_page has its say');
is($t->get('/page', as('user'))->{body}, 'hello', 'and its body');
is(statuses('/write'), '200 200 200 200', 'limit_except: to read');
is(join(' ', map { $t->post('/write', 'x', as($_))->{status} } qw(admin developer user viewer)), '200 200 403 403',
    'limit_except: to write');
is(statuses('/above/same'), '200 200 403 403', 'from the location around it');
is(statuses('/above/off'), '200 200 200 200', 'off there');
is(statuses('/above/other'), '200 403 403 200', 'another one there');
is(status('/file'), 401, 'nobody is asked for a token first');
is(status('/file', headers => [ 'x-api-key' => 'aiq_dev' ]), 200, 'the role of an API key');
is(status('/file', headers => [ 'x-api-key' => 'aiq_viewer' ]), 403, 'which is not enough');
is(status('/limited', as('user')), 403, 'a limit: who may not') for 1 .. 3;
is(status('/limited', as('developer')), 200, 'who may');
is(status('/limited', as('developer')), 429, 'and did');

my $r = $t->get('/file', as('user'));
is($r->{headers}{'content-type'}, 'application/json', 'a reply for programs, where nothing of the module answers');
is($t->json($r)->{error}{code}, 'permission_denied', 'that says why');
is(status('/v1/models', as('developer')), 200, 'the engine: who may');
$r = $t->get('/v1/models', as('user'));
is("$r->{status} " . $t->json($r)->{error}{code}, '403 permission_denied', "OpenAI's words");
$r = $t->post('/v1/messages', '{}', as('user'));
is("$r->{status} " . $t->json($r)->{error}{type}, '403 permission_error', "Anthropic's");
$t->wait_for(sub { $t->error_log =~ /aiq: request "[^"]+" denied: permission_denied: The role/ }, 10, 'a line in the log');

$t->finish;
done_testing;
