# How a provider is reached: an authority of its own, a client certificate, a
# proxy. Connections are shared only by what goes the same way.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Select;
use IO::Socket::INET;
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $dir = $t->dir;
my $mock = AIQ::Mock->new($t);

sub openssl { system("openssl @_ >>$dir/logs/openssl.log 2>&1") == 0 or die "openssl @_" }
my $key = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2';
openssl("req -x509 $key -subj /CN=server -addext subjectAltName=DNS:localhost -keyout $dir/server.key -out $dir/server.pem");
openssl("req -x509 $key -subj /CN=$_ -keyout $dir/$_.key -out $dir/$_.pem") for qw(client stranger);

# a proxy that knows CONNECT only; what it was asked is in its log
my $proxy = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 8, ReuseAddr => 1) or die $!;
$t->{children}{proxy} = fork() // die "fork: $!";    # so that it ends with the test, whatever happens
if ($t->{children}{proxy} == 0) {
    $SIG{CHLD} = 'IGNORE';
    $SIG{TERM} = 'DEFAULT';
    while (my $c = $proxy->accept) {
        next if fork();
        my $head = '';
        sysread($c, $head, 4096, length $head) or POSIX::_exit(0) until $head =~ /\r\n\r\n\z/;
        open(my $log, '>>', "$dir/logs/proxy.log");
        syswrite($log, $head);
        my $s = IO::Socket::INET->new(PeerAddr => $head =~ /^CONNECT (\S+) /) or POSIX::_exit(0);
        syswrite($c, "HTTP/1.1 200 Connected\r\n\r\n");
        my $select = IO::Select->new($c, $s);
        while (1) {
            for my $from ($select->can_read) {
                sysread($from, my $data, 65536) or POSIX::_exit(0);
                syswrite($from == $c ? $s : $c, $data);
            }
        }
    }
}

# one that is spoken to over TLS
$t->_spawn('tls_proxy', "$dir/logs/tls_proxy.log", 'python3', "$FindBin::Bin/lib/tls_proxy.py", "$dir/server.pem", "$dir/server.key");
my $tls_proxy = $t->wait_for(sub { $t->read_file('logs/tls_proxy.log') =~ /^(\d+)$/m ? $1 : undef }, 20, 'the proxy listens');

my $url = 'url https://localhost:%%PORT_1%%/v1; retry 1;';
$t->conf("
    aiq_provider trusts   { dialect openai; $url ca server.pem; certificate client.pem client.key; }
    aiq_provider unknown  { dialect openai; $url certificate client.pem client.key; }
    aiq_provider nameless { dialect openai; $url ca server.pem; }
    aiq_provider stranger { dialect openai; $url ca server.pem; certificate stranger.pem stranger.key; }
    aiq_provider proxied  { dialect openai; $url ca server.pem; certificate client.pem client.key;
                            proxy http://127.0.0.1:@{[ $proxy->sockport ]}; }
    aiq_provider plain    { dialect openai; url @{[ $mock->url ]}; retry 1;
                            proxy http://127.0.0.1:@{[ $proxy->sockport ]}; }
    aiq_provider gone     { dialect openai; url @{[ $mock->url ]}; retry 1; proxy http://127.0.0.1:1; }
    aiq_provider hidden   { dialect openai; $url ca server.pem; certificate client.pem client.key;
                            proxy https://localhost:$tls_proxy; }
    aiq_provider hidden2  { dialect openai; $url ca server.pem; certificate client.pem client.key; http_version 2;
                            proxy https://localhost:$tls_proxy; }
    aiq_provider untrusted { dialect openai; $url certificate client.pem client.key; proxy https://localhost:$tls_proxy; }
    aiq_provider shared   { dialect openai; $url ca server.pem; certificate client.pem client.key; http_version 2;
                            proxy http://127.0.0.1:@{[ $proxy->sockport ]}; }
    @{[ map { qq(aiq_model $_ { target $_; }) } qw(trusts unknown nameless stranger proxied plain gone shared hidden hidden2 untrusted) ]}
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }
    log_format who '\$ssl_client_s_dn \$connection';
    log_format how '\$server_protocol';
    server {
        listen 127.0.0.1:%%PORT_1%% ssl http2;
        ssl_certificate server.pem;
        ssl_certificate_key server.key;
        ssl_verify_client on;
        ssl_client_certificate client.pem;
        access_log $dir/logs/who.log who;
        access_log $dir/logs/how.log how;
        location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; }
    }");
$t->start;

sub ask {
    return $t->post('/v1/chat/completions', $t->chat($_[0], 'hi'));
}

is(ask('trusts')->{status}, 200, 'an authority and a certificate of its own') for 1 .. 2;
like($t->read_file('logs/who.log'), qr/^CN=client (\d+)\nCN=client \1\n\z/, 'with one connection');
is(ask('unknown')->{status}, 502, 'without the authority the server is not trusted');
isnt(ask('nameless')->{status}, 200, 'without the certificate the client is not');
isnt(ask('stranger')->{status}, 200, 'nor with another one');
is(ask('trusts')->{status}, 200, 'and none of them has lent its connection');

ok(!-e "$dir/logs/proxy.log", 'no proxy yet');
is(ask('proxied')->{status}, 200, 'TLS through a proxy') for 1 .. 2;
is(ask('plain')->{status}, 200, 'and without TLS') for 1 .. 2;
my $log = $t->read_file('logs/proxy.log');
is(scalar(() = $log =~ /^CONNECT localhost:\d+ HTTP/mg), 1, 'a tunnel for TLS, which is kept');
is(scalar(() = $log =~ /^CONNECT 127\.0\.0\.1:\d+ HTTP/mg), 1, 'and one without');
unlike($log, qr/chat|authorization/i, 'the proxy sees no request');
is(ask('shared')->{status}, 200, 'HTTP/2 through a proxy') for 1 .. 2;
is(scalar(() = $t->read_file('logs/proxy.log') =~ /^CONNECT localhost:\d+ HTTP/mg), 2, 'by a tunnel of its own');
like($t->read_file('logs/how.log'), qr{^(?:HTTP/1.1\n)+HTTP/2.0\nHTTP/2.0\n\z}, 'and only that is HTTP/2');
is(ask($_)->{status}, 200, "$_: TLS through a proxy that has TLS itself") for qw(hidden hidden hidden2 hidden2);
is(ask('untrusted')->{status}, 502, 'which must be trusted, too');
is(scalar(() = $t->read_file('logs/tls_proxy.log') =~ /^CONNECT localhost/mg), 2, 'two tunnels');
like($t->read_file('logs/how.log'), qr{HTTP/1.1\nHTTP/1.1\nHTTP/2.0\nHTTP/2.0\n\z}, 'one of them with HTTP/2');
is(ask('gone')->{status}, 502, 'a proxy that is not there');
my ($line) = grep { ($_->{message} // '') =~ /fail/ && ($_->{detail} // '') =~ /:1\b|port 1\b/ } $t->engine_lines;
ok($line, 'is what the log says');

$t->finish;
done_testing;
