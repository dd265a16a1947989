package AIQ::Formatter;

# What prove prints, for tools/prove.sh: a test's stderr stands behind its name, where
# other tests that run at the same time do not get between, and the end of what each
# failed one said, on stdout too, stands below the summary.

use strict;
use warnings;

use parent 'TAP::Formatter::File';

use constant LINES => 20;    # of a failed test, below the summary, of each of both

sub stderr {
    my ($test) = @_;
    my $name = $test =~ tr{/}{_}r;

    open(my $in, '<:raw', "$ENV{AIQ_SAID}/$name") or return;
    my @lines = <$in>;
    chomp @lines;
    return @lines;
}

sub open_test {
    my ($self, $test, $parser) = @_;
    my $session = $self->SUPER::open_test($test, $parser);

    $self->{not_ok}{$test} = [];
    return bless $session, 'AIQ::Formatter::Session';
}

sub summary {
    my ($self, $aggregate, @more) = @_;
    my @tests = $aggregate->descriptions;

    $self->SUPER::summary($aggregate, @more);
    for my $test (grep { ($aggregate->parsers($_))[0]->has_problems } @tests) {
        my @lines = (last_of(@{ $self->{not_ok}{$test} }), last_of(stderr($test)));
        $self->_failure_output(map { "$_\n" } "\n$test said:", map { "    $_" } @lines);
    }
}

sub last_of { return @_ > LINES ? @_[-LINES .. -1] : @_ }

package AIQ::Formatter::Session;

use parent -norequire, 'TAP::Formatter::File::Session';

sub result {
    my ($self, $result) = @_;

    $self->SUPER::result($result);
    return if $result->is_test && $result->is_ok || $result->is_plan || $result->is_version;
    push @{ $self->formatter->{not_ok}{ $self->name } }, $result->raw;
}

sub close_test {
    my ($self) = @_;
    my $formatter = $self->formatter;

    $self->SUPER::close_test;
    $formatter->_output(map { "    $_\n" } AIQ::Formatter::stderr($self->name));
}

1;
