# Clients that leave, that are slow, that speak HTTP/2 or want gzip.

use strict;
use warnings;
use lib 't/lib';

use IO::Uncompress::Gunzip qw(gunzip);
use Test::More;
use AIQ::Command;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

is(run([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost',
    '-keyout', $t->dir . '/key.pem', '-out', $t->dir . '/cert.pem' ])->{status}, 0, 'a certificate');
$t->conf('
    log_format aiq "$uri $status $aiq_status";
    gzip on;
    gzip_types text/plain text/event-stream;
    gzip_min_length 1;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;
        listen 127.0.0.1:%%PORT_2%% ssl http2;
        ssl_certificate %%DIR%%/cert.pem;
        ssl_certificate_key %%DIR%%/key.pem;
        access_log %%DIR%%/logs/access.log aiq;
        location / { aiq_pass echo; }
        location /impatient/ { aiq_pass echo; send_timeout 300ms; aiq_max_body_size 0; client_max_body_size 0; }
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);
my $log = sub { $t->read_file('logs/access.log') };

# A client leaves before the reply, in a stream, and while its body waits.
my $c = $t->connect;
$c->request('GET', '/silent');
$e->wait_for(qr{uri=/silent});
$c->close;
$e->wait_for(qr{^CANCEL /silent$}m);
ok($t->wait_for(sub { $log->() =~ m{^/silent 499 client_closed$}m }), 'gone before the reply');

$c = $t->connect;
$c->request('GET', '/stream_hang');
$c->head;
is($c->event, 'one', 'the first event comes when it comes');
$c->close;
$e->wait_for(qr{^CANCEL /stream_hang$}m);
ok($t->wait_for(sub { $log->() =~ m{^/stream_hang 200 client_closed$}m }), 'gone in a stream');

$c = $t->connect;
$c->request('POST', '/impatient/no_credit', body => 'x' x 100_000);
$e->wait_for(qr{uri=/impatient/no_credit});
$c->close;
$e->wait_for(qr{^CANCEL /impatient/no_credit$}m);
pass('gone while its body waited for credit');

# What is left after that works.
is($t->get('/ok')->{body}, "ok\n", 'the next request');

# gzip, of a reply and of a stream, event by event
my $r = $t->get('/ok', headers => [ 'Accept-Encoding' => 'gzip' ]);
is($r->{headers}{'content-encoding'}, 'gzip', 'gzip');
gunzip(\$r->{body} => \my $text);
is($text, "ok\n", 'and back');

$c = $t->connect;
$c->request('GET', '/stream_hang', headers => [ 'Accept-Encoding' => 'gzip' ]);
is($c->head->{headers}{'content-encoding'}, 'gzip', 'gzip of a stream');
ok(length $c->piece, 'does not wait for its end');
$c->close;

# HTTP/2: a reply, a stream, an error, a body, a reset
my $h2 = 'http://127.0.0.1:' . $t->port(1);
sub curl { return run([ 'curl', '-sS', '--max-time', 20, '--http2-prior-knowledge', @_ ]) }

is(curl("$h2/ok")->{out}, "ok\n", 'h2: a reply');
is(curl("$h2/stream")->{out}, "data: one\n\ndata: two\n\n", 'h2: a stream');
like(curl("$h2/error")->{out}, qr/budget_spent/, 'h2: an error');
like(curl('-X', 'POST', '-d', 'x' x 50_000, "$h2/ok")->{out}, qr/ok/, 'h2: a body');
like($e->log, qr{END /ok body=50000}, 'all of it');
run([ 'curl', '-sS', '--http2-prior-knowledge', "$h2/silent2" ], until => sub { $e->log =~ m{uri=/silent2} });
$e->wait_for(qr{^CANCEL /silent2$}m);
pass('h2: a client that gives up');
is(run([ 'curl', '-sSN', '--http2-prior-knowledge', "$h2/part_hang" ], until => sub { $_[0] eq '01234' })->{out},
    '01234', 'h2: a part of a reply comes when it comes');

# The head of a stream goes out before its first event, over everything.
my $tls = 'https://127.0.0.1:' . $t->port(2);
for ([ "http://127.0.0.1:" . $t->port(0) ], [ $h2, '--http2-prior-knowledge' ], [ $tls, '--http2' ],
    [ $tls, '--http1.1' ])
{
    my ($url, @options) = @$_;
    my $head = qr{^HTTP/[12.]+ 200.*^content-type: text/event-stream\r$}msi;
    my $r = run([ 'curl', '-skN', '-D', '-', @options, "$url/stream_late" ], until => sub { $_[0] =~ $head });

    like($r->{out}, $head, join(' ', 'the head of a stream:', $url =~ /^(\w+)/, @options));
    unlike($r->{out}, qr/^data/m, 'before its first event');
}
is(curl('-k', "$tls/stream")->{out}, "data: one\n\ndata: two\n\n", 'h2 over TLS: a stream');
run([ 'curl', '-sk', "$tls/ok" ]);
is($e->last_open->{secure}, 1, 'the engine knows that it was TLS');

$t->finish;
done_testing;
