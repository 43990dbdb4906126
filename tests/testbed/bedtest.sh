#!/bin/bash
# Does the test bed keep its promises? TAP; each case is one bed, 5 to 15 s. usage: bedtest.sh [CASE]...
set -u
cd "$(dirname "$0")/../.." || exit 1
bed=tests/testbed/testbed
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0 number=0

run() { # run OPTION... -- COMMAND: sets $code; output in $dir/out and $dir/err
	code=0
	"$bed" -t 120 "$@" > "$dir/out" 2> "$dir/err" || code=$?
}

status_and_output() {
	run -e WORD='two words' -C / -- sh -c 'echo "$WORD in $PWD"; echo other >&2; exit 7'
	[ $code = 7 ] && [ "$(cat "$dir/out")" = "two words in /" ] && [ "$(cat "$dir/err")" = other ]
}

kvm_and_clock() {
	run -- sh -c 'test -c /dev/kvm && cat /sys/devices/system/clocksource/clocksource0/current_clocksource'
	[ $code = 0 ] && [ "$(cat "$dir/out")" = tsc ]
}

files() { # what is shared stays, the rest is dropped
	mkdir -p "$dir/shared"
	run -w "$dir/shared" -- sh -c "echo kept > $dir/shared/a; echo lost > $dir/b; cat $dir/b"
	[ $code = 0 ] && [ "$(cat "$dir/out")" = lost ] && [ "$(cat "$dir/shared/a")" = kept ] && [ ! -e "$dir/b" ]
}

scratch_disk() {
	run --disk 64M -- dd if=/dev/zero of=/scratch/file bs=4k count=10 oflag=direct
	[ $code = 0 ]
}

too_late() {
	"$bed" -t 10 -- sleep 100 > "$dir/out" 2> "$dir/err"
	[ $? = 124 ]
}

panic() {
	run -- sh -c 'echo c > /proc/sysrq-trigger'
	[ $code = 125 ] && grep -q 'stopped before the command ended' "$dir/err"
}

mistakes() {
	local words
	for words in "--nonsense" "--nonsense x" "-t soon -- true" "--rw /no/where -- true" "--net somewhere -- true" "-t"; do
		# shellcheck disable=SC2086 # words
		"$bed" $words > "$dir/out" 2> "$dir/err"
		[ $? = 125 ] && [ -s "$dir/err" ] || { echo "# '$words'" && return 1; }
	done
}

cable() { # two beds; the one that calls is started first
	local port=$((20000 + RANDOM % 10000)) side one='' two=''
	for side in 1 2; do
		"$bed" -t 120 --net "$([ $side = 1 ] && echo "connect:127.0.0.1:$port" || echo "listen:$port")" -- bash -c "
			ip addr add 10.9.0.$side/24 dev bed0
			until busybox ping -c 1 -W 1 10.9.0.$((3 - side)); do :; done
			read -r -t 5 < <(sleep 3) || :" > "$dir/out$side" 2>&1 &
		[ $side = 1 ] && one=$! || two=$!
	done
	wait "$one" && wait "$two"
}

orphan() { # its caller is killed; QEMU goes too
	local caller pid end=$((SECONDS + 20))
	bash -c "$bed -t 120 --qemu -name --qemu orphan$$ -- sleep 100; :" > /dev/null 2>&1 &
	caller=$!
	until pid=$(pgrep -f "[q]emu.*orphan$$"); do [ $SECONDS -lt $end ] || return 1; done
	kill -KILL $caller
	wait $caller 2> /dev/null
	while pgrep -r R,S,D -f "[q]emu.*orphan$$" > /dev/null; do [ $SECONDS -lt $((end + 20)) ] || return 1; done
	[ -n "$pid" ]
}

[ $# -gt 0 ] || set -- status_and_output kvm_and_clock files scratch_disk too_late panic mistakes cable orphan
for one; do
	number=$((number + 1))
	if "$one"; then
		echo "ok $number testbed $one"
	else
		echo "not ok $number testbed $one"
		failed=1
		tail -n 20 "$dir"/{out,err} | sed 's/^/# /'
	fi
done
exit $failed
