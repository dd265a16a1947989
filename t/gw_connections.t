# Connections to a provider are used again; one that the provider has closed
# meanwhile costs nobody a request.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Test;
use AIQ::Mock;

my $t = AIQ::Test->new;
my $mock = AIQ::Mock->new($t);

$t->conf("
    aiq_provider mock { dialect openai; url @{[ $mock->url ]}; retry 1; }
    aiq_provider front { dialect openai; url http://127.0.0.1:%%PORT_1%%/v1; retry 1; }
    @{[ $mock->models('mock-chat', 'mock-429', 'mock-short-length') ]}
    aiq_model front { target front; }
    server { listen 127.0.0.1:%%PORT_0%%; location /v1/ { aiq_pass gateway; } }
    log_format front '\$connection \$status';
    server {
        listen 127.0.0.1:%%PORT_1%%;
        keepalive_timeout 50ms;
        access_log %%DIR%%/logs/front.log front;
        location / { proxy_pass http://127.0.0.1:@{[ $mock->port ]}; }
    }");
$t->start;

sub ask {
    return $t->post('/v1/chat/completions', $t->chat($_[0], 'hi'));
}

is(ask('mock-chat')->{status}, 200, 'a request') for 1 .. 5;
is(ask('mock-429')->{status}, 429, 'an error');
is(ask('mock-chat')->{status}, 200, 'a request');
is($mock->stats->{open}, 2, 'all of it on one connection');

# a reply that is longer than it says leaves a connection of no more use
is(ask('mock-short-length')->{status}, 502, 'bytes behind a reply');
ok(eval { $t->wait_for(sub { $mock->stats->{open} == 1 }, 5) }, 'its connection is closed');

# nginx closes idle connections after 50 ms; requests come at about that time
my $bad = grep { select(undef, undef, undef, 0.045 + 0.0005 * $_); ask('front')->{status} != 200 } 1 .. 20;
is($bad, 0, 'no request fails for an idle connection that was closed');

# half of a reply is never asked for again
is(scalar(grep { $_->{head} =~ /^POST/ } $mock->requests), 28, 'and none was sent twice');

$t->finish;
done_testing;
