#!/bin/sh
# nginx's source as Debian has it, patches applied, into build/source/SUITE/nginx:
#     nginx-source.sh bookworm|trixie
#
# The machine's own package sources are read, not changed: their deb-src form and
# the lists of it stay below build/source. Needs no root.

set -eu

suite=$1
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/build/source/$suite

[ -f "$dir/nginx/src/core/nginx.h" ] && exit 0
rm -rf "$dir"
mkdir -p "$dir/lists/partial" "$dir/archives/partial"

# The archive that this machine gets its own release from.
archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 2>/dev/null |
    awk '$2 !~ /-/ && $3 == "main" { print $1; exit }')
[ -n "$archive" ] || { echo "nginx-source.sh: no Debian archive in apt's sources" >&2; exit 1; }
echo "deb-src $archive $suite main" >"$dir/sources.list"

apt() {
    apt-get -qq -o Acquire::Retries=3 -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache::Archives="$dir/archives" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "$@"
}

cd "$dir"
apt update
apt source nginx
mv nginx-*/ nginx
