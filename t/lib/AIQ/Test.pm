package AIQ::Test;

# A nginx with the module, an engine, and a client for them, in a folder and on
# ports of their own; nothing is left when the test ends.
#
#     my $t = AIQ::Test->new;
#     $t->conf('
#         server {
#             listen 127.0.0.1:%%PORT_0%%;
#             location /echo { aiq_pass echo; }
#         }');
#     $t->start;                          # engine and nginx, both ready
#     my $r = $t->post('/echo', 'hello');
#     is($r->{body}, 'hello');
#
# Environment: AIQ_BUILD_DIR (build), AIQ_NGINX (nginx), AIQ_VALGRIND=1 wraps
# both, AIQ_KEEP=1 keeps the folder, AIQ_STORE=postgres gives engines that store.
#
# At the end the logs are read: [alert], [emerg] and reports of sanitizers or
# valgrind fail the test, unless expect_in_log() allowed them.

use strict;
use warnings;

use Cwd qw(abs_path);
use Errno qw(EAGAIN EINTR);
use Fcntl qw(F_GETFD F_SETFD FD_CLOEXEC);
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use POSIX qw(:sys_wait_h);
use Test::More;
use Time::HiRes qw(time);

use AIQ::HTTP;

our $ROOT = abs_path(dirname(__FILE__) . '/../../..');

my @running;    # every instance, for END

sub new {
    my ($class, %arg) = @_;
    my $build = $ENV{AIQ_BUILD_DIR} // 'build';
    my $self = bless {
        dir      => tempdir('aiq-XXXXXX', DIR => '/tmp'),    # short: Unix sockets
        build    => $build =~ m{^/} ? $build : "$ROOT/$build",
        nginx    => $ENV{AIQ_NGINX} // (-x '/usr/sbin/nginx' ? '/usr/sbin/nginx' : 'nginx'),
        owner    => $$,
        ports    => [],
        held     => [],
        children => {},
        expected => [],
        engine_args => $arg{engine_args} // [],
        env      => $arg{env} // {},
    }, $class;

    # the workers' user must get through to the socket, and not write here
    chmod 0755, $self->{dir};
    mkdir "$self->{dir}/$_" for qw(logs temp html);
    chmod 0777, "$self->{dir}/temp" if $> == 0;
    push @running, $self;
    return $self;
}

sub dir    { return $_[0]{dir} }
sub socket { return "$_[0]{dir}/engine.sock" }
sub binary { return "$_[0]{build}/$_[1]" }

# A file of the test's folder.
sub write_file {
    my ($self, $name, $text) = @_;
    my $path = $name =~ m{^/} ? $name : "$self->{dir}/$name";

    open(my $out, '>:raw', $path) or die "$path: $!";
    print $out $text;
    close($out) or die "$path: $!";
    return $path;
}

sub read_file {
    my ($self, $name) = @_;
    my $path = $name =~ m{^/} ? $name : "$self->{dir}/$name";

    open(my $in, '<:raw', $path) or return '';
    local $/;
    return scalar(<$in>) // '';
}

# Ports are held by a socket that is bound and does not listen: the kernel gives
# them to nobody else, and a program that sets SO_REUSEADDR, as nginx, may listen.
sub port {
    my ($self, $i) = @_;

    push @{ $self->{ports} }, $self->hold_port while @{ $self->{ports} } <= $i;
    return $self->{ports}[$i];
}

# One for a program that comes and goes, and that nobody else may get meanwhile.
sub hold_port {
    my ($self) = @_;
    my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0,
        Proto => 'tcp', ReuseAddr => 1) or die "no free port: $!";

    push @{ $self->{held} }, $s;
    return $s->sockport;
}

# ---- configuration ----

# nginx.conf whose http {} holds the given text. %%DIR%%, %%PORT_n%%,
# %%SOCKET%%, %%MODULE%%, %%ROOT%% are filled in. Without an aiq_engine line one is added.
sub conf {
    my ($self, $http, %arg) = @_;
    my $engine = $http =~ /aiq_engine\s/ ? '' : "aiq_engine unix:%%SOCKET%%;";
    my $user   = $> == 0                 ? 'user nobody nogroup;'             : '';
    my $level  = $arg{log_level} // 'info';
    my $procs  = $self->{workers} = $arg{workers} // 1;
    # a new binary (USR2) starts with what nginx keeps of its environment
    my $main = join("\n", ($arg{main} // ''), map { "env $_;" } grep { /^\w+SAN_OPTIONS$/ } keys %ENV);

    return $self->raw_conf(<<"CONF");
load_module %%MODULE%%;
$user
worker_processes $procs;
error_log %%DIR%%/logs/error.log $level;
pid %%DIR%%/nginx.pid;
$main
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path %%DIR%%/temp/body;
    proxy_temp_path %%DIR%%/temp/proxy;
    fastcgi_temp_path %%DIR%%/temp/fastcgi;
    uwsgi_temp_path %%DIR%%/temp/uwsgi;
    scgi_temp_path %%DIR%%/temp/scgi;
    $engine
$http
}
CONF
}

sub raw_conf {
    my ($self, $text) = @_;

    return $self->{conf} = $self->write_file('nginx.conf', $self->expand($text));
}

sub expand {
    my ($self, $text) = @_;

    $text =~ s/%%PORT_(\d+)%%/$self->port($1)/ge;
    $text =~ s/%%DIR%%/$self->{dir}/g;
    $text =~ s/%%SOCKET%%/$self->socket/ge;
    $text =~ s/%%MODULE%%/$self->binary('ngx_http_aiq_module.so')/ge;
    $text =~ s/%%ROOT%%/$ROOT/g;
    return $text;
}

# nginx -t: (exit status, output).
sub test_conf {
    my ($self) = @_;
    my @cmd = ($self->{nginx}, '-e', 'stderr', '-t', '-p', "$self->{dir}/", '-c', $self->{conf});
    my $pid = open(my $out, '-|') // die "fork: $!";

    if ($pid == 0) {
        open(STDERR, '>&', \*STDOUT);
        exec @cmd or POSIX::_exit(127);
    }
    local $/;
    my $text = <$out> // '';
    close($out);
    return ($? >> 8, $text);
}

# ---- processes ----

sub _spawn {
    my ($self, $name, $log, @cmd) = @_;

    if ($ENV{AIQ_VALGRIND}) {
        unshift @cmd, 'valgrind', '-q', '--error-exitcode=99', '--leak-check=full',
            '--show-leak-kinds=definite', '--errors-for-leak-kinds=definite',
            "--suppressions=$ROOT/t/valgrind.supp";
    }
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        setpgrp(0, 0);
        @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };
        open(STDIN,  '<',  '/dev/null');
        open(STDOUT, '>>', $log) or POSIX::_exit(126);
        open(STDERR, '>>', $log) or POSIX::_exit(126);
        exec @cmd or POSIX::_exit(127);
    }
    $self->{children}{$name} = $pid;
    return $pid;
}

# The URL of this test's store.
sub store {
    my ($self) = @_;

    if (($ENV{AIQ_STORE} // '') eq 'postgres') {
        require AIQ::Postgres;
        $self->{postgres} //= AIQ::Postgres->new($self) // die "there is no PostgreSQL\n";
        return $self->{postgres}->url;
    }
    return "sqlite:$self->{dir}/aiq.db";
}

# The engine; ready once workers can connect.
sub start_engine {
    my ($self, %arg) = @_;
    my $name = $arg{name} // 'engine';
    my @args = @{ $arg{args} // $self->{engine_args} };
    my @group = $> == 0 ? ('--socket-group', 'nogroup') : ();
    my $before = inode($self->socket);

    $self->_spawn($name, "$self->{dir}/logs/engine.log", $self->binary('aiq-engine'),
        '--socket', $self->socket, '--store', $self->store, @group, @args);
    $self->wait_for(sub {
        $self->alive($name) or die "the engine did not start:\n" . $self->engine_log;
        my $now = inode($self->socket);
        return $now && $now ne $before;    # it is put there once it listens
    }, 30, 'the engine listens');
    return $self->{children}{$name};
}

# nginx; ready once it takes connections. In the foreground, as a child of the
# test, unless daemon => 1: a master in the foreground takes no binary upgrade.
sub start_nginx {
    my ($self, %arg) = @_;

    my $child = $self->_spawn('nginx', "$self->{dir}/logs/stderr.log", $self->{nginx}, '-p',
        "$self->{dir}/", '-c', $self->{conf}, $arg{daemon} ? () : ('-g', 'daemon off;'));
    if ($arg{daemon}) {
        waitpid($child, 0);
        $self->{children}{nginx} = $self->wait_for(sub { $self->nginx_pid }, 10, 'a pid file');
    }
    $self->wait_for(sub {
        $self->alive('nginx') or die "nginx did not start:\n" . $self->error_log
            . $self->read_file('logs/stderr.log');
        return -s "$self->{dir}/nginx.pid" && $self->{ports}[0]
            ? tcp_connects($self->{ports}[0]) : -s "$self->{dir}/nginx.pid";
    }, 30, 'nginx listens');
    return $self->{children}{nginx};
}

sub start {
    my ($self) = @_;

    $self->start_engine;
    $self->start_nginx;
    $self->wait_for_links($self->{workers} // 1);
    return $self;
}

# Until so many links were made since the first engine's start. nginx listens before
# it has workers, and an engine before workers have found it.
sub wait_for_links {
    my ($self, $n) = @_;

    $self->wait_for(sub { $self->links >= $n }, 10, "$n links");
}

# How many there have been.
sub links {
    my ($self) = @_;
    my $n = () = $self->engine_log =~ /"worker connected"/g;

    return $n;
}

sub pid { return $_[0]{children}{ $_[1] } }

# The ids of nginx's workers, or of any process' children.
sub workers {
    my ($self, $parent) = @_;

    $parent //= $self->nginx_pid;
    return grep { $_ } map {
        my $stat = $self->read_file("/proc/$_/stat");
        $stat =~ /^\d+ \(.*\) (\S) (\d+)/ && $2 == $parent && $1 ne 'Z' ? $_ : ();
    } map { m{/proc/(\d+)$} } glob('/proc/[0-9]*');
}

sub nginx_pid {
    my ($self) = @_;

    return $self->read_file('nginx.pid') =~ /(\d+)/ ? $1 : 0;
}

sub alive {
    my ($self, $name) = @_;
    my $pid = $self->{children}{$name} or return 0;
    my $reaped = waitpid($pid, WNOHANG);

    return 1 if $reaped == 0 || ($reaped < 0 && kill(0, $pid));    # < 0: a daemon
    $self->{status}{$name} = $?;
    delete $self->{children}{$name};
    return 0;
}

# Sends a signal and waits until the process is gone; its wait status.
sub stop {
    my ($self, $name, $signal, $seconds) = @_;
    my $pid = $self->{children}{$name} or return;

    kill($signal // 'TERM', $pid);
    my $gone = eval {
        $self->wait_for(sub { !$self->alive($name) }, $seconds // 30, "$name ends"); 1;
    };
    if (!$gone) {
        kill('KILL', $pid);
        waitpid($pid, 0);
        delete $self->{children}{$name};
        fail("$name ends after " . ($signal // 'TERM'));
    }
    return $self->{status}{$name};
}

sub kill_hard {
    my ($self, $name) = @_;

    return $self->stop($name, 'KILL');
}

# nginx -s reload, waited for: new workers are there, and where the old ones had an engine,
# have found it: a request that comes before waits for that, but for a second at most.
sub reload {
    my ($self, %arg) = @_;
    my %old = map { $_ => 1 } $self->workers;
    my $links = $self->links;

    kill('HUP', $self->nginx_pid);
    return if $arg{no_wait};
    $self->wait_for(sub { grep { !$old{$_} } $self->workers }, 20, 'new workers');
    $self->wait_for_links($links + ($self->{workers} // 1)) if $links;
}

# ---- HTTP ----

sub get  { my ($self, $path, %arg) = @_; return $self->http('GET', $path, %arg) }
sub post { my ($self, $path, $body, %arg) = @_; return $self->http('POST', $path, body => $body, %arg) }

# One request on a connection of its own: {status, headers, body, reason}. A body is JSON
# unless a header says what else it is.
sub http {
    my ($self, $method, $path, %arg) = @_;
    my $c = $self->connect(%arg);

    $c->request($method, $path, %arg);
    return $c->response(%arg, method => $method);
}

# An AIQ::HTTP connection, for keepalive, pipelines, streams and rudeness.
sub connect {
    my ($self, %arg) = @_;

    return AIQ::HTTP->new($self->port($arg{port} // 0), $arg{seconds});
}

sub json {
    my ($self, $reply) = @_;

    return eval { JSON::PP::decode_json(ref $reply ? $reply->{body} : $reply) };
}

sub chat {
    my ($self, $model, $text, %more) = @_;

    return JSON::PP->new->canonical->encode({ model => $model,
        messages => [ { role => 'user', content => $text } ], %more });
}

# The demo model behind /v1/, loaded.
sub serve_demo {
    my ($self) = @_;

    $self->conf("
        aiq_provider local { dialect local; model demo $ROOT/demo/demo.gguf; }
        aiq_model demo { target local; }
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location /v1/ { aiq_pass gateway; }
            location /health { aiq_health; }
        }");
    $self->start;
    $self->wait_for(sub { $self->get('/health')->{status} == 200 }, 20, 'the model is loaded');
}

# ---- observing ----

# A metric's value, with its labels or, where it has one sample, without; undef: it has none.
sub metric {
    my ($self, $name) = @_;

    return $self->get('/metrics')->{body} =~ /^\Q$name\E(?:\{[^}]*\})? (\S+)$/m ? $1 : undef;
}

# Until the calls of models that have ended are in the store.
sub wait_for_usage {
    my ($self) = @_;

    $self->wait_for(sub { ($self->metric('aiq_usage_pending') // 1) == 0 }, 20, 'all is stored');
}

sub error_log  { return $_[0]->read_file('logs/error.log') }
sub engine_log { return $_[0]->read_file('logs/engine.log') }

# Lines of the engine's log as objects.
sub engine_lines {
    my ($self) = @_;

    return grep { ref eq 'HASH' } map { eval { JSON::PP::decode_json($_) } } split /\n/, $self->engine_log;
}

# Allows what a log would otherwise fail the test for.
sub expect_in_log {
    my ($self, $pattern) = @_;

    push @{ $self->{expected} }, $pattern;
}

# Waits for a condition; dies when it does not come. Returns its value. The time is
# that of a quiet machine: nothing fails for being slow.
sub wait_for {
    my ($self, $condition, $seconds, $what) = @_;
    my $end = time() + ($seconds // 10) * ($ENV{AIQ_VALGRIND} ? 10 : 3);

    for (;;) {
        my $value = $condition->();
        return $value if $value;
        die 'waited in vain: ' . ($what // 'for a condition') . "\n" if time() > $end;
        select(undef, undef, undef, 0.01);
    }
}

# Bytes of memory of its own: without the rings, whose pages come with their first use.
sub private_memory {
    my ($self, $pid) = @_;

    return $self->read_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 * 1024 : 0;
}

sub rss {    # bytes
    my ($self, $pid) = @_;

    return $self->read_file("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m ? $1 * 1024 : 0;
}

sub descriptors {
    my ($self, $pid) = @_;
    my @fds = glob("/proc/$pid/fd/*");

    return scalar @fds;
}

sub inode {
    my @st = stat($_[0]);

    return @st ? "$st[0]:$st[1]" : '';
}

sub tcp_connects {
    return defined IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $_[0], Proto => 'tcp');
}

# ---- the end ----

sub stop_all {
    my ($self) = @_;

    $self->stop($_, $_ eq 'nginx' ? 'QUIT' : 'TERM') for
        sort { ($b eq 'nginx') <=> ($a eq 'nginx') } keys %{ $self->{children} };
}

sub complaints {
    my ($self) = @_;
    my @found;

    for my $log (glob("$self->{dir}/logs/*")) {
        for my $line (split /\n/, $self->read_file($log)) {
            next unless $line =~ /\[(?:alert|emerg)\]|Sanitizer|runtime error:|^==\d+==/;
            next if grep { $line =~ $_ } @{ $self->{expected} };
            push @found, "$log: $line";
        }
    }
    return @found;
}

sub _destroy {
    my ($self) = @_;

    eval { $self->stop_all };
    warn $@ if $@;
    my @found = $self->complaints;
    ok(!@found, 'the logs are clean') or diag(join("\n", @found[0 .. ($#found < 20 ? $#found : 20)]));
    $self->{postgres}->stop if $self->{postgres};
    diag("kept $self->{dir}") if $ENV{AIQ_KEEP};
    remove_tree($self->{dir}) unless $ENV{AIQ_KEEP};
}

# Call before done_testing().
sub finish {
    my ($self) = @_;

    $self->_destroy;
    @running = grep { $_ != $self } @running;
}

END {
    my $status = $?;

    for my $self (@running) {
        next if $self->{owner} != $$;
        kill('KILL', -$_, $_) for values %{ $self->{children} };
        waitpid($_, 0) for values %{ $self->{children} };
        remove_tree($self->{dir}) unless $ENV{AIQ_KEEP};
    }
    $? = $status;
}

$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);
$SIG{PIPE} = 'IGNORE';

1;
