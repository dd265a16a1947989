# The engine's life without nginx: it starts over a dead one's socket, logs JSON
# lines, and leaves in order on each of its signals.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $t = AIQ::Test->new;

for my $signal (qw(TERM QUIT INT)) {
    $t->start_engine;
    ok(-S $t->socket, 'the socket is there');
    is((stat($t->socket))[2] & 07777, 0660, 'for its owner and group');
    is($t->stop('engine', $signal), 0, "$signal ends it in order");
    ok(!-e $t->socket, 'and the socket is gone');
}

$t->start_engine;
$t->kill_hard('engine');
ok(-S $t->socket, 'a killed engine leaves its socket');
$t->start_engine;
is($t->stop('engine'), 0, 'which does not hinder the next');

my @lines = $t->engine_lines;
is(scalar @lines, scalar(split /\n/, $t->engine_log), 'each line of the log is a JSON object');
is(scalar(grep { $_->{message} eq 'ready' } @lines), 5, 'one says that it is ready');
for my $line (@lines) {
    my $ok = $line->{timestamp} =~ /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/
        && $line->{level} =~ /^(?:debug|info|warn|error)$/ && $line->{service} && $line->{message};
    next if $ok;
    fail('timestamp, level, service and message: ' . JSON::PP::encode_json($line));
}

is(scalar(glob($t->socket . '.*')) // '', '', 'nothing is left beside the socket');

$t->finish;
done_testing();
