# Providers over TLS: the certificate is verified, always.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $dir = $t->dir;
my $mock = AIQ::Mock->new($t);

# an authority, a certificate of its own for localhost, and one that nobody knows
sub openssl { system("openssl @_ >>$dir/logs/openssl.log 2>&1") == 0 or die "openssl @_" }
my $key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
openssl("req -x509 $key -subj /CN=authority -keyout $dir/ca.key -out $dir/ca.pem");
openssl("req $key -subj /CN=localhost -keyout $dir/good.key -out $dir/good.csr");
$t->write_file('good.ext', "subjectAltName=DNS:localhost\n");
openssl("x509 -req -in $dir/good.csr -CA $dir/ca.pem -CAkey $dir/ca.key -CAcreateserial -days 2 "
    . "-extfile $dir/good.ext -out $dir/good.pem");
openssl("req -x509 $key -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout $dir/bad.key -out $dir/bad.pem");
$t->{env}{SSL_CERT_FILE} = "$dir/ca.pem";

$t->conf("
    aiq_provider good  { dialect openai; url https://localhost:%%PORT_1%%/v1; }
    aiq_provider bad   { dialect openai; url https://localhost:%%PORT_2%%/v1; retry 1; }
    aiq_provider other { dialect openai; url https://127.0.0.1:%%PORT_1%%/v1; retry 1; }
    aiq_provider plain { dialect openai; url https://localhost:%%PORT_0%%/v1; retry 1; }
    aiq_model mock-chat { target good; }
    aiq_model mock-big { target good; }
    aiq_model mock-stream-5000x0ms { target good; }
    aiq_model mock-stream-20x100ms { target good; }
    aiq_model mock-reset-mid { target good; }
    aiq_model bad { target bad; }
    aiq_model other { target other; }
    aiq_model plain { target plain; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }
    log_format tls '\$connection';
    server {
        listen 127.0.0.1:%%PORT_1%% ssl;
        ssl_certificate good.pem;
        ssl_certificate_key good.key;
        access_log $dir/logs/tls.log tls;
        location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; proxy_buffering off; }
    }
    server {
        listen 127.0.0.1:%%PORT_2%% ssl;
        ssl_certificate bad.pem;
        ssl_certificate_key bad.key;
        location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; }
    }");
$t->start;

sub ask {
    my ($model, %more) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi', %more));
}

is(ask('mock-chat')->{status}, 200, 'a known certificate') for 1 .. 5;
my %connections = map { $_ => 1 } split /\n/, $t->read_file('logs/tls.log');
is(scalar(keys %connections), 1, 'one connection for all');

is(length(ask('mock-big')->{body}), 4194584, 'a reply of 4 MB');
my @events = ask('mock-stream-5000x0ms', stream => JSON::PP::true)->{body} =~ /^data: (.*)$/mg;
is(scalar(@events), 5003, 'a long stream');
is($events[-1], '[DONE]', 'to its end');
my $r = ask('mock-reset-mid', stream => JSON::PP::true);
like($r->{body}, qr/"code":"provider_error"\}\}\n\n$/, 'a stream that breaks off');

# a stream stands while other connections are made
my $c = $t->connect;
$c->request('POST', '/v1/chat/completions', headers => [ 'Content-Type' => 'application/json' ],
    body => $t->chat('mock-stream-20x100ms', 'hi', stream => JSON::PP::true));
$c->head;
for my $model ('bad', 'other', 'plain') {
    my $r = ask($model);
    is($r->{status}, 502, "$model: refused");
    is($t->json($r)->{error}{code}, 'provider_unreachable', "$model: code");
}
my %detail = map { ($_->{detail} // '') =~ /certificate|SSL|ssl/ ? ($_->{detail} => 1) : () } $t->engine_lines;
cmp_ok(scalar(keys %detail), '>=', 2, 'the log says why');
is(ask('mock-chat')->{status}, 200, 'the good one still is');
my $n = 0;
while (defined(my $event = $c->event)) {
    $n++;
}
is($n, 23, 'and the stream has all its events');

$t->finish;
done_testing;
