# Active health checks: who fails them gets no requests until he passes again.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new(env => { KEY => 'sk-test', BAD => 'sk-bad' });
my $one = AIQ::Mock->new($t);
my $two = AIQ::Mock->new($t, name => 'second');
my $three = AIQ::Mock->new($t, name => 'third');
my $conf = sub {
    my ($check) = @_;

    return "
    aiq_provider one { dialect openai; url http://127.0.0.1:@{[ $one->port ]}; key env:KEY header=api-key;
                       retry 1; breaker failures=1000; $check }
    aiq_provider two { dialect openai; url http://127.0.0.1:@{[ $two->port ]}; retry 1; breaker failures=1000;
                       health_check uri=/none interval=20ms fails=2; }
    aiq_provider keyed { dialect openai; url http://127.0.0.1:@{[ $three->port ]}; key env:BAD; key env:KEY; retry 1;
                         health_check uri=/stats interval=20ms; }
    aiq_model keyed { target keyed model=mock-key-401; }
    aiq_model m    { target one; target two; }
    aiq_model lone { target two; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/    { aiq_pass gateway; }
        location /health { aiq_health; }
        location /metrics { aiq_metrics; }
    }";
};
$t->conf($conf->('health_check uri=/stats interval=20ms timeout=5s fails=1 passes=2;'));
$t->start;

sub ask { return $t->post('/v1/chat/completions', $t->chat($_[0], 'hi')) }

sub state_of {
    my ($provider) = @_;
    my ($c) = grep { $_->{name} eq "provider $provider" } @{ $t->json($t->get('/health'))->{components} };

    return "$c->{status} " . ($c->{reason} // '');
}

sub checks { return grep { $_->{head} =~ /^GET/ } $_[0]->requests }

# the second one answers 400: not what a check wants
$t->wait_for(sub { state_of('two') eq 'degraded it is sick: its health check fails' }, 10, 'a check fails');
my $r = ask('lone');
is($r->{status}, 503, 'the only target is sick');
is($t->json($r)->{error}{code}, 'providers_unavailable', 'the code');
is((ask('m'))->{headers}{'x-aiq-provider'}, 'one', 'another one is well');
is($t->get('/health')->{status}, 200, 'no provider is critical');

$t->wait_for(sub { checks($one) > 3 }, 10, 'checks go on');
my ($check) = checks($one);
like($check->{head}, qr{^GET /stats HTTP/1.1\r$}m, 'the uri behind the url');
like($check->{head}, qr/^api-key: sk-test\r?$/m, 'with the key');
unlike($check->{head}, qr/^Content-Length/m, 'and no body');

sub up { return $t->metric(qq(aiq_provider_up{provider="$_[0]"})) }
is(join(' ', map { up($_) } qw(one two keyed)), '1 0 1', 'the metric');

# a key that rests is not what a check is made with
like((checks($three))[0]{head}, qr/Bearer sk-bad/, 'the first key');
is(ask('keyed')->{status}, 200, 'which is refused: another one is used');
$t->wait_for(sub { (checks($three))[-1]{head} =~ /Bearer sk-test/ }, 10, 'by checks, too');
pass('by checks, too');

# it dies: nobody has to find out with a request
$t->stop('mock', 'KILL');
$t->wait_for(sub { state_of('one') =~ /sick/ }, 10, 'it is sick');
is(up('one'), 0, 'and down');
$r = ask('m');
is($r->{status}, 503, 'and not asked');
$one->restart;
$t->wait_for(sub { state_of('one') eq 'healthy ' }, 10, 'it is well');
is(ask('m')->{headers}{'x-aiq-provider'}, 'one', 'and asked again');

my @lines = grep { $_->{message} eq 'health check has changed' && $_->{provider} eq 'one' } $t->engine_lines;
is(join(' ', map { $_->{state} } @lines), 'sick healthy', 'the log tells each change once');

# without a check nobody is sick
$t->conf($conf->('') =~ s/health_check[^;]*;//r);
$t->reload;
$t->wait_for(sub { ask('lone')->{status} == 200 }, 10, 'nobody is checked any more');
is(up('two'), 1, 'nor down');

# it ends between two checks
my $before = checks($one);
$t->conf($conf->('health_check uri=/stats interval=20ms timeout=5s fails=1 passes=2;'));
$t->reload;
$t->wait_for(sub { checks($one) > $before }, 10, 'checks again');

$t->finish;
done_testing;
