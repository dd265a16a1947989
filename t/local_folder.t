# Models by their name in the engine's folder: in one file or several, nothing outside of it;
# closed when nobody uses them, and there again for the next request, which waits.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::GGUF;
use AIQ::Test;

my $t = AIQ::Test->new;
my $demo = "$AIQ::Test::ROOT/demo/demo.gguf";
my $folder = $t->dir . '/models';

mkdir $folder;
to_parts($demo, "$folder/split", 2);
symlink($demo, "$folder/link.gguf");
system('cp', $demo, "$folder/whole.gguf");
system('cp', $demo, $t->dir . '/outside.gguf');
$t->{engine_args} = [ '--models', $folder, '--models-idle', 3 ];
$t->conf('
    aiq_provider local { dialect local; model whole; model split; model link; model ../outside; model none;
                         retry 5 backoff=50ms; }
    aiq_model whole   { target local; }
    aiq_model split   { target local; }
    aiq_model link    { target local; }
    aiq_model outside { target local model=../outside; }
    aiq_model none    { target local; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /v1/    { aiq_pass gateway; }
        location /health { aiq_health; }
    }');
$t->start;
$t->wait_for(sub { $t->get('/health')->{status} == 200 }, 20, 'those are loaded that can be');

sub ask {
    return $t->post('/v1/chat/completions', $t->chat($_[0], 'What is aiq?', temperature => 0, max_tokens => 8),
        headers => [ 'Content-Type' => 'application/json' ]);
}

sub logged { my $text = shift; return grep { ($_->{message} // '') eq $text } $t->engine_lines }

is(ask('whole')->{status}, 200, 'a model by its name');
is(ask('split')->{status}, 200, 'one in several files');
my %why = map { $_->{path} => $_->{reason} } logged('model cannot be loaded');
is_deeply(\%why, { 'link.gguf' => 'it does not lie below --models', '../outside.gguf' => 'it does not lie below --models',
    'none.gguf' => 'No such file or directory' }, 'what is no file of the folder is not opened');
is(ask($_)->{status}, 503, "$_: 503") for qw(link outside none);

# a machine that is busy may take them for idle before, too
$t->wait_for(sub { logged('model closed') >= 2 && logged('model closed') == logged('model loaded') }, 20,
    'both are closed when nobody uses them');
is($t->get('/health')->{status}, 200, 'the engine is healthy');
sub loads { return scalar(grep { $_->{path} eq 'whole.gguf' } logged('model loaded')) }
my $before = loads();
my $r = ask('whole');
is($r->{status}, 200, 'the next request gets its answer');
is(loads(), $before + 1, 'from a model that was loaded again');

$t->finish;
done_testing;
