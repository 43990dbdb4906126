#!/bin/bash
# Boots every test guest under QEMU (an independent machine) and checks what it says.
# Usage: tests/e2e/guests_qemu.sh [GUEST...]      ACCEL=tcg|kvm (tcg)  LIMIT=SECONDS a guest (120)
set -u
cd "$(dirname "$0")/../.." || exit 1

accel=${ACCEL:-tcg}
limit=${LIMIT:-120}
if ! command -v qemu-system-x86_64 >/dev/null; then
	echo "SKIP: qemu-system-x86_64 is not installed"
	exit 0
fi
if [ "$accel" = kvm ] && ! [ -w /dev/kvm ]; then
	echo "SKIP: /dev/kvm is not writable"
	exit 0
fi

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
failed=0

# boot NAME CPUS CMDLINE [QEMU ARGUMENT...]: output in $tmp/out, the guest's exit code in $code
boot()
{
	local elf=build/guests/$1.elf cpus=$2 cmdline=$3 rc
	shift 3
	[ -f "$elf" ] || make -s "$elf" || exit 1
	timeout "$limit" qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-M microvm,x-option-roms=off,isa-serial=on,rtc=off,acpi=off \
		-global virtio-mmio.force-legacy=false -accel "$accel" -cpu qemu64 -m 128M \
		-smp "$cpus" -kernel "$elf" -append "$cmdline cpus=$cpus" \
		-device isa-debug-exit,iobase=0xf4,iosize=1 "$@" >"$tmp/out" 2>"$tmp/err"
	rc=$?
	code=$((rc & 1 ? rc >> 1 : -rc)) # the device exits with code << 1 | 1
}

# expect LABEL CODE REGEX...: each must match a line of the output
expect()
{
	local label=$1 want=$2 bad='' re
	shift 2
	[ "$code" = "$want" ] || bad="exit code $code, not $want"
	for re in "$@"; do
		grep -Eq -- "$re" "$tmp/out" || bad="$bad; nothing matches '$re'"
	done
	if [ -z "$bad" ]; then
		echo "ok $label"
		return
	fi
	echo "FAIL $label: ${bad#; }"
	sed 's/^/    /' "$tmp/out" "$tmp/err" | tail -n 20
	failed=1
}

serial=(-serial stdio)
console=(-device virtio-serial-device -chardev "stdio,id=con" -device "virtconsole,chardev=con")

disk()
{
	rm -f "$tmp/disk"
	truncate -s 4M "$tmp/disk"
	drive=(-drive "if=none,id=d,format=raw,discard=unmap,file=$tmp/disk"
		-device "virtio-blk-device,drive=d")
}

test_hello()
{
	boot hello 1 "a=1" "${serial[@]}"
	expect "hello, serial port" 0 '^READY' '^hello from CPL3' '^memory 1[0-9]{5} KiB' '^cpus 1' \
		'^cmdline a=1 cpus=1'
	disk
	boot hello 2 "devices=1" "${console[@]}" "${drive[@]}" -device virtio-rng-device \
		-netdev user,id=n,restrict=on -device virtio-net-device,netdev=n,mac=52:54:00:01:02:03
	expect "hello, every device" 0 '^READY' '^cpus 2' '^disk 0: 8192 sectors flush' \
		'^net 0: 52:54:00:01:02:03' '^rng: [0-9a-f]{4}'
}

# The digest must be the one that the same C code computes on the host.
test_hash()
{
	local want
	printf '%s\n' '#include <stdio.h>' '#include "guests/hash_model.h"' \
		'static uint64_t w[64 * HASH_PAGE_WORDS];' \
		'int main(void) { printf("%#018lx\n", hash_run(w, 64, 40, 9)); }' >"$tmp/model.c"
	"${CC:-cc}" -O1 -I. -o "$tmp/model" "$tmp/model.c" || exit 1
	want=$("$tmp/model")
	boot hash 1 "pages=64 rounds=40 seed=9 every=20" "${serial[@]}"
	expect "hash" 0 '^vector ' '^READY' '^hash 20 0x' '^hash 40 0x' "^digest $want"
	boot hash 1 "pages=64 rounds=40 seed=9" "${serial[@]}" -cpu max
	expect "hash, vector registers that the guest has to turn on" 0 '^vector avx' "^digest $want"
}

test_writer()
{
	local args
	for args in "mode=hot tick=5" "mode=seq tick=5 work=0 words=500" \
		"mode=random tick=20 words=64 total=300" "tick=0"; do
		boot writer 1 "$args pages=64 seconds=2" "${console[@]}"
		expect "writer $args" 0 '^READY' '^speed [0-9]+' '^writer ok passes=[1-9]'
	done
	boot writer 1 "words=511" "${serial[@]}"
	expect "writer refuses words=511" 1 '^writer: words must be'
}

test_smp()
{
	local n
	for n in 1 2 4; do
		boot smp "$n" "seconds=2" "${console[@]}"
		expect "smp $n" 0 '^READY' '^smp [0-9]+ shared [1-9]' '^smp ok'
	done
}

test_blk()
{
	disk
	boot blk 1 "ops=800 region=1024 depth=4" "${console[@]}" "${drive[@]}"
	expect "blk" 0 '^READY' '^blk ok ops=800 reads=[1-9]'
	boot blk 1 "" "${console[@]}"
	expect "blk without a disk" 2 '^blk: no disk'
}

test_idle()
{
	boot idle 1 "hz=10 verbose=1 seconds=2" "${console[@]}"
	expect "idle" 0 '^READY' '^tick 1' '^tick 2'
}

[ $# -gt 0 ] || set -- hello hash writer smp blk idle
for guest in "$@"; do
	case $guest in
	hello) test_hello ;;
	hash) test_hash ;;
	writer) test_writer ;;
	smp) test_smp ;;
	blk) test_blk ;;
	idle) test_idle ;;
	*)
		echo "FAIL no test for guest '$guest'"
		failed=1
		;;
	esac
done
exit "$failed"
