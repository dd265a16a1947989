#!/bin/sh
# compile_commands.json for editors and clang-tidy:
#     compile_commands.sh COMPILER_AND_FLAGS FILES COMPILER_AND_FLAGS FILES ...

set -eu

escaped() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

separator='['
while [ $# -gt 0 ]; do
    for file in $2; do
        printf '%s\n{"directory": "%s", "file": "%s", "command": "%s -c %s"}' \
            "$separator" "$(escaped "$PWD")" "$file" "$(escaped "$1")" "$file"
        separator=','
    done
    shift 2
done
printf '\n]\n'
