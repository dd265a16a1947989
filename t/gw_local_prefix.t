# What a local model has read of a prompt it does not read again, for the same tenant; and
# requests that are in no hurry.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP ();
use Test::More;
use AIQ::Admin;
use AIQ::Test;

my $t = AIQ::Test->new;
$t->conf("
    aiq_provider local { dialect local; model demo $AIQ::Test::ROOT/demo/demo.gguf; }
    aiq_model demo { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/ { aiq_pass gateway; }
        location /keys/ { aiq_key all; aiq_pass gateway /v1/; }
        location /health { aiq_health; }
        location /metrics { aiq_metrics; }
    }");
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'the model is loaded');

my $long = 'What is aiq, and what does it do for those who run nginx in front of models? ' x 3;

sub ask {
    my ($text, %more) = @_;

    return $t->post('/v1/chat/completions', $t->chat('demo', $text, temperature => 0, max_tokens => 20, %more),
        headers => [ 'Content-Type' => 'application/json' ]);
}

sub cached { return $_[0]{usage}{prompt_tokens_details}{cached_tokens} }

sub metric {
    my ($name) = @_;

    return $t->get('/metrics')->{body} =~ /^\Q$name\E\{model="demo"\} (\d+)$/m ? $1 : undef;
}

my $first = $t->json(ask($long));
my $again = $t->json(ask($long));
my $n = $first->{usage}{prompt_tokens};
cmp_ok($n, '>', 33, 'a prompt of more than two pages');
is(cached($first), 0, 'the first is read');
is(cached($again), 16 * int(($n - 1) / 16), 'of the second the full pages are not, but its last token is');
is($again->{choices}[0]{message}{content}, $first->{choices}[0]{message}{content}, 'and says the same');
my $other = $t->json(ask($long . 'Why?'));
cmp_ok(cached($other), '>=', 16, 'another with the same beginning');
cmp_ok(cached($other), '<=', $n, '... shares no more than that');
my $r = ask($long, stream => JSON::PP::true, stream_options => { include_usage => JSON::PP::true });
my ($usage) = map { $t->json($_)->{usage} // () } $r->{body} =~ /^data: (\{.*)$/mg;
is($usage->{prompt_tokens_details}{cached_tokens}, cached($again), 'a stream says so, too');

is(metric('aiq_local_cached_tokens_total'), 2 * cached($again) + cached($other), 'metric of tokens that were not read');
is(metric('aiq_local_prompt_tokens_total'), 3 * $n + $other->{usage}{prompt_tokens}, '... of all');
is(metric('aiq_local_preemptions_total'), 0, '... of contexts that were taken away');
cmp_ok(metric('aiq_local_accepted_tokens_total'), '<=', metric('aiq_local_drafted_tokens_total'), '... of guesses');
cmp_ok(metric('aiq_local_pages'), '>', 0, '... of pages');
for my $name (qw(aiq_local_pages_used aiq_local_running aiq_local_waiting)) {
    $t->wait_for(sub { metric($name) == 0 }, 5, "$name: nothing runs");
}

is(ask('Hi', service_tier => $_)->{status}, 200, "service_tier $_") for qw(auto default flex priority);
$r = ask('Hi', service_tier => 'soon');
is($r->{status}, 400, 'no service_tier');
is($t->json($r)->{error}{param}, 'service_tier', '... by name');

# tenants
my $admin = AIQ::Admin->new($t);
$admin->json('tenants', 'create', $_) for qw(acme bolt);
for my $tenant (qw(acme bolt)) {
    my $key = $admin->json('keys', 'create', '--tenant', $tenant)->{key};
    my @cached = map {
        cached($t->json($t->post('/keys/chat/completions', $t->chat('demo', $long, max_tokens => 2),
            headers => [ 'Content-Type' => 'application/json', Authorization => "Bearer $key", 'X-AIQ-Priority' => 'batch' ])))
    } 1, 2;
    is_deeply(\@cached, [ 0, cached($again) ], "$tenant shares with itself alone");
}

$t->finish;
done_testing();
