# Guaranteed streams over PostgreSQL: two engines that share it, each with its nginx, serve each
# other's streams; one is killed, and the other goes on with what it had; the database is killed,
# and a reader misses nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Mock;
use AIQ::Postgres;
use AIQ::Reader;
use AIQ::Test;

my ($here, $there) = (AIQ::Test->new, AIQ::Test->new);
my $pg = AIQ::Postgres->new($here) or plan skip_all => 'no PostgreSQL here';
my $mock = AIQ::Mock->new($here);

# Both have the same configuration, to the byte but for their ports: what a policy says.
for my $t ($here, $there) {
    $t->{engine_args} = [ '--store', $pg->url, '--loops', 2 ];
    $t->conf("
        aiq_provider mock { dialect openai; url @{[ $mock->url ]}; }
        aiq_model chat { target mock model=mock-stream-100x20ms; }
        aiq_model once { target mock model=mock-first-1-endless; }
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /v1/         { aiq_pass gateway; }
            location /v1/streams/ { aiq_pass events; }
            location = /health    { aiq_health; }
        }");
    $t->start;
}

sub reader {
    return AIQ::Reader->new($here, model => $_[0] // 'chat', headers => [ 'X-AIQ-Continue' => 'allow' ]);
}

sub whole {
    my ($name, $r) = @_;

    $r->read;
    is_deeply($r->ids, [ 1 .. @{ $r->ids } ], "$name: each event once, in order");
    like(($r->events)[-1], qr/\[DONE\]/, "$name: to its end");
    is($r->again, $r->text, "$name: and so again");
}

# A stream of the other engine, from its middle on and while it goes on.
my $r = reader();
$r->read(10);
my $other = AIQ::Reader->follow($there, $r->id);
$other->read;
$r->read;
is($other->text, $r->text, 'read at the other engine: the same, to the byte');

# The database is killed in the middle.
$r = reader();
$r->read(10);
$pg->kill_hard;
$pg->start;
whole('PostgreSQL killed', $r);
is(scalar(grep { /"continued"/ } $r->events), 0, 'PostgreSQL killed: by the engine that had it');

# The engine is killed in the middle, and does not come back.
$r = reader('once');
$r->read(10);
$other = AIQ::Reader->follow($there, $r->id);
$other->read(5);
$here->kill_hard('engine');
whole('engine killed', $other);
ok((grep { /"continued"/ } $other->events), 'engine killed: the other one has gone on');

$_->stop_all for $there, $here;
$pg->stop;
$_->finish for $there, $here;
done_testing();
