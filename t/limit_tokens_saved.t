# What keys have used of rates of tokens outlives the engine: a restart, a kill, a takeover.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Mock;
use AIQ::Test;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

# the mock says that an answer has 9 tokens of the prompt and 12 of the answer
$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_model chat { target mock model=mock-chat; }
    aiq_limit_zone \$http_x_who zone=who:1m rate=100t/d;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        aiq_limit zone=who;
        location /v1/ { aiq_pass gateway; }
        location /health { aiq_health; }
    }");
$t->start;

# How many tokens are left, or the status.
sub ask {
    my $r = $t->post('/v1/chat/completions', $t->chat('chat', 'hi', max_tokens => 10), headers => [ 'X-Who' => $_[0] ]);
    return $r->{status} == 200 ? $r->{headers}{'x-ratelimit-remaining-tokens'} : $r->{status};
}

sub up {
    $t->start_engine(@_);
    $t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'nginx has found it');
}

# What a running engine has written down, of all keys.
sub saved {
    my $n = 0;
    for my $file (grep { /[0-9a-f]{16}$/ } glob($t->socket . '.tokens/*')) {
        my $text = $t->read_file($file);
        $n += $1 while $text =~ / \d+:(-?\d+)/g;
    }
    return $n;
}

is(ask('ann'), 79, 'of 100 tokens');
is(ask('bob'), 79, 'of 100 others');
$t->stop('engine', 'TERM');
up();
is(ask('ann'), 58, 'after a restart');

$t->wait_for(sub { saved() == 63 }, 20, 'it is written down');
$t->stop('engine', 'KILL');
up();
is(ask('ann'), 37, 'after a kill');
is(ask('bob'), 58, 'the other one, too');

up(name => 'next');
$t->wait_for(sub { !$t->alive('engine') }, 20, 'the old engine leaves');
$t->wait_for(sub { saved() == 105 }, 20, 'the new one has what it has left');
is(ask('ann'), 16, 'after a takeover');
is(ask('ann'), 429, 'there is an end');

$t->stop('next', 'TERM');
is(scalar(grep { !/\.left$/ } glob($t->socket . '.tokens/*')), 0, 'only what is left for the next one stays');

$t->finish;
done_testing;
