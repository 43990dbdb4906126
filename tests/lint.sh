#!/bin/bash
# Style and shape of the tree; prints every breach, exits 1 if there is one.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
shopt -s lastpipe # so that say() can set bad
say() { # say TITLE < lines
	local lines
	lines=$(cat)
	[ -z "$lines" ] && return
	printf '%s\n%s\n' "lint: $1" "$lines"
	bad=1
}
mapfile -t code < <(git ls-files '*.c' '*.h')
mapfile -t own < <(git ls-files 'vmm/*.[ch]' 'devices/*.[ch]' 'ft/*.[ch]' 'net/*.[ch]' 'postcopy/*.[ch]')
mapfile -t python < <(git ls-files '*.py' && git grep -lE '^#!.*python3' -- ':!*.py')
mapfile -t shell < <(git ls-files '*.sh' .ci/run tests/testbed/testbed '*/init' 'guests/linux/**' ':!*.md' ':!*.c' ':!*.conf')

wc -l "${code[@]}" | awk '$2 != "total" && $1 > 800 { print $2 ": " $1 " lines, 800 at most" }' | say "long files"
clang-format --dry-run "${code[@]}" 2>&1 | grep 'warning:' | cut -d: -f1 | sort | uniq -c | say "not as clang-format would have it (make format)"
# The process ends in main only; nothing that comes from outside may end it.
grep -nE '\b(exit|_exit|abort|assert)\(' "${own[@]}" | grep -vE '^vmm/(cli/main|base/log)\.c:|static_assert|_Static_assert' | say "exit, abort or assert"
tests/shape.py 2>&1 | say "shape (tests/shape.py)"
grep -nE '\b(TODO|FIXME|XXX)\b' "${code[@]}" "${shell[@]}" | grep -v '^tests/lint.sh' | say "unfinished marks"
git grep -nE '^(<<<<<<<|>>>>>>>) ' | say "marks of a merge"
grep -nE '\b(sleep|usleep|nanosleep)\(' "${own[@]}" | say "sleep in the program"
cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=0 -I. \
	--suppress=missingIncludeSystem --suppress=unknownMacro --suppress=nullPointer:tests/* -j2 \
	"${own[@]}" 2>&1 | grep -E '(error|warning):' | say "cppcheck"
pyflakes3 "${python[@]}" | say "pyflakes"
shellcheck -x -S warning "${shell[@]}" | say "shellcheck"
exit $bad
