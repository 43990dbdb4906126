#!/bin/bash
# The network guests under QEMU (an independent machine), in a network name space of their own:
# kv, echo and stream clients at full speed, SIGKILL of the machine, recovery from the journal.
# Usage: tests/e2e/guests_net_qemu.sh      ACCEL=tcg|kvm (tcg)  LIMIT=SECONDS to boot (120)
set -u
cd "$(dirname "$0")/../.." || exit 1

accel=${ACCEL:-tcg}
limit=${LIMIT:-120}
tools=build/normal/tests/lin
ns=gn-$$
tmp=$(mktemp -d) || exit 1
qemu=
failed=0

skip()
{
	echo "SKIP: $1"
	rm -rf "$tmp"
	exit 0
}

command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed"
if [ "$(id -u)" != 0 ] || ! [ -w /dev/net/tun ]; then
	skip "no right to make network name spaces"
fi
[ "$accel" != kvm ] || [ -w /dev/kvm ] || skip "/dev/kvm is not writable"
make -s build/guests/kv.elf build/guests/echo.elf $tools/kvclient $tools/kvcheck || exit 1

machine_kill()
{
	[ -z "$qemu" ] || { kill -9 "$qemu" && wait "$qemu"; } 2>/dev/null
	qemu=
}

cleanup()
{
	machine_kill
	ip netns del "$ns" 2>/dev/null
	rm -rf "$tmp"
}
trap cleanup EXIT

# machine_start GUEST CMDLINE [QEMU ARGUMENT...]: returns when the guest is ready
machine_start()
{
	local guest=$1 cmdline=$2 line
	shift 2
	rm -f "$tmp/serial"
	mkfifo "$tmp/serial"
	ip netns exec "$ns" qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-M microvm,x-option-roms=off,isa-serial=on,rtc=off,acpi=off \
		-global virtio-mmio.force-legacy=false -accel "$accel" -cpu qemu64 -m 64M \
		-kernel "build/guests/$guest.elf" -append "$cmdline" -serial stdio \
		-netdev tap,id=n0,ifname=tap0,script=no,downscript=no \
		-device virtio-net-device,netdev=n0,mac=52:54:00:00:00:02 "$@" \
		>"$tmp/serial" 2>"$tmp/err" </dev/null &
	qemu=$!
	exec {serial}<"$tmp/serial"
	said=
	while read -r -t "$limit" -u "$serial" line; do
		said+="${line%$'\r'}"$'\n'
		[[ $line != READY* ]] || return 0
	done
	echo "FAIL $guest: not ready; it said: $said$(cat "$tmp/err")"
	exit 1
}

check() # LABEL COMMAND...
{
	local label=$1
	shift
	if "$@" >"$tmp/out" 2>&1; then
		echo "ok   $label"
	else
		echo "FAIL $label: exit code $?"
		sed 's/^/    /' "$tmp/out" | tail -n 20
		failed=1
	fi
}

client()
{
	ip netns exec "$ns" "$tools/kvclient" --server 10.7.0.2 --connect-timeout 30000 "$@"
}

ip netns add "$ns" || exit 1
ip netns exec "$ns" sh -c 'ip link set lo up && ip tuntap add dev tap0 mode tap &&
	ip addr add 10.7.0.1/24 dev tap0 && ip link set tap0 up' || exit 1
truncate -s 4M "$tmp/disk"
disk=(-drive "id=d0,file=$tmp/disk,format=raw,if=none" -device "virtio-blk-device,drive=d0")
address="ip=10.7.0.2/24 gw=10.7.0.1"

machine_start kv "$address dirty=20" "${disk[@]}"
check "kv: all clients at once" client --udp 4 --tcp 4 --echo 2 --echo-rate 0 --stream 2 \
	--stream-rate 0 --keys 4 --ops 4000 --timeout 20000 --history "$tmp/history"
machine_kill
check "kv: journal after SIGKILL" "$tools/kvcheck" --image "$tmp/disk" "$tmp/history"
records=$(grep -o '[0-9]* journal records' "$tmp/out")
machine_start kv "$address" "${disk[@]}"
check "kv: recovers ${records}" grep -qx "kv recovered ${records%% *} records" <<<"$said"
machine_kill
machine_start kv "$address"
check "kv: without a disk" grep -qx "kv volatile" <<<"$said"
machine_kill
machine_start echo "$address"
check "echo: bytes and streams" client --udp 0 --tcp 0 --echo 4 --echo-rate 0 --stream 4 \
	--stream-rate 0 --seconds 1
exit $failed
