#!/bin/sh
# A PostgreSQL cluster for a test, in a folder of its own, on a Unix socket there and
# nowhere else:
#     postgres.sh start DIR     makes it where it is not there, waits until it answers
#     postgres.sh kill DIR      kill -9, all of its processes
#     postgres.sh pause DIR     they say nothing, and keep their connections
#     postgres.sh resume DIR
#     postgres.sh stop DIR
# Exit status 77: there is no PostgreSQL. Durable as delivered: fsync stays on. Its
# server does not run as root, so root becomes nobody.

set -eu

command=$1
dir=$2/pg
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$bin" ] && [ -x "$bin/initdb" ] || exit 77

as=
if [ "$(id -u)" = 0 ]; then
    as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
fi

make_cluster() {
    mkdir -p "$dir"
    [ -z "$as" ] || chown nobody:nogroup "$dir"
    # who may enter the folder is who may connect
    chmod 711 "$dir"
    $as "$bin/initdb" -D "$dir/data" -U aiq -A trust -E UTF8 --locale=C --no-instructions >"$dir/log" 2>&1 || {
        cat "$dir/log" >&2
        exit 1
    }
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
unix_socket_permissions = 0777
max_connections = 50
shared_buffers = 16MB
CONF
}

# The first line of its file names the server; the others are its children.
processes() {
    pid=$(head -1 "$dir/data/postmaster.pid")
    echo "$pid" $(grep -lE "^PPid:[[:space:]]+$pid$" /proc/[0-9]*/status 2>/dev/null | tr -dc '0-9\n')
}

cd /
case $command in
start)
    [ -d "$dir/data" ] || make_cluster
    $as "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/log" -w -t 60 start >/dev/null 2>&1 || {
        cat "$dir/data/log" >&2
        exit 1
    }
    ;;
kill)
    all=$(processes)
    kill -9 $all 2>/dev/null || true
    for pid in $all; do
        tries=1000
        while kill -0 "$pid" 2>/dev/null && [ $tries -gt 0 ]; do
            tries=$((tries - 1))
            sleep 0.01
        done
    done
    ;;
pause)
    kill -STOP $(processes)
    ;;
resume)
    kill -CONT $(processes)
    ;;
stop)
    if [ -f "$dir/data/postmaster.pid" ]; then
        $as "$bin/pg_ctl" -D "$dir/data" -w -m immediate stop >/dev/null
    fi
    ;;
esac
