package AIQ::Admin;

# The operator of a test's engine: the aiq command on its admin socket.
#
#     my $admin = AIQ::Admin->new($t);
#     my $key = $admin->json(qw(keys create --admin));     # dies where it fails
#     my $r = $t->get('/v1/models', headers => AIQ::Admin::bearer($key->{key}));

use strict;
use warnings;

use AIQ::Command ();
use JSON::PP ();

sub new {
    my ($class, $t, %arg) = @_;

    return bless { t => $t, socket => $arg{socket} // $t->socket . '.admin' }, $class;
}

# {status, out, err}
sub run {
    my ($self, @args) = @_;

    return AIQ::Command::run([ $self->{t}->binary('aiq'), @args, '--admin-socket', $self->{socket} ]);
}

sub json {
    my ($self, @args) = @_;
    my $r = $self->run(@args, '--json');

    die "aiq @args: $r->{err}" if $r->{status} != 0;
    return JSON::PP::decode_json($r->{out});
}

sub bearer { return [ Authorization => "Bearer $_[0]", 'Content-Type' => 'application/json' ] }

1;
