# HTTP/2: requests that wait for keys share a connection; one that is reset does no
# harm to the others.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::JWT;
use AIQ::Test;

plan(skip_all => 'no nghttp') if system('nghttp --version >/dev/null 2>&1');

my $t = AIQ::Test->new;
my $key = AIQ::JWT->new('ES256', kid => 'a');

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%% http2;
        aiq_jwt api;
        aiq_jwt_key_request /keys;
        location / { proxy_pass http://127.0.0.1:%%PORT_1%%/; }
        location = /keys { internal; proxy_pass http://127.0.0.1:%%PORT_2%%; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; return 200 hello; }');
my $listener = do { $t->port(2); pop @{ $t->{held} } };
$listener->listen(10) or die $!;
$t->start_nginx;

my @nghttp = ('nghttp', '-H', 'authorization: Bearer ' . $key->token(sub => 'ann'));
my @urls = map { 'http://127.0.0.1:' . $t->port(0) . "/$_" } 1 .. 10;

sub issuer {
    my $c = $listener->accept or die $!;
    my $request = '';
    1 while $request !~ /\r\n\r\n/ && sysread($c, $request, 65536, length $request);
    return $c;
}

sub reply {
    my ($c) = @_;
    print $c "HTTP/1.0 200 OK\r\n\r\n" . AIQ::JWT::set($key);
    close($c);
}

# the first client leaves while it asks for all
my $first = open(my $none, '-|', @nghttp, $urls[0]) // die $!;
my $asked = issuer();
my $pid = open(my $out, '-|', @nghttp, @urls) // die $!;
kill('KILL', $first);
waitpid($first, 0);
reply(issuer());
is(join('', <$out>), 'hello' x 10, 'ten streams waited for the second subrequest');
close($asked);

$t->finish;
done_testing;
