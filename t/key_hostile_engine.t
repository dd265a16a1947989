# Whatever the engine says of a key, the worker goes on: a broken rule costs the
# link, the request is refused.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::FakeEngine;
use AIQ::Test;

my $t = AIQ::Test->new;

$t->conf('
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { aiq_pass echo; }
        location /key/ { aiq_key "models"; aiq_pass echo; }
    }');

my %answer = (
    short    => qr/no answer, or one of a wrong length/,
    head     => qr/no answer, or one of a wrong length/,
    outside  => qr/VERDICT with a field that leads outside/,
    status   => qr/VERDICT with an impossible status/,
    nobody   => qr/VERDICT that does not say whose key it is/,
    line_end => qr/VERDICT with a name that is none/,
    long     => qr/VERDICT with a name that is none/,
    odd_rate  => qr/VERDICT with a rate of a wrong length/,
    high_rate => qr/VERDICT with an impossible rate/,
);
my %rule = (
    verdict   => qr/an answer for a job/,
    bad_epoch => qr/NOTICE of a wrong length/,
);

my $e = AIQ::FakeEngine->new($t);
$e->keys(1, aiq_good => '200 -1 acme ann user key_1', map { ("aiq_$_" => $_) } keys %answer);
$e->start;
$t->start_nginx;
$e->wait_for_hellos(1);
my ($worker) = $t->wait_for(sub { ($t->workers)[0] }, 10, 'the worker');

# The reason is logged, once; then all is well.
sub broken {
    my ($what, $reason, $reply, $status) = @_;
    my $before = () = $t->error_log =~ /$reason/g;

    is($reply->()->{status}, $status, "$what: $status");
    my $after = () = $t->error_log =~ /$reason/g;
    is($after - $before, 1, "$what: the reason is logged");
    ok($t->wait_for(sub { $t->get('/key/fine', headers => [ 'x-api-key' => 'aiq_good' ])->{body} eq "ok\n" }),
        "$what: then requests work");
}

for my $how (sort keys %answer) {
    broken($how, $answer{$how}, sub { $t->get('/key/', headers => [ 'x-api-key' => "aiq_$how" ]) }, 503);
    is($e->checks("aiq_$how"), 1, "$how: not asked again");
}
broken($_, $rule{$_}, sub { $t->get("/$_") }, 502) for sort keys %rule;

is_deeply([ $t->workers ], [ $worker ], 'the worker has lived through all of it');

$t->finish;
done_testing;
