# A large form goes to its provider while it comes from the client: over HTTP/1.1 and HTTP/2, to
# another target from its beginning, and not to its end where the client does not end it.

use strict;
use warnings;
use lib 't/lib';

use Digest::MD5 qw(md5_hex);
use IO::Select;
use IO::Socket::INET;
use Test::More;
use AIQ::HTTP;
use AIQ::Test;
use Time::HiRes qw(time sleep);

my $mb = 1 << 20;
my $t = AIQ::Test->new;
my @provider = map { IO::Socket::INET->new(Listen => 8, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die $! } 0, 1;
my @port = map { $_->sockport } @provider;

$t->conf("
    aiq_max_body_size 100m;
    client_max_body_size 0;
    aiq_provider one { dialect openai; url http://127.0.0.1:$port[0]/v1; retry 1; timeout first_byte=20s idle=20s; breaker failures=100; }
    aiq_provider two { dialect openai; url http://127.0.0.1:$port[1]/v1; retry 1; timeout first_byte=20s idle=20s; }
    aiq_provider h2 { dialect openai; url http://127.0.0.1:%%PORT_2%%/v1; http_version 2; retry 1; timeout first_byte=20s idle=20s; breaker failures=100; }
    aiq_provider hasty { dialect openai; url http://127.0.0.1:$port[0]/v1; retry 1; timeout first_byte=600ms idle=600ms total=1s; }
    aiq_model ear { target one model=a-much-longer-name; }
    aiq_model both { target one; target two; }
    aiq_model ear2 { target h2 model=x; }
    aiq_model hasty { target hasty; }
    aiq_model painter { target one image=0.01; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /money/ { aiq_budget tenant 0.05usd/day; aiq_pass gateway /v1/; }
    }
    server { listen 127.0.0.1:%%PORT_1%% http2; location /v1/ { aiq_pass gateway; } }
    server {
        listen 127.0.0.1:%%PORT_2%% http2;
        location / { proxy_pass http://127.0.0.1:$port[0]; proxy_http_version 1.1; proxy_request_buffering off; }
    }");
$t->start;

my $type = 'multipart/form-data; boundary=bb';
sub part { return "--bb\r\nContent-Disposition: form-data; name=\"$_[0]\"\r\n\r\n$_[1]\r\n" }
sub file { return "--bb\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n$_[0]\r\n" }
my $noise = join('', map { chr(97 + $_ * 7 % 26) } 1 .. 65536) x 16;    # a megabyte

# The client: says how long the form is, and sends as much of it as it likes.
sub client {
    my ($n, %arg) = @_;
    my $c = AIQ::HTTP->new($t->port(0), 30);

    $c->send('POST ' . ($arg{path} // '/v1/audio/transcriptions') . " HTTP/1.1\r\nHost: a\r\nContent-Type: $type\r\nContent-Length: $n\r\n\r\n");
    return $c;
}

# The provider's side of a connection.
sub accepted {
    my ($n, $seconds) = @_;

    IO::Select->new($provider[$n])->can_read($seconds // 20) or return;
    my $p = bless { socket => scalar $provider[$n]->accept, in => '', seconds => 20, eof => 0 }, 'AIQ::HTTP';
    $p->socket->blocking(0);
    return $p;
}

sub request_head {
    my ($p) = @_;
    my @head;

    while (length(my $line = $p->line // die 'no head')) {
        push @head, $line;
    }
    return join("\n", @head);
}

sub answer { $_[0]->send("HTTP/1.1 $_[1]\r\nContent-Type: application/json\r\nContent-Length: " . length($_[2]) . "\r\n\r\n$_[2]") }
my $text = '{"text":"hello"}';

# 50 MB
my $front = part(model => 'ear') . "--bb\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
my $end = "\r\n--bb--\r\n";
my $length = length($front) + 50 * $mb + length($end);
my $c = client($length);
$c->send($front . $noise);
my $p = accepted(0);
like(request_head($p), qr/^Content-Length: @{[ $length + length('a-much-longer-name') - 3 ]}$/m, 'the provider is told how much there will be');
my $got = $p->bytes($mb / 2);
pass('it has half a megabyte, the client one of fifty');
my $engine = $t->pid('engine');
sub anonymous { return $t->read_file("/proc/$engine/status") =~ /^RssAnon:\s+(\d+)/m ? $1 : 0 }
my $before = anonymous();
for (2 .. 50) {
    $c->send($noise);
    $got .= $p->bytes($mb);
}
cmp_ok(anonymous() - $before, '<', 8192, 'the engine has not grown by 8 MB');
$c->send($end);
my $whole = part(model => 'a-much-longer-name') . substr($front, length part(model => 'ear')) . $noise x 50 . $end;
$got .= $p->bytes(length($whole) - length($got));
is(md5_hex($got), md5_hex($whole), 'all of it, with the name that the target has for the model');
answer($p, '200 OK', $text);
is($c->response->{body}, $text, 'the answer');

# the connection is used again, for a form with its file first
$front = file($noise);
my $last = part(model => 'ear') . "--bb--\r\n";
$c = client(length $front . $last);
$c->send($front);
ok(!IO::Select->new($p->socket)->can_read(0.3), 'before the model is known nobody is asked');
$c->send($last);
request_head($p);
is(md5_hex($p->bytes(length($front . $last) + 15)), md5_hex($front . part(model => 'a-much-longer-name') . "--bb--\r\n"), 'then it gets all');
answer($p, '200 OK', $text);
is($c->response->{status}, 200, 'over the same connection');

# Who answers early.
sub begun {
    my ($model, %arg) = @_;
    my $begin = part(model => $model) . file($noise);
    my $c = client(length($begin) + 20 * $mb, %arg);

    $c->send($begin);
    return $c;
}
$c = begun('ear');
request_head($p);
$p->bytes($mb / 2);
answer($p, '413 Too Large', '{"error":{"message":"too large","type":"invalid_request_error"}}');
is($c->head->{status}, 413, 'an answer before the end');
until ($p->{eof}) { $p->{in} = ''; $p->fill }
pass('its connection is closed');
$c->close;

$c = begun('ear');
$p = accepted(0);
request_head($p);
answer($p, '401 Unauthorized', '{"error":{"message":"who?"}}');
is($c->head->{status}, 502, 'one that is about us');
$p->close;
$c->close;

# Who leaves.
$c = begun('ear');
$p = accepted(0);
request_head($p);
$p->bytes($mb / 2);
$c->close;
until ($p->{eof}) { $p->{in} = ''; $p->fill }
pass('the client leaves: so does the provider');

my $form = part(model => 'both') . file($noise x 3) . "--bb--\r\n";
$c = client(length $form);
$c->send(substr($form, 0, 2 * $mb));
$p = accepted(0);
request_head($p);
$p->bytes($mb / 2);
$p->close;
my $q = accepted(1);
request_head($q);
$got = $q->bytes($mb);
$c->send(substr($form, 2 * $mb));
$got .= $q->bytes(length($form) - $mb);
is(md5_hex($got), md5_hex($form), 'the provider leaves: the next target gets it from its beginning');
answer($q, '200 OK', $text);
is($c->response->{status}, 200, 'and answers');

# What is wrong with it comes late.
my $bad = part(model => 'ear') . file($noise) . part(model => 'other') . file($noise) . "--bb--\r\n";
$c = client(length $bad);
$c->send(substr($bad, 0, $mb));
$p = accepted(0);
request_head($p);
$got = $p->bytes($mb / 2);
$c->send(substr($bad, $mb));
my $r = $c->response;
is($r->{status}, 400, 'two models');
is($t->json($r)->{error}{code}, 'invalid_form', 'the code');
until ($p->{eof}) { $got .= $p->{in}; $p->{in} = ''; $p->fill }
cmp_ok(length $got, '<', length $bad, 'the provider has never had all of it');

$c = client(length($bad), path => '/v1/audio/translations');
$c->send(part(model => 'nothing') . file($noise));
is($c->head->{status}, 404, 'no such model: said before the end');
$c->close;

# Time passes for the client, not for the provider.
$c = begun('hasty');
$p = accepted(0);
request_head($p);
sleep(1.5);
$p->bytes($mb / 2);
$c->send($noise);
$p->bytes($mb);
$c->close;
until ($p->{eof}) { $p->{in} = ''; $p->fill }
unlike($t->engine_log, qr/not taken in time|no reply in time/, 'a slow client is no slow provider');

# More than the model decides.
my $edit = part(model => 'painter') . file($noise) . part(n => 6) . file('') . "--bb--\r\n";
$c = client(length $edit, path => '/money/images/edits');
$c->send($edit);
is($t->json($c->response)->{error}{code}, 'budget_exceeded', 'six images are too many, wherever that stands');
ok(!accepted(0, 0.2), 'nobody was asked');

# HTTP/2 to the provider: its front passes it on as it comes.
$form = part(model => 'ear2') . file($noise x 5) . "--bb--\r\n";
$c = client(length $form);
$c->send(substr($form, 0, 2 * $mb));
$p = accepted(0);
request_head($p);
$got = $p->bytes($mb);
$c->send(substr($form, 2 * $mb));
$got .= $p->bytes(length($form) - $mb - 3);
is(md5_hex($got), md5_hex(part(model => 'x') . file($noise x 5) . "--bb--\r\n"), 'over HTTP/2');
answer($p, '200 OK', $text);
is($c->response->{status}, 200, 'likewise');
$p->close;

$c = begun('ear2');
$p = accepted(0);
request_head($p);
$p->bytes($mb / 2);
$c->close;
until ($p->{eof}) { $p->{in} = ''; $p->fill }
pass('the client leaves');

# HTTP/2 from the client
SKIP: {
    skip 'no nghttp', 2 if system('nghttp --version >/dev/null 2>&1');
    $form = part(model => 'ear') . file($noise x 3) . "--bb--\r\n";
    $t->write_file('form', $form);
    open(my $out, '-|', 'nghttp', '-H', ':method: POST', '-H', "content-type: $type", '-d', $t->dir . '/form',
        'http://127.0.0.1:' . $t->port(1) . '/v1/audio/transcriptions') // die $!;
    $p = accepted(0);
    request_head($p);
    is(md5_hex($p->bytes(length($form) + 15)), md5_hex(part(model => 'a-much-longer-name') . file($noise x 3) . "--bb--\r\n"), 'from a client with HTTP/2');
    answer($p, '200 OK', $text);
    like(join('', <$out>), qr/hello/, 'its answer');
}

$p->close;

# A reload loses none that is on its way, and an engine that dies is told of.
$form = part(model => 'ear') . file($noise x 3) . "--bb--\r\n";
$c = client(length $form);
$c->send(substr($form, 0, $mb));
$p = accepted(0);
request_head($p);
$p->bytes($mb / 2);
$t->reload;
$c->send(substr($form, $mb));
$p->bytes(length($form) + 15 - $mb / 2);
answer($p, '200 OK', $text);
is($c->response->{body}, $text, 'over a reload');

$c = begun('ear');
request_head($p);
$t->kill_hard('engine');
is($c->head->{status}, 502, 'the engine dies');
$c->close;

$t->finish;
done_testing;
