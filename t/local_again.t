# A model that could not be loaded is tried again when somebody asks for it, some seconds after
# the last try: one whose file was broken or not there, and one that was idle.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::Local qw(timegm);
use AIQ::Test;

my $PAUSE = 5;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";
my $folder = $t->dir . '/models';

mkdir $folder;

# as a file is replaced while engines may have it open
sub put {
    my ($name, $from) = @_;
    system('cp', $from, "$folder/new");
    rename("$folder/new", "$folder/$name") or die "$name: $!";
    return;
}

put('broken.gguf', "$AIQ::Test::ROOT/README.md");
put('idle.gguf', $demo);
$t->{engine_args} = [ '--models', $folder, '--models-idle', 3 ];
$t->conf('
    aiq_provider local { dialect local; model broken; model none; model idle; retry 5 backoff=50ms; }
    aiq_model broken { target local; }
    aiq_model none   { target local; }
    aiq_model idle   { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/    { aiq_pass gateway; }
        location /health { aiq_health; }
    }');
$t->start;

sub ask {
    return $t->post('/v1/chat/completions', $t->chat($_[0], 'What is aiq?', temperature => 0, max_tokens => 2),
        headers => [ 'Content-Type' => 'application/json' ]);
}

sub seconds {
    my ($y, $mon, $d, $h, $m, $s, $part) = $_[0] =~ /(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)(\.\d+)Z/ or die $_[0];
    return timegm($s, $m, $h, $d, $mon - 1, $y) + $part;
}

# the ends of a model's tries, and what was said
sub tries {
    my $model = shift;
    return map { [ seconds($_->{timestamp}), $_->{message} ] }
        grep { ($_->{path} // '') eq "$model.gguf" && $_->{message} =~ /^model (?:loaded|cannot be loaded)$/ } $t->engine_lines;
}

sub failures { return scalar(grep { $_->[1] eq 'model cannot be loaded' } tries(@_)) }

$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'those are loaded that can be');
for my $model (qw(broken none)) {
    is(failures($model), 1, "$model: it cannot be loaded");
    for (1 .. 3) {
        my $r = ask($model);
        is($r->{status}, 503, "$model: 503");
        is($t->json($r)->{error}{code}, 'model_unavailable', "$model: its code");
    }
}

$t->wait_for(sub { grep { ($_->{message} // '') eq 'model closed' && $_->{path} eq 'idle.gguf' } $t->engine_lines }, 20,
    'the third is closed when nobody uses it');
put('idle.gguf', "$AIQ::Test::ROOT/README.md");
is(ask('idle')->{status}, 503, 'idle: what takes its place cannot be loaded');
cmp_ok(failures('idle'), '>=', 1, 'idle: it was tried');

put("$_.gguf", $demo) for qw(broken none idle);
my (%health, %served);
$t->wait_for(sub {
    my $r = $t->get('/health');
    $health{ $r->{status} }++ if $r->{body} =~ /"model idle"/;    # the engine's own word, which came in time
    for my $model (grep { !$served{$_} } qw(broken none idle)) {
        $served{$model} = ask($model)->{status} == 200;
    }
    return 3 == grep { $_ } values %served;
}, 40, 'good files are served without a reload');
is_deeply([ keys %health ], [200], 'the engine is healthy enough meanwhile');

for my $model (qw(broken none idle)) {
    my @tries = tries($model);
    my @early = grep {
        $tries[ $_ - 1 ][1] eq 'model cannot be loaded' && $tries[$_][0] - $tries[ $_ - 1 ][0] < $PAUSE - 0.1
    } 1 .. $#tries;

    cmp_ok(scalar(@tries), '>=', 2, "$model: it was tried again");
    is(scalar(@early), 0, "$model: but not before the pause was over");
}
is($t->json($t->get('/health'))->{status}, 'healthy', 'and then all is well');

$t->finish;
done_testing;
