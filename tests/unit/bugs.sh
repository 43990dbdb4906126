#!/bin/bash
# Builds with a planted bug, each made for the unit test that is to notice (make bugs): it does, and not by a crash.
cd "$(dirname "$0")/../.." || exit 1
bugs=(rollback overlay compare shared reads)
bad=0
for bug in "${bugs[@]}"; do
	said=$(timeout 60 build/bug-$bug/unit 2>&1)
	if [[ $? -lt 100 && $said =~ '[  FAILED  ] '([a-z_]+) ]]; then
		echo "ok planted bug $bug is found: ${BASH_REMATCH[1]}"
	else
		echo "not ok planted bug $bug: $(tail -1 <<< "$said"); is it built (make bugs)?"
		bad=1
	fi
done
exit $bad
