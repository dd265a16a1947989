# An engine that dies when it has just welcomed a worker: of both the worker has one event.

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
    }');

my $e = AIQ::FakeEngine->new($t);
$e->start('dies');
$t->start_nginx;
$e->wait_for_hellos(1);

my ($worker) = $t->workers;
kill('STOP', $worker);
$t->wait_for(sub { $t->read_file("/proc/$worker/stat") =~ /\) T / }, 10, 'it looks at nothing');
$t->wait_for(sub { kill('USR1', $t->pid('engine')) if $t->alive('engine'); !$t->alive('engine') }, 10, 'the engine is dead');
kill('CONT', $worker);

$e->start;
ok(eval { $e->wait_for_hellos(1); 1 }, 'the worker looks for another engine');
$t->wait_for(sub { $t->get('/ok')->{status} == 200 }, 10, 'a link');
is($t->get('/ok')->{body}, "ok\n", 'and requests go on');
is_deeply([ $t->workers ], [$worker], 'it is the same worker');

$t->finish;
done_testing;
