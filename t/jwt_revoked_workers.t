# A key that is taken back ends what its tokens have open in every worker: in those that
# have not asked for keys themselves, and in old ones, after a reload.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);
my ($old, $new) = map { AIQ::JWT->new('ES256', kid => $_) } qw(old new);
my $secret = AIQ::JWT->new('HS256');
my $model = 'mock-stream-100000x20ms';

sub conf {
    my ($more) = @_;

    $t->conf("
        aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
        @{[ $mock->models($model) ]}
        server {
            listen 127.0.0.1:%%PORT_0%% reuseport;
            location /file/  { aiq_jwt api; aiq_jwt_key_file %%DIR%%/file.json; aiq_pass gateway /v1/; }
            location /asked/ { aiq_jwt api; aiq_jwt_key_request /jwks; aiq_jwt_key_cache 1s; aiq_pass gateway /v1/; }
            location = /jwks { internal; alias %%DIR%%/asked.json; }
            $more
        }", workers => 3);
}
conf('');
$t->write_file("$_.json", AIQ::JWT::set($old, $new, $secret)) for qw(file asked);
$t->start;

sub open_stream {
    my ($path, $key) = @_;
    my $c = $t->connect;

    $c->request('POST', "$path/chat/completions", AIQ::JWT::bearer($key->token(sub => 'ann')),
        body => $t->chat($model, 'hi', stream => JSON::PP::true));
    is($c->head->{status}, 200, 'a stream');
    ok(defined $c->event, 'that runs');
    return $c;
}

# Read until its end; without it this would take half an hour.
sub last_of {
    my ($c, $end) = @_;
    my $last = '';

    while (time() < $end) {
        $last = eval { $c->event } // return $last;
    }
    return 'no end';
}
sub revoked {
    my $end = time() + 60;

    return scalar grep { last_of($_, $end) =~ /"code":"token_revoked"/ } @_;
}

# Until old workers take nothing new.
my $reloads = 0;
sub reloaded {
    $t->reload;
    $reloads++;
    $t->wait_for(sub { my $n = () = $t->error_log =~ /gracefully shutting down/g; $n >= 3 * $reloads }, 20, 'old workers leave');
}

# Keys that are asked for: one worker asks, by this connection, and no other has a request.
my @streams = map { open_stream('/asked', $old) } 1 .. 20;
my @others = map { open_stream('/asked', $_) } ($new) x 5, $secret;
my $one = $t->connect;
sub status {
    $one->request('GET', '/asked/models', AIQ::JWT::bearer($_[0]->token(sub => 'bob')));
    return $one->response->{status};
}
is(status($old), 200, 'accepted');
$t->write_file('asked.json', AIQ::JWT::set($new, $secret));
$t->wait_for(sub { status($new) == 200 && status($old) == 401 }, 10, 'one worker knows');
is(revoked(@streams), 20, 'the streams of all workers end');
ok(defined $_->event, 'those of other keys run') for @others, @others;

# It comes back, and everybody has heard of it.
$t->write_file('asked.json', AIQ::JWT::set($old, $new, $secret));
$t->wait_for(sub { status($old) == 200 }, 10, 'the key is back');
push @others, map { open_stream('/asked', $old) } 1 .. 10;

# A file, read with a reload: the streams are those of old workers.
@streams = map { open_stream('/file', $old) } 1 .. 10;
push @others, map { open_stream('/file', $_) } $new, $secret;
reloaded();
ok(defined $_->event, 'the same keys: all go on') for @streams, @others;
$t->write_file('file.json', AIQ::JWT::set($secret, $new));
reloaded();
is(revoked(@streams), 10, 'a key that the file has no more');
ok(defined $_->event, 'and others go on') for @others, @others;

# Old workers hear of keys that new ones have asked for.
$one->close;
$one = $t->connect;
is(status($old), 200, 'a new worker has the keys');
$t->write_file('asked.json', AIQ::JWT::set($new, $secret));
$t->wait_for(sub { status($new) == 200 && status($old) == 401 }, 10, 'then it has not');
my @last = splice @others, 6, 10;
is(revoked(@last), 10, 'and old ones from it');
ok(defined $_->event, 'others go on') for @others, @others;

# A configuration that is not taken changes nothing.
$t->write_file('file.json', AIQ::JWT::set($old));
$t->write_file('nonsense.json', '{');
conf('location /wrong { aiq_jwt api; aiq_jwt_key_file %%DIR%%/nonsense.json; return 204; }');
$t->expect_in_log(qr/\[emerg\].*nonsense\.json" is not valid JSON/);
$t->reload(no_wait => 1);
$t->wait_for(sub { $t->error_log =~ /is not valid JSON/ }, 10, 'the refusal');
for (1 .. 100) {
    defined $_->event or fail('a stream has ended') for @others;
}
pass('all go on for two seconds');
$_->close for @others;

$t->finish;
done_testing;
