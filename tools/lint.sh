#!/bin/sh
# clang-format and clang-tidy for engine, kernels and tests, cppcheck for those and
# the module. nginx's style is beyond clang-format, its macros beyond clang-tidy.

set -u

cd "$(dirname "$0")/.."
failed=0
files=$(git ls-files 'engine/*.c' 'engine/*.h' 'kernels/*.c' 'kernels/*.h' 't/*.c' 't/*.h')
sources=$(echo "$files" | grep '\.c$')

cuda=$(git ls-files 'kernels/*.cu' 't/*.cc' 't/*.cu')

echo "$files" "$cuda" | xargs clang-format --dry-run -Werror || failed=1
echo "$sources" | xargs -P 2 -n 4 clang-tidy -p . --quiet 2>/dev/null || failed=1
cppcheck --quiet -j 2 --error-exitcode=1 --inline-suppr --std=c11 --enable=warning,portability \
    -Iengine -Iengine/include -I. \
    $(echo "$sources" | grep -v '^t/') ngx_aiq_module || failed=1

[ $failed = 0 ] && echo 'lint: clean'
exit $failed
