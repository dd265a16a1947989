# What is remembered of a key holds as long as the engine names the epoch it was
# read in, and no longer.

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
        location / { aiq_key "models"; proxy_pass http://127.0.0.1:%%PORT_1%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        return 200 "behind\n";
    }');

my $e = AIQ::FakeEngine->new($t);
my $ann = '200 -1 acme ann user key_1';

$e->keys(5, aiq_a => $ann);
$e->start;
$t->start_nginx;
$e->wait_for(qr/^EPOCH 5$/m);

sub get { return $t->get('/', headers => [ 'x-api-key' => $_[0] // 'aiq_a' ])->{status} }

# A request, and whether the engine was asked.
sub asked {
    my ($key) = @_;
    my $before = $e->checks($key // 'aiq_a');
    my $status = get($key);

    return "$status " . ($e->checks($key // 'aiq_a') > $before ? 'asked' : 'known');
}

# An epoch that is not named for a second has lapsed: then the question is asked once more.
sub known_again {
    my ($what, $status) = @_;
    my $known = ($status // 200) . ' known';

    $t->wait_for(sub { asked() eq $known }, 10, 'it is remembered');
    pass($what);
}
is(asked(), '200 asked', 'first');
known_again('then it is known');

# a change
$e->keys(6, aiq_a => '401');
is(asked(), '401 asked', 'a new epoch: asked again');
known_again('the new answer is remembered', 401);
$e->keys(7, aiq_a => $ann);
is(asked(), '200 asked', 'and again');
known_again('remembered in the new epoch');

# silence
$e->keys(undef, aiq_a => $ann);
$t->wait_for(sub { asked() eq '200 asked' }, 10, 'the epoch lapses');
is(asked(), '200 asked', 'no epoch: nothing is remembered');
$e->keys(7, aiq_a => '401');
$t->wait_for(sub { get() == 401 }, 10, 'the epoch is named again');
known_again('what was known before is forgotten, though it is the same epoch', 401);

# an earlier one, once the later is not heard of any more: another store
$e->keys(2, aiq_a => $ann);
$t->wait_for(sub { get() == 200 }, 15, 'an earlier epoch');
known_again('an earlier epoch is one, too');

# what was read before a change and arrives after it
$e->keys(3, aiq_late => 'hold');
my $c = $t->connect;
$c->request('GET', '/', headers => [ 'x-api-key' => 'aiq_late' ]);
$t->wait_for(sub { $e->checks('aiq_late') == 1 }, 10, 'the question');
$e->keys(4, aiq_late => '401');
is($c->response->{status}, 401, 'a late answer is asked for again');
is($e->checks('aiq_late'), 2, 'once');

# a lost engine
$e->keys(4, aiq_a => $ann);
$t->wait_for(sub { asked() eq '200 known' }, 10, 'known once more');
$e->stop;
is(get(), 503, 'the engine is lost: nothing is accepted');
$e->keys(4, aiq_a => '401');
$e->start;
$t->wait_for(sub { get() == 401 }, 10, 'its successor says what holds');
pass('the successor of the engine is asked');

$t->finish;
done_testing;
