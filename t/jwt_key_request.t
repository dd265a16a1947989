# aiq_jwt_key_request: keys come by a subrequest, once for all who wait; an unknown
# kid asks anew, but not often; without keys there is 503, and never a pass.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::JWT;
use AIQ::Test;

my $t = AIQ::Test->new;
my ($old, $new) = map { AIQ::JWT->new('ES256', kid => $_) } qw(old new);

# The issuer: replies with the file "keys" and notes what it was asked; while there is a
# file "hold" it waits.
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50, ReuseAddr => 1) or die $!;
my $issuer = $listener->sockport;
my $pid = fork() // die "fork: $!";
if ($pid == 0) {
    $SIG{TERM} = 'DEFAULT';
    while (my $c = $listener->accept) {
        my $request = '';
        1 while $request !~ /\r\n\r\n/ && sysread($c, $request, 65536, length $request);
        next unless $request;    # its client has left
        open(my $log, '>>', $t->dir . '/asked') or die $!;
        print $log $request;
        close($log);
        select(undef, undef, undef, 0.01) while -e $t->dir . '/hold';
        my $status = $t->read_file('status') || '200 OK';
        my $keys = $t->read_file('keys');
        print $c "HTTP/1.0 $status\r\nContent-Type: application/json\r\n\r\n$keys";
        close($c);
    }
    POSIX::_exit(0);
}
close($listener);

my $good = $old->token(sub => 'ann');

sub asked { my $n = () = $t->read_file('asked') =~ /^GET /mg; return $n }

$t->write_file('keys', AIQ::JWT::set($old));
$t->conf("
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt_key_request /keys;
        location /echo { aiq_jwt api; aiq_pass echo; }
        location /short { aiq_jwt api; aiq_jwt_key_request /keys; aiq_jwt_key_cache 1s; aiq_pass echo; }
        location /left { aiq_jwt api; aiq_jwt_key_request /keys; aiq_pass echo; }
        location /down { aiq_jwt api; aiq_jwt_key_request /refused; aiq_pass echo; }
        location /fallback { aiq_jwt api; aiq_jwt_key_request /other; aiq_pass echo; }
        location /file { aiq_jwt api; aiq_jwt_key_request /static; aiq_pass echo; }
        location /html { aiq_jwt api; aiq_jwt_key_request /page; aiq_pass echo; }
        location /huge { aiq_jwt api; aiq_jwt_key_request /large; aiq_pass echo; }
        location /both { aiq_jwt api; aiq_jwt_key_request /keys; aiq_jwt_key_file %%DIR%%/new.json; aiq_pass echo; }
        location = /keys { internal; proxy_pass http://127.0.0.1:$issuer; proxy_pass_request_headers on; }
        location = /refused { internal; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location = /other { internal; proxy_pass http://127.0.0.1:%%PORT_1%%; error_page 502 = /static; }
        location = /static { internal; alias %%DIR%%/new.json; }
        location = /page { internal; return 200 'hello'; }
        location = /large { internal; alias %%DIR%%/large.json; }
    }");
$t->write_file('new.json', AIQ::JWT::set($new));
$t->write_file('large.json', AIQ::JWT::set($new) . ' ' x 300000);
$t->start;

sub with { my ($token, $path) = @_; return $t->post($path // '/echo', 'hello', AIQ::JWT::bearer($token)) }

# many at once, before there are keys: one question, and all get through
is($t->get('/echo')->{status}, 401, 'without a token nothing is asked');
is($t->get('/echo', AIQ::JWT::bearer('aiq_key'))->{status}, 401, 'nor for another kind of credential');
is(asked(), 0, 'the issuer was not asked');
# Twenty requests, when the issuer has been asked and does not answer.
sub crowd {
    my ($path) = @_;
    my $before = asked();

    $t->write_file('hold', '');
    my @crowd = map {
        my $c = $t->connect;
        $c->request('POST', $path, body => 'hello',
            headers => [ Authorization => "Bearer $good", Cookie => 'secret=1' ]);
        $c;
    } 1 .. 20;
    $t->wait_for(sub { asked() > $before }, 10, 'the issuer is asked');
    return @crowd;
}

my @crowd = crowd('/echo');
unlink($t->dir . '/hold');
is($_->response->{body}, 'hello', 'one that waited') for @crowd;
is(asked(), 1, 'one subrequest');
unlike($t->read_file('asked'), qr/authorization|cookie|content-length/i, "with nothing of the client's");
is(with($good)->{status}, 200, 'and the next one');
is(asked(), 1, 'needs none');

# the one that asks leaves: another one asks
@crowd = crowd('/left');
close((shift @crowd)->socket) for 1 .. 3;
unlink($t->dir . '/hold');
is($_->response->{body}, 'hello', 'one that waited longer') for @crowd;
cmp_ok(asked(), '<=', 5, 'one subrequest for each that left');
my $asked = asked();

# the issuer has new keys: known at once, but nobody can make us ask often
$t->write_file('keys', AIQ::JWT::set($new));
my $next = $new->token(sub => 'ann');
my $began = time;
$t->wait_for(sub { with($next)->{status} == 200 }, 30, 'a new kid is fetched');
is(asked(), $asked + 1, 'with one subrequest');
is(with($good)->{status}, 401, 'the key that went verifies nothing, not even what is cached');
is(with(AIQ::JWT->new('ES256', kid => "none$_")->token)->{status}, 401, 'an unknown kid') for 1 .. 5;
is(asked(), $asked + 1, 'more unknown kids, no more subrequests') if time - $began < 9;
is(with($new->token(sub => 'bob'))->{status}, 200, 'others are served meanwhile');

# renewed by age; what fails is used for as long again
is(with($next, '/short')->{status}, 200, 'a short cache');
$t->write_file('keys', AIQ::JWT::set($old));
$t->wait_for(sub { with($good, '/short')->{status} == 200 && with($next, '/short')->{status} == 401 }, 20, 'renewed keys');
pass('keys are renewed by age');
$t->write_file('status', '500 Oops');
my $r = $t->wait_for(sub { my $r = with($good, '/short'); $r->{status} != 200 && $r }, 20, 'the end of old keys');
is($r->{status}, 503, 'a failing issuer: no keys in the end');
is($t->json($r)->{error}{code}, 'jwt_keys_unavailable', 'and said so');
ok(!$r->{headers}{'www-authenticate'}, "which is not the token's fault");
unlink($t->dir . '/status');

# issuers that are no use
is(with($next, "/$_")->{status}, 503, "no keys: $_") for 'down', 'html', 'huge';
is(with($next, '/fallback')->{status}, 200, 'error_page of the subrequest brings keys');
is(with($next, '/file')->{status}, 200, 'keys of a file');
is(with($next, '/both')->{status}, 200, 'a file beside the request');
like($t->error_log, qr/no keys from "\/page": the reply is not valid JSON/, 'the log: no JSON');
like($t->error_log, qr/no keys from "\/large": the reply is too large/, 'the log: too large');
like($t->error_log, qr/no keys from "\/keys": status 500/, 'the log: its status');

kill('TERM', $pid);
waitpid($pid, 0);
$t->finish;
done_testing;
