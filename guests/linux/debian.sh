# shellcheck shell=bash
# Debian packages as files: found and fetched by apt, unpacked by dpkg-deb, nothing is installed. To be sourced, with
# `set -euo pipefail`. What is fetched stays in $cache, so that everything can be made again without a network.
# Errors: a line on stderr and exit code 125.
cache=${FTVMM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ftvmm}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 125
}

need() { # need PROGRAM PACKAGE
	command -v "$1" > /dev/null || die "no program '$1' here; apt-get install $2, or configs/deps.sh linux"
}

# One filler at a time. The lock is the descriptor 9, which no child must keep: say 9>&- where one goes on.
cache_lock() {
	mkdir -p "$cache" || die "cannot make $cache; set FTVMM_CACHE"
	cache=$(realpath "$cache")
	exec 9> "$cache/lock"
	flock -w 900 9 || die "another process has held $cache/lock for 15 minutes"
}

cache_unlock() {
	exec 9>&-
}

# apt with lists of its own, which begin as a copy of the system's, and the belief that nothing is installed.
apt_own() { # apt_own get|cache ARGUMENT...
	local tool=apt-$1 dir=$cache/apt
	shift
	if [ ! -d "$dir/lists" ]; then
		mkdir -p "$dir/lists/partial" "$dir/archives/partial"
		: > "$dir/status"
		cp -p /var/lib/apt/lists/*_{InRelease,Release,Release.gpg,Packages*} "$dir/lists/" 2> /dev/null || true
	fi
	"$tool" -qq -o APT::Sandbox::User="$(id -un)" -o APT::Install-Recommends=false -o Acquire::Retries=2 \
		-o Dir::State::Lists="$dir/lists" -o Dir::State::status="$dir/status" -o Dir::Cache="$dir" "$@" 9>&-
}

# The packages that these need, themselves among them, as lines NAME=VERSION.
deb_closure() { # deb_closure PACKAGE...
	apt_own get install --simulate "$@" | sed -n 's/^Inst \([^ :]*\)[^ ]* (\([^ ]*\) .*/\1=\2/p'
}

# The newest kernel package of a flavour (amd64, cloud-amd64), as a line NAME=VERSION.
deb_kernel_name() { # deb_kernel_name FLAVOUR
	deb_closure "linux-image-$1" | grep '^linux-image-[0-9].*'
}

# Runs a question to apt; if it fails, with newer lists once more.
apt_fresh() { # apt_fresh FUNCTION ARGUMENT...
	"$@" 2> /dev/null && return
	apt_own get update > /dev/null 2>&1 || true # a source of the user's may be broken; Debian's may not
	"$@" || die "apt knows no answer to: $*; is there a network, and a Debian source in /etc/apt?"
}

# Fetches packages into $cache/debs; their files' names are the output.
deb_fetch() { # deb_fetch NAME=VERSION...
	local one file missing=()
	mkdir -p "$cache/debs"
	for one; do
		[ -e "$(deb_file "$one")" ] || missing+=("$one")
	done
	[ ${#missing[@]} = 0 ] || (cd "$cache/debs" && apt_fresh apt_own get download "${missing[@]}" >&2)
	for one; do
		file=$(deb_file "$one")
		[ -e "$file" ] || die "apt did not fetch $one"
		echo "$file"
	done
}

deb_file() { # deb_file NAME=VERSION: as apt names the file
	local found version=${1#*=}
	for found in "$cache/debs/${1%%=*}_${version//:/%3a}"_*.deb; do
		echo "$found"
	done
}

# Unpacks packages over DIRECTORY; symbolic links to directories there (/lib to usr/lib) stay.
deb_unpack() { # deb_unpack DIRECTORY FILE...
	local dir=$1 file
	shift
	for file; do
		dpkg-deb --fsys-tarfile "$file" | tar -x --keep-directory-symlink -C "$dir"
	done
}

# The kernel within a bzImage. Linux boot protocol 2.08 (Documentation/arch/x86/boot.rst): the payload is at
# payload_offset behind the set-up sectors and ends with its own unpacked length, which is not compressed data.
vmlinux_extract() { # vmlinux_extract VMLINUZ VMLINUX
	local sectors offset length magic unpack
	sectors=$(od -An -tu1 -j 0x1f1 -N 1 "$1")
	offset=$(od -An -tu4 -j 0x248 -N 4 "$1")
	length=$(od -An -tu4 -j 0x24c -N 4 "$1")
	offset=$((offset + (sectors + 1) * 512))
	magic=$(od -An -tx1 -j "$offset" -N 4 "$1" | tr -d ' ')
	case $magic in
	02214c18) unpack=lz4 ;;
	fd377a58) unpack=xz ;;
	28b52ffd) unpack=zstd ;;
	1f8b*) unpack=gzip ;;
	*) die "$1: compressed in a way unknown here (it begins with $magic)" ;;
	esac
	need "$unpack" "${unpack/xz/xz-utils}"
	dd if="$1" iflag=skip_bytes,count_bytes skip="$offset" count=$((length - 4)) bs=1M status=none |
		"$unpack" -dcq > "$2" || die "$1: cannot unpack the kernel in it"
}

# A flavour's kernel in $cache/kernels/FLAVOUR, made when it is not there or $refresh is not empty:
# vmlinuz, vmlinux (uncompressed, PVH), config, release, lib/modules. Under the cache's lock.
kernel_fetch() { # kernel_fetch FLAVOUR
	local dir=$cache/kernels/$1 new=$cache/kernels/new.$1 name release deb
	[ ! -e "$dir/release" ] || [ -n "${refresh:-}" ] || return 0
	name=$(apt_fresh deb_kernel_name "$1")
	release=${name#linux-image-}
	release=${release%%=*}
	[ "$name" != "$(cat "$dir/package" 2> /dev/null)" ] || return 0
	deb=$(deb_fetch "$name")
	rm -rf "$new"
	mkdir -p "$new/x"
	deb_unpack "$new/x" "$deb"
	mv "$new/x/boot/vmlinuz-$release" "$new/vmlinuz"
	mv "$new/x/boot/config-$release" "$new/config"
	if [ -d "$new/x/usr/lib/modules" ]; then mv "$new/x/usr/lib" "$new/lib"; else mv "$new/x/lib" "$new/lib"; fi
	rm -rf "$new/x"
	busybox depmod -b "$new" "$release"
	vmlinux_extract "$new/vmlinuz" "$new/vmlinux"
	echo "$name" > "$new/package"
	echo "$release" > "$new/release"
	rm -rf "$dir"
	mv "$new" "$dir"
}

# Copies modules with all that they need below ROOT/lib/modules. Those the kernel has built in are not missed;
# a name with a `?` behind it may be absent.
modules_copy() { # modules_copy KERNEL ROOT MODULE...
	local kernel=$1 root=$2 release module file
	release=$(cat "$kernel/release")
	shift 2
	mkdir -p "$root/lib/modules/$release"
	for module; do
		file=$(sed -n "s|^\(.*/${module%\?}\.ko[.a-z]*\): *|\1 |p" "$kernel/lib/modules/$release/modules.dep")
		if [ -z "$file" ]; then
			grep -q "/${module%\?}\.ko" "$kernel/lib/modules/$release/modules.builtin" ||
				[[ $module == *\? ]] || die "kernel $release has no module $module"
			continue
		fi
		for file in $file; do
			install -D -m 644 "$kernel/lib/modules/$release/$file" "$root/lib/modules/$release/$file"
		done
	done
	busybox depmod -b "$root" "$release"
}

# A folder as an initramfs, the same for the same files: sorted, without times and owners.
cpio_pack() { # cpio_pack DIRECTORY > FILE
	(cd "$1" && find . -exec touch -h -d @0 {} + && find . | LC_ALL=C sort |
		cpio -o -H newc --quiet --reproducible -R 0:0)
}
