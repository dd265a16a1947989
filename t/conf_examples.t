# Every example runs as it stands: nginx accepts the file itself, and what it
# promises is served. Only the ports are changed, and the provider's address.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use AIQ::Admin;
use AIQ::Command;
use AIQ::JWT;
use AIQ::Mock;
use AIQ::Run;
use AIQ::Test;
use AIQ::WebSocket;

my $ROOT = $AIQ::Test::ROOT;
my $t = AIQ::Test->new;
symlink($t->binary(''), $t->dir . '/modules');

for my $path (glob("$ROOT/conf.examples/*.conf")) {
    my ($name) = $path =~ m{([^/]+)$};

    $t->{conf} = $path;
    my ($status, $out) = $t->test_conf;
    is($status, 0, "$name: nginx accepts it as it stands") or diag($out);
}

sub up {
    my ($conf, %env) = @_;
    my $run = AIQ::Run->new($t, CONF => $conf, %env);

    ok($run->wait_for(qr/Ctrl-C stops both/), "$conf: it starts") or diag($run->out);
    # another of nginx's workers may still be on its way to the engine
    ok($t->wait_for(sub { $t->get('/health')->{status} == 200 }), "$conf: healthy");
    ok($t->wait_for(sub { $t->get('/metrics', port => 1)->{body} =~ /^aiq_engine_up 1$/m }), "$conf: metrics");
    return $run;
}

sub down {
    my ($conf, $run) = @_;

    is($run->stop, 0, "$conf: it stops");
}

# An OpenAI-compatible provider that knows one key and streams two words.
sub provider {
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5, ReuseAddr => 1) or die $!;
    my $pid = fork() // die "fork: $!";

    return ($listener->sockport, $pid) if $pid;
    $SIG{TERM} = 'DEFAULT';
    while (my $c = $listener->accept) {
        my $request = '';
        sysread($c, $request, 65536, length $request) or last
            until $request =~ /^content-length: (\d+).*?\r\n\r\n(.*)/ims && length $2 == $1;
        $t->write_file('asked', $request);
        my ($model) = $request =~ /"model":\s*"([^"]+)"/;
        my $ok = $request =~ m{^POST /v1/chat/completions } && $request =~ /^authorization: Bearer sk-test\r$/mi;
        my @events = map { qq({"choices":[{"index":0,"delta":{"content":"$_"}}]}) } 'this is ', $model;
        print $c $ok
            ? "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
                . join('', map { "data: $_\n\n" } @events, '[DONE]')
            : "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        close($c);
    }
    POSIX::_exit(0);
}

my $run = up('conf.examples/demo.conf');
like($run->out, qr/^first token/m, 'demo.conf: an answer streams');
down('conf.examples/demo.conf', $run);

$run = up('conf.examples/echo.conf');
my $body = 'x' x (11 << 20);
ok($t->post('/echo', $body)->{body} eq $body, 'echo.conf: 11 MB come back, above every default limit');
my $ws = AIQ::WebSocket->new($t, '/echo');
$ws->text('hello');
is($ws->message, 'hello', 'echo.conf: it speaks WebSocket, too');
down('conf.examples/echo.conf', $run);

my ($port, $pid) = provider();
my $conf = $t->read_file("$ROOT/conf.examples/openai.conf");
is($conf =~ s{https://api\.openai\.com/v1}{http://127.0.0.1:$port/v1}g, 1, 'openai.conf: one url');
$t->write_file('openai.conf', $conf);
$run = up($t->dir . '/openai.conf', OPENAI_API_KEY => 'sk-test');
like($run->out, qr/^gpt-4o has not been asked anything: its provider may charge/m, 'openai.conf: nothing is spent');
is($t->read_file('asked'), '', 'openai.conf: indeed');
my ($curl) = $run->out =~ /^ +(curl -N .*?'\{.*?\}')$/ms;
like(run([ 'sh', '-c', $curl ])->{out}, qr/"content":"gpt-4o".*^data: \[DONE\]$/ms,
    'openai.conf: the curl line asks the provider, with the key of the environment');
my $reply = $t->post('/v1/chat/completions', $t->chat('small', 'hi', stream => JSON::PP::true()));
like($reply->{body}, qr/gpt-4o-mini/, 'openai.conf: a model under another name');
down('openai.conf', $run);

# with an issuer's key of our own
my $key = AIQ::JWT->new('ES256', kid => 'example');
$conf = $t->read_file("$ROOT/conf.examples/jwt.conf");
$conf =~ s{demo\.gguf}{$ROOT/conf.examples/demo.gguf};
$t->write_file('jwt.conf', $conf);
$t->write_file('jwt.jwks', AIQ::JWT::set($key));
$run = up($t->dir . '/jwt.conf');
like($run->out, qr/^demo answers 401: .*missing_token/m, 'jwt.conf: not without a token');
my %claims = (iss => 'https://id.example.com/', aud => 'https://api.example.com/', scope => 'chat');
for my $case ([ 200, 'a good token' ], [ 401, 'for another audience', aud => 'x' ], [ 403, 'for no chat', scope => 'x' ]) {
    my ($status, $what, %other) = @$case;
    $reply = $t->post('/v1/chat/completions', $t->chat('demo', 'hi', max_tokens => 1),
        AIQ::JWT::bearer($key->token(%claims, %other)));
    is($reply->{status}, $status, "jwt.conf: $what");
}
is($t->get('/app/')->{status}, 401, 'jwt.conf: nor to the other server');
$ws = AIQ::WebSocket->new($t, '/ws');
$ws->text(JSON::PP::encode_json({ type => 'auth', token => $key->token(%claims) }));
is($ws->event->{type}, 'state', 'jwt.conf: a WebSocket');
$ws->say(type => 'chat', id => 'c', body => { model => 'demo', max_tokens => 1, messages => [ { role => 'user', content => 'hi' } ] });
my $event;
do { $event = $ws->event } while $event && $event->{type} =~ /^(started|delta)$/;
is($event->{type}, 'done', 'jwt.conf: a chat over it');
$ws->drop;
down('jwt.conf', $run);

# its providers are down but for the last of the real ones, which knows one key
$conf = $t->read_file("$ROOT/conf.examples/failover.conf");
is($conf =~ s{https://(?:api\.openai\.com|example\.openai\.azure\.com)}{http://127.0.0.1:1}g, 2, 'failover.conf: two are down');
is($conf =~ s{https://openrouter\.ai/api/v1}{http://127.0.0.1:$port/v1}, 1, 'failover.conf: one is not');
$conf =~ s{500ms}{1ms}g;
$conf =~ s{demo\.gguf}{$ROOT/conf.examples/demo.gguf};
$t->write_file('failover.conf', $conf);
$run = up($t->dir . '/failover.conf', map { ($_ => 'sk-test') } qw(OPENAI_API_KEY AZURE_OPENAI_API_KEY OTHER_API_KEY));
$reply = $t->post('/v1/chat/completions', $t->chat('gpt-4o', 'hi', stream => JSON::PP::true()));
is($reply->{headers}{'x-aiq-attempts'}, 5, 'failover.conf: two attempts at each that is down');
like($reply->{body}, qr{openai/gpt-4o}, 'failover.conf: then the backup answers');
down('failover.conf', $run);
kill('TERM', $pid);
waitpid($pid, 0);

# each service is asked in its own way; what they say is the mock's
my $mock = AIQ::Mock->new($t);
$conf = $t->read_file("$ROOT/conf.examples/services.conf");
is($conf =~ s{https://[^/]+(?=/)}{'http://127.0.0.1:' . $mock->port}ge, 4, 'services.conf: four services');
is($conf =~ s{^ +(?:ca|certificate) .*\n}{}mg, 2, 'services.conf: certificates');
$t->write_file('services.conf', $conf);
$run = up($t->dir . '/services.conf',
    map { ($_ . '_API_KEY' => "sk-$_", $_ . '_API_KEY_2' => "sk-$_") } qw(AZURE_OPENAI GROQ MISTRAL VLLM));
for my $model (qw(gpt-4o mistral-large llama-3.3-70b)) {
    $reply = $t->post('/v1/chat/completions',
        $t->chat($model, 'hi', stream => JSON::PP::true(), max_completion_tokens => 7));
    like($reply->{body}, qr/\[DONE\]/, "services.conf: $model answers");
}
my %asked = map { $t->json($_->{body})->{model} => $_ } grep { $_->{body} } $mock->requests;
like($asked{'my-deployment'}{head}, qr{^POST /openai/v1/chat/completions\?api-version=preview .*^api-key: sk-AZURE_OPENAI\r$}ms,
    'services.conf: Azure');
like($asked{'mistral-large-latest'}{head}, qr{^POST /v1/chat/completions .*^Authorization: Bearer sk-MISTRAL\r$}ms,
    'services.conf: Mistral');
my $sent = $t->json($asked{'mistral-large-latest'}{body});
is(join(' ', sort keys %$sent), 'max_tokens messages model stream', 'services.conf: Mistral gets nothing it refuses');
is($sent->{max_tokens}, 7, 'services.conf: but the limit');
like($asked{'meta-llama/Llama-3.3-70B-Instruct'}{head}, qr{^POST /v1/chat/completions .*^Authorization: Bearer sk-VLLM\r$}ms,
    'services.conf: vLLM');
down('services.conf', $run);
$t->finish;

# Those that let nobody in without a key: the operator's first, then all others.
sub with_keys {
    my ($name) = @_;

    $t = AIQ::Test->new;
    symlink($t->binary(''), $t->dir . '/modules');
    symlink("$ROOT/conf.examples/demo.gguf", $t->dir . '/demo.gguf');
    $conf = $t->read_file("$ROOT/conf.examples/$name");
    $conf =~ s/\b8000\b/%%PORT_0%%/;
    $conf =~ s/\b9090\b/%%PORT_1%%/;
    $conf =~ s/^worker_processes/user nobody nogroup;\n$&/m if $> == 0;
    $t->raw_conf($conf);
    $t->start;
    return AIQ::Admin->new($t)->json(qw(keys create --admin))->{key};
}

my $admin = with_keys('keys.conf');
my $hi = $t->chat('demo', 'hi', max_tokens => 1);
is($t->post('/v1/chat/completions', $hi)->{status}, 401, 'keys.conf: nobody without a key');
$reply = $t->post('/api/v1/keys', '{"models":["demo"]}', headers => AIQ::Admin::bearer($admin));
is($reply->{status}, 201, 'keys.conf: the first key makes another');
my $made = $t->json($reply)->{key};
is($t->post('/v1/chat/completions', $hi, headers => AIQ::Admin::bearer($made))->{status}, 200, 'keys.conf: which is good for the model');
is($t->get('/api/v1/keys', headers => AIQ::Admin::bearer($made))->{status}, 403, 'keys.conf: and for nothing else');

$t->finish;

$admin = with_keys('limits.conf');
$reply = $t->post('/v1/chat/completions', $hi, headers => AIQ::Admin::bearer($admin));
is("$reply->{status} $reply->{headers}{'x-ratelimit-limit-tokens'}", '200 50000', 'limits.conf: tokens of a tenant');
my @passed = grep { $t->get('/v1/models', headers => AIQ::Admin::bearer($admin))->{status} == 200 } 1 .. 25;
is(scalar @passed, 19, 'limits.conf: twenty of a user');
$reply = $t->get('/v1/models', headers => AIQ::Admin::bearer($admin));
is("$reply->{status} $reply->{headers}{'x-ratelimit-limit-requests'}", '429 20', 'limits.conf: then no more');
is($t->get('/v1/models')->{status}, 401, 'limits.conf: nobody without a key');
is($t->get('/health')->{status}, 200, 'limits.conf: healthy');
$t->finish;

$admin = with_keys('public.conf');
my @site = (Origin => 'https://app.example.com');
$reply = $t->post('/v1/chat/completions', $hi, headers => [ @{ AIQ::Admin::bearer($admin) }, @site ]);
is($reply->{status}, 200, 'public.conf: an answer') or diag($reply->{body});
my %secure = ('x-content-type-options' => 'nosniff', 'x-frame-options' => 'DENY',
    'content-security-policy' => "default-src 'none'; frame-ancestors 'none'", 'strict-transport-security' => 'max-age=31536000',
    'access-control-allow-origin' => 'https://app.example.com', vary => 'Origin');
is($reply->{headers}{$_}, $secure{$_}, "public.conf: $_") for sort keys %secure;
like($reply->{headers}{'x-aiq-cost'}, qr/^0\.\d{9}$/, 'public.conf: and what it cost');
$reply = $t->post('/v1/chat/completions', $hi, headers => \@site);
is($reply->{status}, 401, 'public.conf: nobody without a key');
is($reply->{headers}{$_}, $secure{$_}, "public.conf: $_ of an error") for sort keys %secure;
$reply = $t->http('OPTIONS', '/v1/chat/completions', headers => [ @site, 'Access-Control-Request-Method' => 'POST' ]);
is($reply->{status}, 204, "public.conf: a browser's question needs no key");
is($reply->{headers}{'access-control-max-age'}, 600, 'public.conf: is good for ten minutes');
is($reply->{headers}{'access-control-allow-origin'}, 'https://app.example.com', 'public.conf: for this site');
$reply = $t->http('OPTIONS', '/v1/chat/completions', headers => [ Origin => 'https://evil.example' ]);
is($reply->{headers}{'access-control-allow-origin'}, undef, 'public.conf: and for no other');
is($t->post('/v1/chat/completions', 'x' x (10 << 20 | 1), headers => AIQ::Admin::bearer($admin))->{status}, 413,
    'public.conf: no more than 10 MB');
is($t->post('/v1/topics/news', '{"type":"t","data":1}', headers => AIQ::Admin::bearer($admin))->{status}, 202,
    'public.conf: an event for all');
$reply = $t->get('/v1/topics/news?after=0', headers => AIQ::Admin::bearer($admin));
like($reply->{body}, qr/"data":1,/, 'public.conf: who reads it');
is($t->get('/health')->{status}, 200, 'public.conf: healthy');
$t->finish;
done_testing();
