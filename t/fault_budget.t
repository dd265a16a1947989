# A thousand requests at once against a budget for a hundred: no more than that is
# spent, and hardly less; on one engine, on three that share a store, and while
# engines are killed. What the accounts say is what the events say.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use AIQ::Admin;
use AIQ::Burst;
use AIQ::Command;
use AIQ::Mock;
use AIQ::Postgres;
use AIQ::Test;

use constant {
    ACTUAL => 21,    # tokens that the mock says a request has used
    OUTPUT => 12,    # its cap, and what the mock says of it
    CALLS  => 100,
    AT_ONCE => 1000,
};

my $body = AIQ::Test->chat('chat', 'hi', max_tokens => OUTPUT);
my $bound  = length($body) + OUTPUT;                   # the most it may use
my $budget = (CALLS - 1) * ACTUAL + $bound;            # the hundredth just fits
my $request = "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
    . 'Content-Length: ' . length($body) . "\r\nConnection: close\r\n\r\n$body";

sub node {
    my ($mock_url, $t) = @_;

    $t->conf("
        aiq_provider mock { dialect openai; url $mock_url; retry 1; }
        aiq_model chat { target mock model=mock-chat; }
        server {
            listen 127.0.0.1:%%PORT_0%% backlog=2048;
            location /v1/ { aiq_budget tenant ${budget}tokens/month; aiq_pass gateway; }
            location /metrics { aiq_metrics; }
        }");
}

# (events, their tokens, spent of the account, leases) of the store
sub books {
    my ($ask) = @_;

    return $ask->('SELECT COUNT(*), COALESCE(SUM(CASE WHEN tokens_in > 0 THEN tokens_in ELSE 0 END + '
            . 'CASE WHEN tokens_out > 0 THEN tokens_out ELSE 0 END), 0), '
            . "(SELECT SUM(spent) FROM budget_accounts WHERE id LIKE 'tenant/default/tokens/month/%') FROM usage_events");
}

sub of_sqlite {
    my ($t) = @_;

    return sub {
        my $r = AIQ::Command::run([ 'python3', '-c',
            "import sqlite3,sys\nprint(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())",
            $t->store =~ s/^sqlite://r, $_[0] ]);
        die $r->{err} if $r->{status};
        return split ' ', $r->{out};
    };
}

sub of_postgres {
    my ($pg) = @_;

    return sub {
        my $r = AIQ::Command::run([ 'psql', '-qtA', '-F', ' ', '-d', $pg->url, '-c', $_[0] ]);
        die $r->{err} if $r->{status};
        return split ' ', $r->{out};
    };
}

sub all_stored {
    my ($t) = @_;

    $t->wait_for_usage;
}

# More requests, until so much is so: what is held by those who wait for their answers is refused
# to others, and may be all of it.
sub spend_rest {
    my ($t, $ports, $status, $condition) = @_;

    return $t->wait_for(sub {
        return 1 if $condition->();
        my %more = AIQ::Burst::run($ports, 3, $request);
        $status->{$_} += $more{$_} for keys %more;
        return 0;
    }, 20, 'the rest of the budget');
}

sub check {
    my ($status, $ask, $name) = @_;
    my ($n, $tokens, $spent) = books($ask);
    my $ok = $status->{200} // 0;

    ok($tokens <= $budget, "$name: $tokens of $budget tokens are spent");
    is($spent, $tokens, "$name: the account has what the events have");
    cmp_ok($ok * ACTUAL, '<=', $tokens, "$name: what was answered is in it");
    return $n;
}

subtest 'one engine' => sub {
    my $t = AIQ::Test->new;
    my $mock = AIQ::Mock->new($t);
    node($mock->url, $t);
    $t->start;
    my %status = AIQ::Burst::run([ $t->port(0) ], AT_ONCE, $request);
    ok(spend_rest($t, [ $t->port(0) ], \%status, sub { $status{200} >= CALLS - 1 }), "$status{200} are answered");
    all_stored($t);
    is(check(\%status, of_sqlite($t), 'at once'), $status{200}, 'an event for each answer');
    is_deeply([ sort grep { $_ !~ /^(?:200|402|429)$/ } keys %status ], [], 'the others are refused')
        or diag(explain \%status);
    is(scalar($mock->requests), $status{200}, 'and reached nobody');
    $t->finish;
};

subtest 'an engine that is killed' => sub {
    my $t = AIQ::Test->new;
    my $mock = AIQ::Mock->new($t);
    node($mock->url, $t);
    $t->start;
    my %all;
    for my $kill (1 .. 3) {
        my %status = AIQ::Burst::run([ $t->port(0) ], 60, $request, sub { $t->kill_hard('engine') });
        $all{$_} += $status{$_} for keys %status;
        $t->start_engine;
        $t->wait_for(sub { $t->metric('aiq_engine_up') }, 20, 'the engine is back');
    }
    my $ask = of_sqlite($t);
    # what the dead ones had under way is in the books, and nothing more is held
    $t->wait_for(sub { ($ask->('SELECT COUNT(*) FROM budget_leases'))[0] == 0 }, 20, 'no lease is left');
    my %status = AIQ::Burst::run([ $t->port(0) ], AT_ONCE, $request);
    $all{$_} += $status{$_} for keys %status;
    ok(spend_rest($t, [ $t->port(0) ], \%all, sub { all_stored($t); (books($ask))[1] > $budget - 2 * $bound }),
        'nothing of the budget is lost');
    check(\%all, $ask, 'killed three times');
    $t->finish;
};

subtest 'three engines' => sub {
    my @t = map { AIQ::Test->new } 1 .. 3;
    my $pg = AIQ::Postgres->new($t[0]) or plan skip_all => 'no PostgreSQL here';
    my $mock = AIQ::Mock->new($t[0]);
    for my $t (@t) {
        $t->{engine_args} = [ '--store', $pg->url ];
        node($mock->url, $t);
        $t->start;
    }
    my @ports = map { $_->port(0) } @t;
    my %status = AIQ::Burst::run(\@ports, AT_ONCE, $request);
    all_stored($_) for @t;
    is(check(\%status, of_postgres($pg), 'three'), $status{200}, 'an event for each answer');
    # each may have been left with less than a call may cost, which it gives back
    ok(spend_rest($t[0], \@ports, \%status, sub { $status{200} >= CALLS - 1 }), "$status{200} are answered");
    all_stored($_) for @t;
    check(\%status, of_postgres($pg), 'three, to the end');
    $_->stop_all for @t;
    $pg->stop;
    $_->finish for reverse @t;
};

done_testing();
