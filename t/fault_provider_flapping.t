# A provider that dies and comes back, again and again, under load: whoever has another
# target notices nothing, all others get an error that says what it is, every
# answer is billed once, and little is left of it in memory.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Select;
use JSON::PP ();
use POSIX ();
use Test::More;
use AIQ::Admin;
use AIQ::Command qw(sanitized);
use AIQ::HTTP;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $flapping = AIQ::Mock->new($t);
my $steady = AIQ::Mock->new($t, name => 'steady');

# requests of half a kilobyte, and streams that are broken in the middle
$t->conf("
    aiq_provider flaps  { dialect openai; url @{[ $flapping->url ]}; retry 2 backoff=1ms; breaker failures=3 open=20ms; }
    aiq_provider steady { dialect openai; url @{[ $steady->url ]}; retry 1; }
    aiq_model both   { target flaps input=1 output=10; target steady input=1 output=10; }
    aiq_model alone  { target flaps input=1 output=10; retry_timeout 100ms; }
    aiq_model stream { target flaps model=mock-stream-40x1ms input=1 output=10; target steady input=1 output=10; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/     { aiq_pass gateway; }
        location /api/    { aiq_key all; aiq_pass control; }
        location /metrics { aiq_metrics; }
    }");
$t->start;
my $root = AIQ::Admin->new($t)->json(qw(keys create --admin));

# One client of one model: how its requests ended.
sub client {
    my ($model, $stop) = @_;
    my $stopped = IO::Select->new($stop);
    my $body = $t->chat($model, 'x' x 500, $model eq 'stream' ? (stream => JSON::PP::true) : ());
    my (%n, $c);

    until ($stopped->can_read(0)) {
        $c //= AIQ::HTTP->new($t->port(0), 20);
        $c->request('POST', '/v1/chat/completions', body => $body);
        my $r = $c->response;
        my $code = $r->{body} =~ /"code":"([a-z_]+)"/ ? " $1" : '';
        my $whole = $model ne 'stream' || $r->{body} =~ /\[DONE\]/ ? '' : ' broken';
        $n{"$r->{status}$code$whole"}++;
        undef $c if ($r->{headers}{connection} // '') eq 'close';    # after 1,000 requests
    }
    return \%n;
}

sub start_client {
    my ($model, $stop, $parents_end) = @_;

    pipe(my $read, my $write) or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        close($parents_end);
        $SIG{TERM} = 'DEFAULT';
        my $n = eval { client($model, $stop) } // { "$@" => 1 };
        syswrite($write, JSON::PP::encode_json($n));
        POSIX::_exit(0);
    }
    close($write);
    return { model => $model, pid => $pid, read => $read };
}

sub requests_of { return scalar(() = $_[0]->requests) }

my $memory;
my %n = map { $_ => {} } qw(both alone stream);
for my $round (1 .. 3) {
    pipe(my $stop_read, my $stop) or die "pipe: $!";
    my @clients = map { start_client($_, $stop_read, $stop) } (qw(both alone stream)) x 2;

    close($stop_read);
    for (1 .. 4) {
        my $asked = requests_of($flapping);
        $t->wait_for(sub { requests_of($flapping) > $asked + 5 }, 20, 'it is asked');
        $t->stop('mock', 'KILL');
        my $elsewhere = requests_of($steady);
        $t->wait_for(sub { requests_of($steady) > $elsewhere + 5 }, 20, 'another one is');
        $flapping = $flapping->restart;
    }
    close($stop);
    for my $client (@clients) {
        my $of = $n{ $client->{model} };
        my $ended = JSON::PP::decode_json(do { local $/; readline($client->{read}) });
        $of->{$_} += $ended->{$_} for keys %$ended;
        waitpid($client->{pid}, 0);
    }
    $memory //= $t->private_memory($t->pid('engine'));
}

is_deeply([ keys %{ $n{both} } ], ['200'], 'with another target: nothing but answers') or diag(explain($n{both}));
ok(!(grep { !/^(?:200|502 provider_(?:error|unreachable)|503 providers_unavailable)$/ } keys %{ $n{alone} }),
    'without: an answer, or what is wrong') or diag(explain($n{alone}));
ok(!(grep { !/^200(?: provider_error broken)?$/ } keys %{ $n{stream} }),
    'streams: whole, or with an error at their end') or diag(explain($n{stream}));

# the breaker closes by itself
$t->wait_for(sub { $t->post('/v1/chat/completions', $t->chat('alone', 'hi'))->{status} == 200 }, 10, 'it is asked again');
$n{alone}{200}++;
pass('then all is well again');

$t->wait_for_usage;
my $usage = $t->json($t->get('/api/v1/usage?group_by=model', headers => AIQ::Admin::bearer($root->{key})));
my %of = map { $_->{model} => $_ } @{ $usage->{data} };
is($of{both}{tokens_out}, 12 * $n{both}{200}, 'every answer is billed once');
is($of{alone}{tokens_out}, 12 * $n{alone}{200}, 'and no failure');
is($of{stream}{estimated}, $n{stream}{'200 provider_error broken'} // 0, 'broken streams as an estimate');

SKIP: {
    skip 'memory is not itself here', 1 if $ENV{AIQ_VALGRIND} || sanitized();
    # what the allocator keeps of a busy moment is more or less; a leak is a sanitizer's to find
    cmp_ok($t->private_memory($t->pid('engine')) - $memory, '<', 16 << 20, 'memory returns to its level');
}

$t->finish;
done_testing;
