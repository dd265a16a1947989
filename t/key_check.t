# API keys: what a request must show, what becomes of it, what is refused.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    log_format who "$uri $status tenant=$aiq_tenant user=$aiq_user role=$aiq_role key=$aiq_key_id";
    aiq_key "models";
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/logs/access.log who;
        location / { aiq_pass gateway; }
        location /open/ { aiq_key off; aiq_pass gateway; }
        location /own/ { aiq_pass echo; }
        location /proxied/ { proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location /inside/ { aiq_key "other realm"; try_files /none /own$uri; }
        location /some/ { limit_except GET { aiq_key off; } aiq_pass echo; }
        location /either/ { satisfy any; allow 127.0.0.1; deny all; aiq_pass echo; }
        location /neither/ { satisfy any; deny all; aiq_pass echo; }
        location /both/ { allow 127.0.0.2; deny all; aiq_pass echo; }
        location = /page { error_page 401 = @page; aiq_pass echo; }
        location @page { aiq_key off; return 200 "page\n"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        location / { aiq_key off; add_header X-Seen $http_authorization; return 200 "behind\n"; }
    }');

my $e = AIQ::FakeEngine->new($t);
my $soon = int(time()) * 1000 + 3_600_000;
$e->keys(7, aiq_good => '200 -1 acme ann developer key_1', aiq_later => "200 $soon acme bob user key_2",
    aiq_ended => '200 1000 acme bob user key_3', aiq_off => '403', aiq_unsure => '503',
    'aiq_' . 'x' x 252 => '200 -1 acme eve user key_4');
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);

sub bearer { return (headers => [ Authorization => "Bearer $_[0]" ]) }

# who it is

is($t->get('/ok', bearer('aiq_good'))->{status}, 200, 'a key opens');
my $open = $e->last_open;
is_deeply([ @$open{qw(tenant user role key_id)} ], [qw(acme ann developer key_1)], 'the engine hears whose it is');
unlike(join(' ', %$open, %{ $open->{headers} }), qr/aiq_good/, 'but not the key');

# Without a question; an epoch that is not named for a second has lapsed, and there is one more.
sub is_known {
    my ($key, $status, $what) = @_;

    ok($t->wait_for(sub {
        my $before = $e->checks($key);
        return $t->get('/ok', bearer($key))->{status} == $status && $e->checks($key) == $before;
    }, 10, $what), $what);
}
is_known('aiq_good', 200, 'then it is known');
for my $headers ([ 'x-api-key' => 'aiq_good' ], [ Authorization => 'bearer   aiq_good' ], [ 'X-API-Key' => 'aiq_good',
    Authorization => 'Bearer aiq_good' ], [ Authorization => 'Bearer abc', 'x-api-key' => 'aiq_good' ]) {
    is($t->get('/ok', headers => $headers)->{status}, 200, "shown as @$headers");
}
is($t->get('/ok', bearer('aiq_' . 'x' x 252))->{status}, 200, 'as long as possible');
is($t->get('/ok', bearer('aiq_later'))->{status}, 200, 'before its end');

# who it is not

my %refused = (
    'none'            => [],
    'not a key'       => [ Authorization => 'Bearer sk-abc' ],
    'another scheme'  => [ Authorization => 'Basic aiq_good' ],
    'nothing'         => [ Authorization => 'Bearer ' ],
    'short'           => [ Authorization => 'B' ],
    'no prefix'       => [ 'x-api-key' => 'good' ],
    'unknown'         => [ Authorization => 'Bearer aiq_unknown' ],
    'too long'        => [ Authorization => 'Bearer aiq_' . 'x' x 253 ],
    'odd characters'  => [ Authorization => 'Bearer aiq_good, aiq_good' ],
    'two'             => [ Authorization => 'Bearer aiq_good', 'x-api-key' => 'aiq_later' ],
    'two, again one'  => [ 'x-api-key' => 'aiq_later', 'x-api-key' => 'aiq_good' ],
    'after its end'   => [ 'x-api-key' => 'aiq_ended' ],
);
my %shown = map { $_ => 1 } grep { !/^(?:none|not a key|another scheme|nothing|short|no prefix)$/ } keys %refused;

for my $what (sort keys %refused) {
    my $r = $t->get('/v1/models', headers => $refused{$what});
    my $code = $shown{$what} ? 'invalid_api_key' : 'missing_api_key';

    is($r->{status}, 401, "$what: 401");
    is($r->{headers}{'www-authenticate'},
        'Bearer realm="models"' . ($shown{$what} ? ', error="invalid_token"' : ''), "$what: WWW-Authenticate");
    my $error = $t->json($r)->{error};
    is_deeply([ @$error{qw(code type param)} ], [ $code, 'authentication_error', undef ], "$what: the error");
}
is_known('aiq_unknown', 401, 'what is unknown is known');
my $r = $t->get('/v1/messages', headers => [ 'x-api-key' => 'aiq_unknown' ]);
is_deeply($t->json($r)->{error}, { type => 'authentication_error', message => 'The API key is not valid.' },
    'as Anthropic has it');
is($t->json($t->get('/own/', bearer('aiq_unknown')))->{error}{code}, 'invalid_api_key', 'as we have it');

$r = $t->get('/ok', bearer('aiq_off'));
is("$r->{status} " . $t->json($r)->{error}{code}, '403 disabled_api_key', 'disabled');
is($r->{headers}{'www-authenticate'}, undef, 'to show another way to log in would not help');
$r = $t->get('/ok', bearer('aiq_unsure'));
is("$r->{status} " . $t->json($r)->{error}{code}, '503 key_unverified', 'the engine cannot say');
is($r->{headers}{'retry-after'}, 1, 'Retry-After');
$t->get('/ok', bearer('aiq_unsure'));
is($e->checks('aiq_unsure'), 2, 'what it cannot say is not remembered');

# where

is($t->get('/open/ok')->{status}, 200, 'off');
$r = $t->get('/proxied/', bearer('aiq_good'));
is("$r->{status} $r->{body}", "200 behind\n", 'in front of another content handler');
is($r->{headers}{'x-seen'}, 'Bearer aiq_good', 'which gets the header as it is');
$r = $t->get('/proxied/', bearer('aiq_unknown'));
is("$r->{status} $r->{headers}{'www-authenticate'}", '401 Bearer realm="models", error="invalid_token"',
    'and there it keeps others out');
like($r->{body}, qr/<title>401/, 'with a page of nginx');
is($t->get('/inside/', bearer('aiq_good'))->{status}, 200, 'over an internal redirect');
is($t->get('/inside/', bearer('aiq_unknown'))->{headers}{'www-authenticate'},
    'Bearer realm="other realm", error="invalid_token"', 'another realm');
is($t->get('/some/ok')->{status}, 401, 'limit_except: GET');
is($t->get('/some/ok', bearer('aiq_good'))->{status}, 200, 'limit_except: GET with a key');
is($t->post('/some/ok', 'x')->{status}, 200, 'limit_except: POST');
$r = $t->get('/either/ok');
is("$r->{status} " . ($r->{headers}{'www-authenticate'} // '-'), '200 -', 'satisfy any: by the address');
is($t->get('/neither/ok', bearer('aiq_good'))->{status}, 200, 'satisfy any: by the key');
is($t->get('/neither/ok', bearer('aiq_unknown'))->{status}, 401, 'satisfy any: neither');
is($t->get('/both/ok', bearer('aiq_good'))->{status}, 403, 'satisfy all: not by the key alone');
is($t->get('/page')->{body}, "page\n", 'error_page');

# in the logs

$t->wait_for(sub { $t->read_file('logs/access.log') =~ m{^/page}m }, 10, 'the access log');
like($t->read_file('logs/access.log'), qr{^/ok 200 tenant=acme user=ann role=developer key=key_1$}m, 'variables');
like($t->read_file('logs/access.log'), qr{^/v1/models 401 tenant=- user=- role=- key=-$}m, 'nobody');
unlike($t->error_log . $e->log, qr/aiq_(?:good|later|ended|off|unknown)/, 'no key is logged');

$t->finish;
done_testing;
