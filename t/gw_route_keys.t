# Several keys of a provider take turns; one that is refused or limited rests.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new(env => { map { ("KEY_$_" => "sk-$_") } qw(a b bad_c bad_d bad_e) });
my $mock = AIQ::Mock->new($t);
my $rules = 'retry 3 backoff=1ms; breaker failures=1000;';

$t->conf("
    aiq_provider both    { dialect openai; url @{[ $mock->url ]}; key env:KEY_a; key env:KEY_b; $rules }
    aiq_provider refused { dialect openai; url @{[ $mock->url ]}; key env:KEY_bad_c; key env:KEY_a; $rules }
    aiq_provider limited { dialect openai; url @{[ $mock->url ]}; key env:KEY_bad_d; key env:KEY_a; $rules }
    aiq_provider one     { dialect openai; url @{[ $mock->url ]}; key env:KEY_bad_e; $rules }
    aiq_provider header  { dialect openai; url @{[ $mock->url ]}; key env:KEY_a header=api-key; query api-version=7&x; }
    aiq_model both    { target both; }
    aiq_model refused { target refused model=mock-key-401; }
    aiq_model limited { target limited model=mock-key-429; }
    aiq_model one     { target one model=mock-key-401; }
    aiq_model header  { target header; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }");
$t->start;

sub ask {
    my ($model) = @_;

    return $t->post('/v1/chat/completions', $t->chat($model, 'hi'));
}

sub keys_since {
    my ($n) = @_;
    my @all = $mock->requests;

    return map { $_->{head} =~ /^Authorization: Bearer (\S+)/m } @all[ $n .. $#all ];
}

ask('both') for 1 .. 4;
my @keys = keys_since(0);
is_deeply([ sort @keys ], [ ('sk-a') x 2, ('sk-b') x 2 ], 'they take turns');

for my $kind (qw(refused limited)) {
    my $n = () = $mock->requests;
    my @replies = map { ask($kind) } 1 .. 6;

    is(scalar(grep { $_->{status} == 200 } @replies), 6, "$kind: every request is answered");
    my @sent = keys_since($n);
    is(scalar(grep { /bad/ } @sent), 1, "$kind: the bad key is used once");
    is(scalar(grep { $_ eq 'sk-a' } @sent), 6, "$kind: the other one then");
}

my $r = ask('one');
is($r->{status}, 502, 'the only key is refused');
is($t->json($r)->{error}{code}, 'provider_auth_failed', 'the code');
is(ask('one')->{status}, 502, 'and is still used, for there is no other');

$r = ask('header');
my $head = ($mock->requests)[-1]{head};
like($head, qr/^api-key: sk-a\r$/m, 'a header of its own');
unlike($head, qr/^authorization/mi, 'and no other');
like($head, qr{^POST /v1/chat/completions\?api-version=7&x HTTP}, 'arguments of the URL');
unlike($t->engine_log . $t->error_log, qr/sk-/, 'no key in a log');

$t->finish;
done_testing;
