# Large requests: in memory, in a file, over the limit; and out as they came.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Digest::MD5 qw(md5_hex);
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    aiq_model chat { target mock model=mock-chat; }
    client_max_body_size 0;
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

my @json = (headers => [ 'Content-Type' => 'application/json' ]);

# the first request opens the connection to the provider
$t->post('/v1/chat/completions', $t->chat('chat', 'hi'), @json);
my $before = $t->descriptors($t->pid('engine'));

for my $size (1000, 8192, 65536, 262143, 262144, 262145, 300_000, 3_000_000, 10_000_000) {
    my $body = '{"model":"chat","messages":[{"role":"user","content":"';
    my $end  = '"}]}';
    $body .= join('', map { chr(97 + $_ % 26) } 1 .. 1000) x (($size - length($body . $end)) / 1000 + 1);
    $body = substr($body, 0, $size - length $end) . $end;
    is($t->post('/v1/chat/completions', $body, @json)->{status}, 200, "$size bytes");
    my $got = ($mock->requests)[-1]{body};
    (my $expected = $body) =~ s/"chat"/"mock-chat"/;
    is(md5_hex($got), md5_hex($expected), "$size bytes: the provider has them all");
    my @chunks = unpack('(a50000)*', $body);
    is($t->http('POST', '/v1/chat/completions', chunks => \@chunks, @json)->{status}, 200, "$size bytes, chunked");
    is(md5_hex(($mock->requests)[-1]{body}), md5_hex($expected), "$size bytes, chunked: likewise");
}

my $over = '{"model":"chat","messages":[{"role":"user","content":"' . 'x' x 10_485_760 . '"}]}';
my $r = $t->post('/v1/chat/completions', $over, @json);
is($r->{status}, 413, 'more than 10 MB');
is($t->json($r)->{error}{code}, 'body_too_large', 'its code');

# a client that leaves in the middle of a spooled body leaves no file
my $c = $t->connect;
$c->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    . "Content-Length: 5000000\r\n\r\n" . 'x' x 1_000_000);
$c->close;
ok(eval { $t->wait_for(sub { $t->descriptors($t->pid('engine')) <= $before }, 10) },
    'descriptors are as before')
    or diag $t->descriptors($t->pid('engine')), " $before";

$t->finish;
done_testing;
