#!/bin/sh
# Installs what is missing of the lists in deps/, and says what:
#     deps.sh build [test] [lint]
# Quick where nothing is missing: apt is not asked then.

set -eu

cd "$(dirname "$0")/.."
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii *//p')
missing=

for list in "$@"; do
    while read -r package command; do
        case $package in '' | '#'*) continue ;; esac
        [ -n "$command" ] && PATH=$PATH:/usr/sbin command -v "$command" >/dev/null && continue
        echo "$installed" | grep -qxF "$package" || missing="$missing $package"
    done <"deps/$list.txt"
done
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
    sudo=
elif sudo -n true 2>/dev/null; then
    sudo='sudo -n'
else
    echo "Packages are missing, and installing them needs root:" >&2
    echo "    apt-get update && $install" >&2
    exit 1
fi

echo "installing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
retry='-o Acquire::Retries=3'
if ! { $sudo apt-get -qq $retry update && $sudo env DEBIAN_FRONTEND=noninteractive $install $retry; } >"$log" 2>&1 </dev/null; then
    tail -20 "$log" >&2
    echo "could not install:$missing" >&2
    exit 1
fi
