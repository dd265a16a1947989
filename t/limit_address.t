# D12: the address that a limit counts is the connection's; what a client claims counts
# for nothing, unless realip is told whom to believe.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    aiq_limit_zone $binary_remote_addr zone=address:1m rate=2r/d;
    aiq_limit_zone $remote_addr zone=text:1m rate=2r/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /claimed/ { aiq_limit zone=address; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /believed/ {
            set_real_ip_from 127.0.0.1;
            real_ip_header X-Forwarded-For;
            aiq_limit zone=text;
            proxy_pass http://127.0.0.1:%%PORT_1%%;
        }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { return 200; } }');
$t->start_nginx;

sub status {
    my ($path, $from) = @_;
    my $r = $t->get($path, headers => [ 'X-Forwarded-For' => $from, 'X-Real-IP' => $from, 'Forwarded' => "for=$from" ]);
    return $r->{status};
}

is(join(' ', map { status('/claimed/', "192.0.2.$_") } 1 .. 4), '200 200 429 429', 'four claims are one client');
is(join(' ', map { status('/believed/', "192.0.2.$_") } 1 .. 4), '200 200 200 200', 'a proxy that is believed has many');
is(join(' ', map { status('/believed/', '192.0.2.1') } 1 .. 2), '200 429', 'each of them is one client');

$t->finish;
done_testing;
