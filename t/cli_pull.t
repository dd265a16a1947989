#!/usr/bin/perl

# aiq models pull against servers that cut, lie, ignore ranges, send too much: only a file whose
# sum is right gets its name.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Digest::SHA qw(sha256_hex);
use File::Temp ();
use IO::Socket::INET;
use Test::More;

use AIQ::Command;

my $dir = File::Temp->newdir;
my $file = join '', map { pack('N', $_ * 2654435761 % 4294967296) } 1 .. 50_000;
my $sum = sha256_hex($file);
my $half = length($file) / 2;
my $server = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1') or die $!;
my $url = 'http://127.0.0.1:' . $server->sockport;

# One request. What it asked for goes to the log; "calls" counts those for this path.
sub answer {
    my ($client, $calls) = @_;
    my ($line, %header) = (scalar <$client> // return);

    while (my $more = <$client>) {
        last if $more !~ /^([^:]+): (.*?)\r$/;
        $header{ lc $1 } = $2;
    }
    my ($path) = $line =~ m{^GET (/\S*)};
    my ($case) = $path =~ m{^/(\w+)/};
    my $from = ($header{range} // '') =~ /^bytes=(\d+)-$/ ? $1 : 0;
    my $call = ++$calls->{$path};
    my ($head, $body) = ("HTTP/1.1 200 OK\r\nETag: \"one\"\r\n", $file);

    open(my $log, '>>', "$dir/log") or die $!;
    print $log "$path $call $from ", $header{'if-range'} // '-', "\n";
    close $log;

    my %change = (
        changed => sub { $head =~ s/one/two/ if $call > 1 },
        weak    => sub { $head =~ s/"one"/W\/"one"/ },
        lies    => sub { $body = scalar reverse $file },
        gone    => sub { $head = "HTTP/1.1 404 Not Found\r\n"; $body = 'no' },
        leads   => sub { $head = "HTTP/1.1 302 Found\r\nLocation: $url/plain/m.gguf\r\n"; $body = '' },
        circle  => sub { $head = "HTTP/1.1 302 Found\r\nLocation: $url/circle/m.gguf\r\n"; $body = '' },
        away    => sub { $head = "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n"; $body = '' },
        vast    => sub { $head .= "Content-Length: 4000000000000\r\n" },
        absurd  => sub { $head .= "Content-Length: 99999999999999999999\r\n" },
    );
    $change{$case}->() if $change{$case};
    my $ranges = $case =~ /^(?:cut|shift|more|always)$/ || $case eq 'changed' && ($header{'if-range'} // '') eq '"two"';
    if ($from && $ranges) {
        my ($at, $all) = ($case eq 'shift' ? $from - 1 : $from, length $file);

        $head =~ s/200 OK/206 Partial Content/;
        $head .= "Content-Range: bytes $at-" . ($all - 1) . "/$all\r\n";
        $body = substr($file, $at);
        $body .= 'and more' if $case eq 'more';
    }
    my $length = $case =~ /^(?:vast|absurd|more)$/ ? '' : 'Content-Length: ' . length($body) . "\r\n";
    my $cut = $case eq 'always' ? 0 : $case =~ /^(?:cut|shift|more|ignores|changed|weak)$/ && $call == 1 ? $half : undef;
    $length = 'Content-Length: ' . length($body) . "\r\n" if $case eq 'more' && !$from;
    print $client $head, $length, "Connection: close\r\n\r\n", defined $cut ? substr($body, 0, $cut) : $body;
    return;
}

my $pid = fork // die $!;
if ($pid == 0) {
    my %calls;
    local $SIG{PIPE} = 'IGNORE';
    while (my $client = $server->accept) {
        answer($client, \%calls);
        close $client;
    }
    exit 0;
}

sub pull {
    my ($case, %arg) = @_;
    my $to = "$dir/$case";

    mkdir $to;
    return run([aiq(), qw(models pull), $arg{url} // "$url/$case/m.gguf", '--sha256', $arg{sum} // $sum, '--to', $to]);
}

sub content {
    my ($path) = @_;
    open(my $in, '<:raw', $path) or return;
    local $/;
    return scalar <$in>;
}

sub asked {
    my ($case) = @_;
    return [ map { m{^/$case/\S+ \d+ (.*)} ? $1 : () } split /\n/, content("$dir/log") ];
}

sub left { my @left = map { s{.*/}{}r } glob("$dir/$_[0]/*"); return \@left }

sub comes {
    my ($case, $asked, $name) = @_;
    my $r = pull($case);

    is("$r->{status} $r->{out}", "0 $dir/$case/m.gguf\n", "$name: its path") or diag($r->{err});
    ok((content("$dir/$case/m.gguf") // '') eq $file, "$name: the file");
    is_deeply(left($case), ['m.gguf'], "$name: nothing else");
    is_deeply(asked($case), $asked, "$name: what was asked") if $asked;
    return;
}

sub fails {
    my ($case, $why, $left, $name) = @_;
    my $r = pull($case);

    is($r->{status}, 1, "$name: it fails");
    is($r->{err}, "aiq models pull: $why\n", "$name: why");
    is_deeply(left($case), $left, "$name: what is left");
    return;
}

my @part = map { 'm.gguf.' . substr($sum, 0, 16) . ".$_" } qw(etag part);

comes('plain', ['0 -'], 'a file');
comes('plain', ['0 -'], 'it is there already');
comes('leads', undef, 'a redirect');
comes('cut', [ '0 -', qq($half "one") ], 'a connection that breaks');
comes('ignores', [ '0 -', qq($half "one") ], 'a server that ignores ranges');
comes('changed', [ '0 -', qq($half "one") ], 'a file that has changed meanwhile');
comes('weak', [ '0 -', '0 -' ], 'a server that does not promise the same bytes');

fails('shift', 'the server sends another range than the one asked for', \@part, 'another range');
fails('more', 'the server sends more than it said', \@part, 'too much');
fails('lies', 'the SHA-256 of what came is ' . sha256_hex(scalar reverse $file) . '; it was deleted', [], 'another file');
fails('gone', 'the server answers 404', ["$part[1]"], 'no such file');
fails('circle', 'Maximum (5) redirects followed', ["$part[1]"], 'redirects without end');
fails('away', 'Protocol "file" not supported or disabled in libcurl', ["$part[1]"], 'a redirect to a file');
like(pull('vast')->{err}, qr/: 4000000.0 MB are still to come, and [\d.]+ MB are free$/, 'more than the disk has room for');
fails('absurd', 'the server says that the file has 99999999999999999999 bytes', ["$part[1]"], 'more than there is');

# what an earlier call has left
mkdir "$dir/resumed";
my $r = run([aiq(), qw(models pull), "$url/always/m.gguf", '--sha256', $sum, '--to', "$dir/resumed"]);
is($r->{status}, 1, 'a server that sends nothing, again and again');
for (\@part) {
    open(my $out, '>:raw', "$dir/resumed/$part[1]") or die $!;
    print $out substr($file, 0, 1000);
    open(my $etag, '>', "$dir/resumed/$part[0]") or die $!;
    print $etag '"one"';
}
$r = run([aiq(), qw(models pull), "$url/cut/m.gguf", '--sha256', uc $sum, '--to', "$dir/resumed"]);
is($r->{status}, 0, 'a sum in capitals, and another name for the part');
$r = run([aiq(), qw(models pull), "$url/cut/m.gguf", '--sha256', 'a' x 64, '--to', "$dir/resumed"]);
is("$r->{status} $r->{err}", "1 aiq models pull: $dir/resumed/m.gguf is there, and is another file\n", 'a name that is taken');
unlink "$dir/resumed/m.gguf";
$r = run([aiq(), qw(models pull), "$url/cut/m.gguf", '--sha256', $sum, '--to', "$dir/resumed"]);
is($r->{status}, 0, 'a part of an earlier call');
is(asked('cut')->[-1], '1000 "one"', 'goes on where it was');
ok(content("$dir/resumed/m.gguf") eq $file, 'and is the file');

my @wrong = (
    [ "http://example.com/m.gguf", $sum, 'the URL is not https, nor http to this machine' ],
    [ "http://127.0.0.1.example.com/m.gguf", $sum, 'the URL is not https, nor http to this machine' ],
    [ "file:///m.gguf", $sum, 'the URL is not https, nor http to this machine' ],
    [ "$url/../.gguf", $sum, 'the URL does not end in the name of a .gguf file' ],
    [ "$url/a%2Fb.gguf", $sum, 'the URL does not end in the name of a .gguf file' ],
    [ "$url/m.bin?x=.gguf", $sum, 'the URL does not end in the name of a .gguf file' ],
    [ "$url/m.gguf", 'abc', '--sha256 takes 64 hexadecimal digits' ],
);
for my $case (@wrong) {
    $r = run([aiq(), qw(models pull), $case->[0], '--sha256', $case->[1], '--to', "$dir"]);
    is("$r->{status} $r->{err}", "2 aiq models pull: $case->[2] (see --help)\n", "$case->[0]: refused");
}
$r = run([aiq(), qw(models pull --sha256), $sum]);
is($r->{err}, "aiq models pull: URL is missing (see --help)\n", 'no URL');
$r = run([aiq(), qw(models pull), "$url/m.gguf"]);
is($r->{err}, "aiq models pull: --sha256 is missing (see --help)\n", 'no sum');

kill 'TERM', $pid;
waitpid($pid, 0);
done_testing();
