#!/bin/sh
# Runs the link's fuzz targets for so many seconds and each other one for a third of
# them, two at a time, then shows that the link's find the bug that -DAIQ_PLANT_BUG
# plants:
#     fuzz.sh SECONDS [SEED]
# Without a seed each run goes its own way; CI gives one, so that what it finds comes from
# the change that it looks at. What the targets learn stays in build-fuzz/corpus; crashes
# are left in build-fuzz.

set -u

export seconds="$1" seed="${2-0}"
cd "$(dirname "$0")/.."

# one TARGET: quiet unless it finds something
one() {
    name=${1#fuzz_}
    mkdir -p "build-fuzz/corpus/$name"
    case $name in
    link_*) ;;
    *) seconds=$((seconds / 3 + 1)) ;;
    esac
    if "build-fuzz/$1" -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="build-fuzz/$name-" -print_final_stats=1 \
        "build-fuzz/corpus/$name" "t/fuzz/corpus/$name" >"build-fuzz/$name.log" 2>&1; then
        echo "ok     $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "build-fuzz/$name.log") runs"
    else
        echo "FAILED $1, the end of build-fuzz/$name.log:"
        tail -30 "build-fuzz/$name.log"
        return 1
    fi
}

# planted TARGET: it must find something, and that ends it; a slow machine gets its time
planted() {
    name=${1#fuzz_}
    [ "$seconds" -gt 60 ] || seconds=60
    mkdir -p build-planted/corpus
    if "build-planted/$1" -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="build-planted/$name-" build-planted/corpus "t/fuzz/corpus/$name" \
        >"build-planted/$name.log" 2>&1; then
        echo "FAILED $1 does not find the planted bug"
        return 1
    fi
    grep -q 'ERROR: .*Sanitizer' "build-planted/$name.log" ||
        { echo "FAILED $1, planted, ends without a report: build-planted/$name.log"; return 1; }
    echo "ok     $1 finds the planted bug"
}

case ${3-} in
one | planted) "$3" "$4" ;;
*)
    {
        for program in build-fuzz/fuzz_*; do echo "one ${program##*/}"; done
        for program in build-planted/fuzz_link_*; do echo "planted ${program##*/}"; done
    } | xargs -P 2 -L 1 tools/fuzz.sh "$seconds" "$seed"
    ;;
esac
