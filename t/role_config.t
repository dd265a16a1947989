# nginx -t about aiq_require_role: what is no role, and where nobody has one.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->expect_in_log(qr/\[emerg\]/);
$t->write_file('jwks.json', AIQ::JWT::set(AIQ::JWT->new('HS256')));

sub says {
    my ($server, $expected) = @_;

    $t->conf("aiq_jwt_key_file %%DIR%%/jwks.json; server { listen 127.0.0.1:%%PORT_0%%; $server }");
    my ($status, $text) = $t->test_conf;
    if (!defined $expected) {
        is($status, 0, "accepted: $server") or diag($text);
        return;
    }
    isnt($status, 0, "refused: $server");
    like($text, qr/\Q$expected\E.* in \S+nginx\.conf:\d+/, 'why and where');
}

my $nobody = 'has neither "aiq_jwt" nor "aiq_key" for "aiq_require_role"';

says('location / { aiq_jwt api; aiq_require_role admin developer user viewer; }');
says('location / { aiq_key api; aiq_require_role viewer; }');
says('aiq_require_role user; location / { aiq_jwt api; }');
says('aiq_require_role user; aiq_jwt api; location / { limit_except GET { aiq_require_role admin; } }');
says('aiq_require_role user; aiq_jwt api; location / { aiq_jwt off; aiq_require_role off; }');
says('location / { aiq_jwt api; aiq_require_role root; }', 'unknown role "root"');
says('location / { aiq_jwt api; aiq_require_role Admin; }', 'unknown role "Admin"');
says('location / { aiq_jwt api; aiq_require_role off user; }', 'unknown role "off"');
says('location / { aiq_jwt api; aiq_require_role user user; }', 'duplicate role "user"');
says('location / { aiq_jwt api; aiq_require_role user; aiq_require_role viewer; }',
    '"aiq_require_role" directive is duplicate');
says('location / { aiq_require_role user; }', qq{location "/" $nobody});
says('aiq_jwt api; aiq_require_role user; location /health { aiq_jwt off; }', qq{location "/health" $nobody});
says('location / { limit_except GET { aiq_require_role user; } }', $nobody);

$t->finish;
done_testing;
