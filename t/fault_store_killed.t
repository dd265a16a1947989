# What was acknowledged is there after kill -9 of the engine or of PostgreSQL under
# writes, and what was not is there wholly or not at all.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Command;
use AIQ::Postgres;
use AIQ::Test;

use constant { WRITERS => 4, ROUNDS => 3, ENOUGH => 40 };

my $name = 0;

# Processes that make tenants one after the other until one is not made; the names of
# those that were are in files.
sub start_writers {
    my ($t, $key, $first) = @_;

    return map {
        my $i   = $_;
        my $pid = fork() // die "fork: $!";
        if ($pid == 0) {
            open(my $acked, '>', $t->dir . "/acked.$i");
            my $n = 0;
            eval {
                my $c = $t->connect;
                for (;;) {
                    my $tenant = "t-$first-$i-" . $n++;
                    $c->request('POST', '/api/v1/tenants', headers => [ Authorization => "Bearer $key" ],
                        body => qq({"name":"$tenant"}));
                    last if $c->response->{status} != 201;
                    syswrite($acked, "$tenant\n");
                }
            };
            POSIX::_exit(0);
        }
        $pid;
    } 1 .. WRITERS;
}

sub acked {
    my ($t) = @_;

    return map { split /\n/, $t->read_file("acked.$_") } 1 .. WRITERS;
}

sub tenants {
    my ($t) = @_;
    my $r = run([ aiq(), 'tenants', 'list', '--admin-socket', $t->socket . '.admin' ]);

    is($r->{status}, 0, 'the list') or diag($r->{err});
    return map { /^([^\t]+)/ } split /\n/, $r->{out};
}

# Kills with $kill under writes, starts again with $start; all that was told is there.
sub survives {
    my ($t, $key, $kill, $start) = @_;
    my @all;

    for my $round (1 .. ROUNDS) {
        my @writers = start_writers($t, $key, $name++);
        $t->wait_for(sub { acked($t) >= ENOUGH }, 60, 'writes');
        $kill->();
        waitpid($_, 0) for @writers;
        push @all, acked($t);
        unlink map { $t->dir . "/acked.$_" } 1 .. WRITERS;
        $start->();
        my %there = map { $_ => 1 } tenants($t);
        is_deeply([ grep { !$there{$_} } @all ], [], "round $round: all of " . @all . ' are there');
    }
}

sub started {
    my ($t, @store) = @_;

    $t->conf('aiq_key "t"; server { listen 127.0.0.1:%%PORT_0%%;
        location /api/ { aiq_pass control; }
        location = /health { aiq_key off; aiq_health; } }');
    $t->start_engine(args => \@store);
    $t->start_nginx;
    my $r = run([ aiq(), 'keys', 'create', '--admin', '--admin-socket', $t->socket . '.admin' ]);
    is($r->{status}, 0, 'a key') or diag($r->{err});
    chomp(my $key = $r->{out});
    return $key;
}

# Until the key opens again: nginx has its link, the engine its store.
sub ready {
    my ($t, $key) = @_;

    $t->wait_for(sub {
        my $r = eval { $t->get('/api/v1/tenants', headers => [ Authorization => "Bearer $key" ]) };
        return $r && $r->{status} == 200;
    }, 60, 'the key opens');
}

sub engine_survives {
    my ($t, @store) = @_;
    my $key = started($t, @store);

    survives($t, $key, sub { $t->kill_hard('engine') },
        sub { $t->start_engine(args => \@store); ready($t, $key) });
}

subtest 'SQLite, the engine is killed' => sub {
    my $t = AIQ::Test->new;

    engine_survives($t);
    $t->finish;
};

subtest 'PostgreSQL, the engine is killed' => sub {
    my $t = AIQ::Test->new;
    my $pg = AIQ::Postgres->new($t) or plan skip_all => 'no PostgreSQL here';

    engine_survives($t, '--store', $pg->url);
    $pg->stop;
    $t->finish;
};

subtest 'PostgreSQL is killed' => sub {
    my $t = AIQ::Test->new;
    my $pg = AIQ::Postgres->new($t) or plan skip_all => 'no PostgreSQL here';
    my $key = started($t, '--store', $pg->url);

    survives($t, $key, sub { $pg->kill_hard }, sub {
        $t->wait_for(sub { $t->get('/health')->{status} == 503 }, 20, 'health says that it is away');
        $pg->start;
        $t->wait_for(sub { $t->get('/health')->{status} == 200 }, 60, 'and that it is back');
        ready($t, $key);
    });
    $pg->stop;
    $t->finish;
};

done_testing();
