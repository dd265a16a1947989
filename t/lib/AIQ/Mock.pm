package AIQ::Mock;

# The mock provider (t/bench/mock_provider.c) as a process of a test.
#
#     my $mock = AIQ::Mock->new($t);
#     $t->conf("aiq_provider mock { dialect openai; url " . $mock->url . "; }
#               " . $mock->models(qw(mock-chat mock-hang-mid)) . "…");
#
# What a model does is in its name; see the program's head.

use strict;
use warnings;

use AIQ::HTTP;
use JSON::PP ();

sub new {
    my ($class, $t, %arg) = @_;
    my $name = $arg{name} // 'mock';    # of the process: there may be several
    my $self = bless { t => $t, name => $name, record => $t->dir . "/$name.requests" }, $class;

    $self->{port} = $arg{port} // $t->hold_port;
    local $ENV{AIQ_VALGRIND};    # the mock is not what is looked at
    $t->_spawn($name, $t->dir . "/logs/$name.log", $t->binary('bench/mock_provider'),
        '-d', "$AIQ::Test::ROOT/../shared/data/openai-sse", '-r', $self->{record},
        $arg{seed} ? ('-s', $arg{seed}) : (), '-p', $self->{port});
    $t->wait_for(sub { $self->log =~ /^$self->{port}$/m }, 10, 'the mock listens');
    return $self;
}

# The same again, after a stop: at the same port.
sub restart {
    my ($self) = @_;

    unlink $self->{t}->dir . "/logs/$self->{name}.log";
    return __PACKAGE__->new($self->{t}, name => $self->{name}, port => $self->{port});
}

sub log  { return $_[0]{t}->read_file("logs/$_[0]{name}.log") }
sub port { return $_[0]{port} }
sub url  { return "http://127.0.0.1:$_[0]{port}/v1" }
sub seed { return $_[0]->log =~ /^seed (\d+)$/m ? $1 : undef }

# Lines of configuration: one aiq_model each, of the provider `mock`.
sub models {
    my ($self, @names) = @_;

    return join "\n", map { "aiq_model $_ { target mock; }" } @names;
}

# Requests as they came, each {head, body}.
sub requests {
    my ($self) = @_;

    return map { my ($head, $body) = split /\r\n\r\n/, $_, 2; { head => $head, body => $body } }
        split /\n=== end\n/, $self->{t}->read_file($self->{record});
}

sub _get {
    my ($self, $path) = @_;
    my $c = AIQ::HTTP->new($self->{port});

    $c->request('GET', $path);
    return JSON::PP::decode_json($c->response->{body});
}

# {requests, open, aborted}; `open` counts the asking connection.
sub stats { return $_[0]->_get('/stats') }

# The streams of mock-held-N go on.
sub go { return $_[0]->_get('/go') }

1;
