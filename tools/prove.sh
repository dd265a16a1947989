#!/bin/sh
# prove, for the tests of t/ and for the programs of t/unit, which print TAP, too. It ends
# with what the failed ones said (AIQ::Formatter):
#     prove.sh [OPTION OF prove]... FILE...
# TEST_EXEC is what a program of t/unit runs in: valgrind.

set -u

# run TEST
if [ "${1-}" = run ]; then
    exec 2>"$AIQ_SAID/$(echo "$2" | tr / _)"
    case $2 in
    *.t) exec perl "$2" ;;
    *) CMOCKA_MESSAGE_OUTPUT=TAP exec ${TEST_EXEC-} "$2" ;;
    esac
fi

AIQ_SAID=$(mktemp -d)
export AIQ_SAID
trap 'rm -rf "$AIQ_SAID"' EXIT
# --merge, though there is no stderr to merge: without it prove reads both, and waits for the
# next line of a test's stdout, whatever others have to say, where its stderr was ready.
perl -It/lib -S prove --merge --formatter AIQ::Formatter --exec 'tools/prove.sh run' "$@"
