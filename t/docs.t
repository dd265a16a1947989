# Docs and code say the same: every directive, variable, endpoint, metric, error
# code and flag of the code is in docs/, and what docs/ names exists.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use AIQ::Test;

my $root  = $AIQ::Test::ROOT;
my $build = $ENV{AIQ_BUILD_DIR} // 'build';
$build = "$root/$build" unless $build =~ m{^/};

sub text {
    return join("\n", map {
        open(my $in, '<', $_) or die "$_: $!";
        local $/;
        <$in>;
    } @_);
}

sub files { return map { glob("$root/$_") } @_ }
sub set { my %s = map { $_ => 1 } grep { defined } @_; return [ sort keys %s ] }
sub doc { return text("$root/docs/$_[0].md") }

# What the code has against what the docs have.
sub same {
    my ($what, $code, $docs) = @_;
    my %code = map { $_ => 1 } @$code;
    my %docs = map { $_ => 1 } @$docs;

    cmp_ok(scalar @$code, '>', 0, "$what: there are some");
    is_deeply([ grep { !$docs{$_} } @$code ], [], "$what: all of the code's are documented");
    is_deeply([ grep { !$code{$_} } @$docs ], [], "$what: all that are documented exist");
}

my $module = text(files('ngx_aiq_module/*.c'));
my $engine = text(files('engine/*.c', 'engine/*/*.c', 'engine/*/*/*.c'));

# A directive is in a table of ngx_command_t, with its context in the next line; a
# variable in a table of ngx_http_variable_t, with NULL there.
my (@directives, @variables);
while ($module =~ /ngx_string\("(aiq_[a-z0-9_]+)"\),\s*(\S+)/g) {
    my ($name, $next) = ($1, $2);
    push @{ $next =~ /^NGX_/ ? \@directives : \@variables }, $name;
}
same('directives', set(@directives), set(doc('directives') =~ /^### (aiq_\w+)/mg));
same('variables', set(@variables), set(doc('directives') =~ /`\$(aiq_\w+)`/g));

my @routes;
while ($engine =~ m/\{AIQ_METHOD_([A-Z]+),\s*"(\/[^"]*)"/g) {
    my ($method, $path) = ($1, $2);
    $path =~ s/\.\.\.\}/}/;
    push @routes, "$method $path";
}
same('endpoints', set(@routes), set(grep { !m{ /(?:health|metrics)} } doc('api') =~ /`([A-Z]+ \/[^`]*)`/g));

my @metrics = ($engine =~ /metrics_family\([^;]*?"((?:aiq|llm|gen_ai)_[a-z_]+)"/gs, $module =~ /# TYPE ((?:aiq|llm)_[a-z_]+)/g);
same('metrics', set(@metrics), set(doc('metrics') =~ /^\| `(\w+)` \|/mg));

# Codes that a caller can see: of services, providers, the link and the module. What
# fails before the engine serves is for its operator.
my $serving = text(grep { !m{/(?:server|handshake)\.c$} }
    files('engine/services/*.c', 'engine/services/*/*.c', 'engine/providers/*.c', 'engine/link/*.c', 'engine/ledger/*.c', 'engine/streams/*.c'));
my @codes = ($serving =~ /\b(?:aiq_fail(?:_param)?|(?:request_)?fail)\([^;"]*"([a-z_]+)"/g,
    $module =~ /(?:NGX_HTTP_[A-Z_]+|\d{3}),\s*ngx_string\("([a-z_]+)"\)/g);
push @codes, text(files('engine/store/*.c')) =~ /"(store_[a-z]+)"/g;
my %start = map { $_ => 1 } qw(curl thread random store_invalid store_newer);    # the engine then does not start
same('error codes', set(grep { !$start{$_} } @codes), set(map { /`([a-z_]+)`/g } doc('api') =~ /^\| \d[\d, ]* \|([^|]*)\|/mg));

sub flags { return set($_[0] =~ /(?<![\w-])(--[a-z][a-z-]*|-[a-z])(?![\w-])/g) }

same('engine flags', flags(scalar `$build/aiq-engine --help`), set(doc('engine') =~ /`(--[a-z-]+)(?: [A-Za-z:]+)?`/g));

my @commands = `$build/aiq --help` =~ /^  (\w+) /mg;
same('commands', set(@commands), set(doc('cli') =~ /^## aiq (\w+)/mg));
for my $command (@commands) {
    my ($section) = doc('cli') =~ /^## aiq $command$(.*?)(?=^## |\z)/ms;
    same("flags of aiq $command", flags(`$build/aiq $command --help` =~ s/^Example.*//msr), flags($section // ''));
}

done_testing();
