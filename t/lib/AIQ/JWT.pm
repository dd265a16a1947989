package AIQ::JWT;

# Tokens and key sets.
#
#     my $key = AIQ::JWT->new('ES256', kid => 'a');     # HS256, RS256, ES256, EdDSA
#     my $token = $key->token(sub => 'ann', exp => time() + 60);
#     AIQ::JWT::set($key, $other);                      # a JWKS
#
# exp and iat are there unless they are given; undef leaves a claim out.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use File::Temp qw(tempdir);
use JSON::PP ();
use MIME::Base64 qw(encode_base64url decode_base64);

my $json = JSON::PP->new->canonical;
my $dir;
my $count = 0;

my %generate = (
    RS256 => [ '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048' ],
    ES256 => [ '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256' ],
    EdDSA => [ '-algorithm', 'ED25519' ],
);

sub new {
    my ($class, $alg, %members) = @_;
    my $self = bless { alg => $alg, members => \%members }, $class;

    if ($alg eq 'HS256') {
        $self->{secret} = delete $members{secret} // join('', map { chr(int(rand(256))) } 1 .. 32);
        return $self;
    }
    $dir //= tempdir('aiq-jwt-XXXXXX', DIR => '/tmp', CLEANUP => 1);
    $self->{file} = "$dir/" . ++$count . '.pem';
    _openssl('genpkey', '-quiet', @{ $generate{$alg} }, '-out', $self->{file});
    return $self;
}

sub _openssl {
    open(my $out, '-|', 'openssl', @_) or die "openssl: $!";
    binmode($out);
    local $/;
    my $text = <$out> // '';
    close($out) or die "openssl @_: failed";
    return $text;
}

# The public part, or the secret.
sub jwk {
    my ($self) = @_;
    my %jwk = %{ $self->{members} };

    if ($self->{secret}) {
        return { kty => 'oct', k => encode_base64url($self->{secret}), %jwk };
    }
    my $der = _openssl('pkey', '-in', $self->{file}, '-pubout', '-outform', 'DER');
    if ($self->{alg} eq 'ES256') {
        return { kty => 'EC', crv => 'P-256', x => encode_base64url(substr($der, -64, 32)),
            y => encode_base64url(substr($der, -32)), %jwk };
    }
    if ($self->{alg} eq 'EdDSA') {
        return { kty => 'OKP', crv => 'Ed25519', x => encode_base64url(substr($der, -32)), %jwk };
    }
    my ($n) = _openssl('rsa', '-in', $self->{file}, '-noout', '-modulus') =~ /=([0-9A-F]+)/;
    return { kty => 'RSA', n => encode_base64url(pack('H*', $n)), e => 'AQAB', %jwk };
}

sub set { return $json->encode({ keys => [ map { $_->jwk } @_ ] }) }

sub token {
    my ($self, %claims) = @_;
    my %header = (alg => $self->{alg}, exists $self->{members}{kid} ? (kid => $self->{members}{kid}) : (),
        %{ delete $claims{header} // {} });

    $claims{iat} = time() unless exists $claims{iat};
    $claims{exp} = time() + 600 unless exists $claims{exp};
    delete @claims{ grep { !defined $claims{$_} } keys %claims };
    return $self->sign($json->encode(\%header), $json->encode(\%claims));
}

sub sign {
    my ($self, $header, $payload) = @_;
    my $text = encode_base64url($header) . '.' . encode_base64url($payload);
    my $signature;

    if ($self->{secret}) {
        $signature = hmac_sha256($text, $self->{secret});
    } else {
        open(my $out, '>:raw', "$dir/text") or die $!;
        print $out $text;
        close($out);
        $signature = $self->{alg} eq 'EdDSA'
            ? _openssl('pkeyutl', '-sign', '-rawin', '-inkey', $self->{file}, '-in', "$dir/text")
            : _openssl('dgst', '-sha256', '-sign', $self->{file}, "$dir/text");
        $signature = _raw($signature) if $self->{alg} eq 'ES256';
    }
    return "$text." . encode_base64url($signature);
}

# DER's two integers as 64 bytes.
sub _raw {
    my ($der) = @_;
    my ($r, $s) = unpack('x2 x C/a x C/a', $der);

    return join('', map { substr(("\0" x 32) . $_, -32) } $r, $s);
}

sub bearer { my ($token) = @_; return (headers => [ Authorization => "Bearer $token" ]) }

1;
