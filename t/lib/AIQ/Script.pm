package AIQ::Script;

# A provider that answers each model with the events of a list, to the byte, and then says
# nothing more; behind [DONE] it leaves.
#
#     my $provider = AIQ::Script->new($t, broken => [ 'data: {"choices":[' ], …);
#     $t->conf("aiq_provider p { dialect openai; url " . $provider->url . "; } aiq_model broken { target p; }");

use strict;
use warnings;

use JSON::PP ();

sub new {
    my ($class, $t, %models) = @_;
    my $self = bless {}, $class;

    $t->write_file('script.json', JSON::PP->new->latin1->encode(\%models));
    $t->write_file('script.pl', <<'PROVIDER');
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP ();
$| = 1;
local $SIG{CHLD} = 'IGNORE';
my $models = do { local $/; open my $f, '<:raw', $ARGV[0] or die $!; JSON::PP->new->latin1->decode(<$f>) };
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die $!;
print $listener->sockport, "\n";
while (my $c = $listener->accept) {
    next if fork;
    my ($head, $body) = ('', '');
    while ((my $line = <$c> // last) ne "\r\n") { $head .= $line }
    my ($length) = $head =~ /content-length: (\d+)/i;
    read($c, $body, $length);
    my @events = @{ $models->{ JSON::PP::decode_json($body)->{model} } };
    print $c "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", map { "$_\n\n" } @events;
    $c->flush;
    exit if $events[-1] eq 'data: [DONE]';
    1 while sysread($c, my $more, 4096);    # until it is left
    exit;
}
PROVIDER
    $t->_spawn('script', $t->dir . '/logs/script.log', $^X, map { $t->dir . "/script.$_" } qw(pl json));
    $t->wait_for(sub { ($self->{port}) = $t->read_file('logs/script.log') =~ /^(\d+)$/m }, 10, 'the provider listens');
    return $self;
}

sub url { return "http://127.0.0.1:$_[0]{port}/v1" }

1;
