#!/bin/bash
# Debian packages: `deps.sh build|test|lint|fuzz|bed|linux` installs what is missing when root, else prints the one line to run.
set -eu
build="gcc make libc6-dev linux-libc-dev liburing-dev libfdt-dev libnl-3-dev libjansson-dev liblz4-dev libxxhash-dev libseccomp-dev libcurl4-openssl-dev libssl-dev systemtap-sdt-dev"
declare -A sets=(
	[build]="$build"
	[test]="$build libcmocka-dev acpica-tools debhelper lintian scdoc iproute2 python3 procps util-linux passt spin etcd-server curl openssl systemd"
	[lint]="clang-format cppcheck shellcheck pyflakes3"
	[fuzz]="$build clang libclang-rt-dev"
	[bed]="qemu-system-x86 busybox-static cpio xz-utils lz4 zstd e2fsprogs iproute2 python3 util-linux"
	[linux]="$build qemu-system-x86 busybox-static cpio xz-utils lz4 zstd e2fsprogs iproute2 python3 util-linux"
)
want=${sets[${1:-build}]:?"deps.sh: build, test, lint, fuzz, bed or linux"}

command -v dpkg-query > /dev/null || exit 0 # another system: the compiler will say what is missing
missing=()
# shellcheck disable=SC2086 # words
have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $want 2> /dev/null || true)
for p in $want; do
	grep -qxF "$p installed" <<< "$have" || missing+=("$p")
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "missing packages; as root: apt-get install -y ${missing[*]}" >&2
	exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null 2>&1 ||
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null; }
