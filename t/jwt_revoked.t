# aiq_jwt_key_request: when the issuer takes a key back, what its tokens have open ends,
# and what tokens of other keys have open goes on.

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
my $model = 'mock-stream-100000x20ms';

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
    @{[ $mock->models($model) ]}
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_jwt_key_request /jwks;
        aiq_jwt_key_cache 1s;
        location /v1/ { aiq_jwt api; aiq_pass gateway; }
        location = /jwks { internal; log_subrequest on; access_log %%DIR%%/asked; alias %%DIR%%/jwks.json; }
    }");
$t->write_file('jwks.json', AIQ::JWT::set($old, $new));
$t->start;

sub open_stream {
    my ($path, $key, %more) = @_;
    my $c = $t->connect;

    $c->request('POST', $path, AIQ::JWT::bearer($key->token(sub => 'ann')),
        body => $t->chat($model, 'hi', stream => JSON::PP::true, %more));
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

# Of the provider's connections one is the question's own.
sub asked { my $n = () = $t->read_file('asked') =~ /\n/g; return $n }
sub status { return $t->get('/v1/models', AIQ::JWT::bearer($_[0]->token(sub => 'bob')))->{status} }

my $bystander = open_stream('/v1/chat/completions', $new);
my @ends = map { open_stream('/v1/chat/completions', $old) } 1 .. 40;
my $messages = open_stream('/v1/messages', $old, max_tokens => 200000);
$t->wait_for(sub { $mock->stats->{open} == 43 }, 10, 'all are with the provider');

# one that was let in, and whose body is still to come
my $late = $t->connect;
my $body = $t->chat($model, 'hi', stream => JSON::PP::true);
my %how = AIQ::JWT::bearer($old->token(sub => 'ann'));
$late->request('POST', '/v1/chat/completions', headers => [ @{ $how{headers} }, Expect => '100-continue',
    'Content-Type' => 'application/json', 'Content-Length' => length($body) ]);
like($late->line, qr/ 100 /, 'nginx asks for a body');
is($late->line, '', 'after it is known who sends it');

# the same keys in another order are other bytes
$t->write_file('jwks.json', AIQ::JWT::set($new, $old));
my $asked = asked();
$t->wait_for(sub { status($old) == 200 && asked() > $asked }, 10, 'the keys are asked for again');
is(status($old), 200, 'both are accepted');
is($mock->stats->{open}, 43, 'and all streams go on');

$t->write_file('jwks.json', AIQ::JWT::set($new));
$t->wait_for(sub { status($new) == 200 && status($old) == 401 }, 10, 'the key is taken back');
$late->send($body);
is($late->head->{status}, 401, 'what has not begun does not begin');
like($late->piece // '', qr/"code":"token_revoked"/, 'and says why');
my $end = time() + 60;
my @last = map { last_of($_, $end) } @ends;
is(scalar(grep { /"code":"token_revoked"/ } @last), 40, 'its streams end, and say why');
like(last_of($messages, $end), qr/"type":"error".*"authentication_error"/, "in Anthropic's words too");
$t->wait_for(sub { $mock->stats->{open} == 2 }, 10, 'their providers are left alone');
ok(defined $bystander->event, 'the stream of another key runs') for 1 .. 20;
$t->wait_for(sub { $t->error_log =~ /aiq: request "[^"]+" failed: token_revoked/ }, 10, 'a line in the log');
$bystander->close;

$t->finish;
done_testing;
