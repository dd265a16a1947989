# S5: services show who they are by a certificate; nginx asks for it, and aiq counts by it.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;
my $dir = $t->dir;

sub openssl { system("openssl @_ >>$dir/logs/openssl.log 2>&1") == 0 or die "openssl @_" }
my $key = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2';
openssl("req -x509 $key -subj /CN=$_-authority -keyout $dir/$_-ca.key -out $dir/$_-ca.pem") for qw(our other);
my $serial = 1;
sub certificate {
    my ($name, $ca, @more) = @_;

    openssl("req $key -subj /CN=$name -keyout $dir/$name.key -out $dir/$name.csr");
    openssl("x509 -req -in $dir/$name.csr -CA $dir/$ca-ca.pem -CAkey $dir/$ca-ca.key -set_serial @{[ $serial++ ]} -days 2 "
        . "-out $dir/$name.pem @more");
}
$t->write_file('name.ext', "subjectAltName=DNS:localhost\n");
certificate('localhost', 'our', "-extfile $dir/name.ext");
certificate($_, 'our') for qw(billing search);
certificate('stranger', 'other');

$t->conf('
    aiq_limit_zone $ssl_client_s_dn zone=service:1m rate=2r/d;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        ssl_certificate %%DIR%%/localhost.pem;
        ssl_certificate_key %%DIR%%/localhost.key;
        ssl_client_certificate %%DIR%%/our-ca.pem;
        ssl_verify_client on;
        location /echo { aiq_limit zone=service; aiq_pass echo; }
    }');
$t->start;

# The status, and the body's beginning.
sub ask {
    my ($scheme, $name) = @_;
    my @cert = $name ? ('--cert', "$dir/$name.pem", '--key', "$dir/$name.key") : ();
    open(my $out, '-|', 'curl', '-sS', '--max-time', 20, '--cacert', "$dir/our-ca.pem", @cert, '-d', 'hi',
        '-w', ' %{http_code}', "$scheme://localhost:" . $t->port(0) . '/echo') or die "curl: $!";
    local $/;
    my $text = <$out> // '';

    close($out);
    return $text;
}

is(ask('https', 'billing'), 'hi 200', 'a service');
like(ask('https'), qr/No required SSL certificate.* 400$/s, 'nobody');
like(ask('https', 'stranger'), qr/SSL certificate error.* 400$/s, 'somebody with another certificate');
like(ask('http', 'billing'), qr/plain HTTP request was sent to HTTPS port.* 400$/s, 'without TLS');
is(ask('https', 'billing'), 'hi 200', 'the second request of a service');
like(ask('https', 'billing'), qr/"rate_limit_exceeded".* 429$/s, 'the third');
is(ask('https', 'search'), 'hi 200', 'another service has its own');

$t->finish;
done_testing;
