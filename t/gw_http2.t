# Providers over HTTP/2: many requests on one connection, over TLS where the
# provider agrees to it, and without TLS by prior knowledge.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $streams = 40;
my $t = AIQ::Test->new;
my $dir = $t->dir;
my $mock = AIQ::Mock->new($t);

sub openssl { system("openssl @_ >>$dir/logs/openssl.log 2>&1") == 0 or die "openssl @_" }
my $key = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2';
openssl("req -x509 $key -subj /CN=server -addext subjectAltName=DNS:localhost -keyout $dir/server.key -out $dir/server.pem");
openssl("req -x509 $key -subj /CN=client -keyout $dir/client.key -out $dir/client.pem");

# each with its own front, which says how it was asked
my %providers = (
    tls    => [ 'https://localhost',  'ca server.pem; certificate client.pem client.key; header X-Title T; query a=b;',
                'ssl http2', 'ssl_verify_client on; ssl_client_certificate client.pem;' ],
    old    => [ 'https://localhost',  'ca server.pem;', 'ssl' ],
    plain  => [ 'http://127.0.0.1',   '',               'http2' ],
    three  => [ 'http://127.0.0.1',   '',               'http2', 'keepalive_requests 15;' ],
    few    => [ 'http://127.0.0.1',   '',               'http2', 'http2_max_concurrent_streams 3;' ],
    lies   => [ 'http://127.0.0.1',   '',               '' ],
    doubts => [ 'https://localhost',  '',               'ssl http2' ],
);
my ($conf, $port) = ('', 0);
for my $name (sort keys %providers) {
    my ($url, $options, $listen, $more) = @{ $providers{$name} };
    $port++;
    $conf .= "
        aiq_provider $name { dialect openai; url $url:%%PORT_$port%%/v1; http_version 2; retry 1; $options
                             timeout first_byte=20s; breaker failures=1000; }
        aiq_model $name { target $name model=mock-chat; }
        aiq_model $name-stream { target $name model=mock-stream-10x50ms; }
        aiq_model $name-hang { target $name model=mock-hang-mid; }
        server {
            listen 127.0.0.1:%%PORT_$port%% $listen;
            ssl_certificate server.pem;
            ssl_certificate_key server.key;
            access_log $dir/logs/$name.log how;
            client_max_body_size 0;
            @{[ $more // '' ]}
            location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; proxy_buffering off; }
        }";
}
$t->conf("
    log_format how '\$server_protocol \$connection \$status \$request_length \$request_uri \$http_host \$http_x_title \$ssl_client_s_dn';
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { client_max_body_size 0; aiq_pass gateway; } }$conf");
$t->start;

sub ask { return $t->post('/v1/chat/completions', $t->chat($_[0], $_[1] // 'hi')) }

# What the front has logged: by protocol, its requests and its connections.
sub how {
    my ($name) = @_;
    my %n;

    for ($t->read_file("logs/$name.log") =~ /^(HTTP\S+ \d+)/mg) {
        my ($protocol, $connection) = split / /;
        $n{$protocol}[0]++;
        $n{$protocol}[1] += !$n{$connection}++;
    }
    return join ', ', map { "$_: @{ $n{$_} }" } grep { /HTTP/ } sort keys %n;
}

# So many streams at once. How many are whole?
sub at_once {
    my ($name) = @_;
    my @c = map { $t->connect(seconds => 60) } 1 .. $streams;

    $_->request('POST', '/v1/chat/completions', body => $t->chat("$name-stream", 'hi', stream => JSON::PP::true)) for @c;
    return scalar grep { $_ eq join '', map { " token$_" } 1 .. 10 }
        map { join '', $_->response->{body} =~ /"content":"( token\d+)"/g } @c;
}

for my $name (qw(tls plain)) {
    is(ask($name)->{status}, 200, "$name: a request");
    is(at_once($name), $streams, "$name: streams at once");
    is(how($name), 'HTTP/2.0: ' . ($streams + 1) . ' 1', "$name: all of it on one connection");
}
my $port_of_tls = $t->port(1 + grep { $_ lt 'tls' } keys %providers);
like($t->read_file('logs/tls.log'), qr{/v1/chat/completions\?a=b localhost:$port_of_tls T CN=client$}m,
    'query, host, header and certificate are those of HTTP/1.1');

# a peer that has no HTTP/2
is(at_once('old'), $streams, 'HTTP/1.1 where TLS has no other: streams at once');
like(how('old'), qr/^HTTP\/1.1: $streams (?!1$)\d+$/, 'HTTP/1.1: on connections of their own');
my ($connections) = how('old') =~ /(\d+)$/;
is(ask('old')->{status}, 200, 'HTTP/1.1: another') for 1 .. 2;
is(how('old'), 'HTTP/1.1: ' . ($streams + 2) . " $connections", 'HTTP/1.1: on one of those');
is(ask('lies')->{status}, 502, 'HTTP/1.1 without TLS, against what was said: an error');
is(ask('doubts')->{status}, 502, 'a certificate nobody knows: an error');
is(how('doubts'), '', 'and no request');

# GOAWAY after a few requests, and no more than three at a time
is(at_once('three'), $streams, 'a peer that says GOAWAY again and again');
is(at_once('few'), $streams, 'a peer that takes few streams at a time');

# bodies larger than any window
my $large = 'x' x (6 << 20);
is(ask('plain', $large)->{status}, 200, 'a large request');
my ($sent) = grep { length($_->{body}) > 6 << 20 } $mock->requests;
is($t->json($sent->{body})->{messages}[0]{content}, $large, 'has come whole');

$t->finish;
done_testing;
