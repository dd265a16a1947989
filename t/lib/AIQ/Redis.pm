package AIQ::Redis;

# A redis-server of a test, in memory only.
#
#     my $redis = AIQ::Redis->new($t) or plan skip_all => 'no redis-server';
#     $t->start_engine(args => [ '--redis', $redis->url ]);
#     $redis->command('SET', 'key', 'value');

use strict;
use warnings;

use AIQ::HTTP;
use IO::Socket::INET;

sub new {
    my ($class, $t) = @_;
    my $self = bless { t => $t }, $class;

    -x '/usr/bin/redis-server' or return;
    $self->{port} = $t->hold_port;
    $self->start;
    return $self;
}

sub start {
    my ($self) = @_;
    my $t = $self->{t};

    local $ENV{AIQ_VALGRIND};    # it is not what is looked at
    $t->_spawn('redis', $t->dir . '/logs/redis.log', '/usr/bin/redis-server', '--port', $self->{port},
        '--bind', '127.0.0.1', '--save', '', '--dir', $t->dir);
    $t->wait_for(sub { AIQ::Test::tcp_connects($self->{port}) }, 10, 'redis-server listens');
}

sub url { return "redis://127.0.0.1:$_[0]{port}/0" }

# A string, a number, undef, or an array of keys.
sub command {
    my ($self, @words) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) or die $!;

    print {$s} '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words;
    return _reply($s);
}

sub _reply {
    my ($s) = @_;
    my ($type, $text) = (<$s> // die 'redis-server has left') =~ /^(.)(.*)\r\n$/;

    return [ map { _reply($s) } 1 .. $text ] if $type eq '*';
    return $text if $type ne '$';
    return undef if $text < 0;
    read($s, my $value, $text + 2) == $text + 2 or die 'half a reply';
    return substr($value, 0, $text);
}

1;
