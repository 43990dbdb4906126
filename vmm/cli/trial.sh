# shellcheck shell=sh disable=SC3013
# ftvmm trial: two hosts and a client on this machine, each a set of namespaces. cmd_trial.c runs this as
# `sh -c TEXT "ftvmm trial" PROGRAM ARGUMENT...`.
#
#     client 10.77.0.1 --- clients --+--- uplink, ftbr0 of host A
#                                    +--- uplink, ftbr0 of host B        A 10.77.1.1 --- ftlink --- 10.77.1.2 B
#
# A trial is one PID namespace, and its hosts are PID namespaces in it: when the first process of the trial ends, the
# kernel ends all else, and with the last process every network and mount of it is gone. Nothing has a name on the
# machine but the folder $state and a lock beside it, which the first process holds as long as it lives.
set -eu
PATH=$PATH:/usr/sbin:/sbin
program=$1 base=/var/lib/ftvmm-trial name=default
shift

fail() {
	echo "ftvmm: trial: $*" >&2
	exit 1
}

usage() {
	cat <<-'end'
	usage: ftvmm trial [--name NAME] [shell HOST|run HOST COMMAND...|tmux|end]
	Two hosts, A and B, and a client on this machine, to try a pair and a migration on. As root.
	  ftvmm trial                       makes them, and says what to type next
	  ftvmm trial shell HOST            a shell on A, B or client
	  ftvmm trial run HOST COMMAND...   a command there, in the host's folder
	  ftvmm trial tmux                  two shells on each host and one on the client, in one terminal
	  ftvmm trial end                   ends all that runs there, and removes it with the hosts' folders
	  --name NAME                       of one trial among several
	end
}

# The command line for what comes next.
say() {
	typed=$program
	[ "$(command -v ftvmm || :)" -ef "$program" ] && typed=ftvmm
	typed="$typed trial"
	[ "$name" = default ] || typed="$typed --name $name"
	echo "$typed${1:+ }$*"
}

# lock OPTION...: have the lock as descriptor 9. The one that was opened may have been removed meanwhile.
lock() {
	exec 9>> "$state.lock"
	flock "$@" 9 && [ "$state.lock" -ef /proc/self/fd/9 ]
}

remove() {
	rm -f "$state/pids" # first: who reads it believes it
	rm -rf --one-file-system "$state" "$state.lock"
	rmdir "$base" 2> /dev/null || : # there are others
}

# A host, with that name: prints the PID of its first process. The shell in it is outside of the PID namespace that its
# children are in: the first of these is the host's first process, which lets the kernel bury who ends without a parent.
make_host() {
	unshare --net --mount --uts --pid --propagation slave -- sh -euc '
		env --ignore-signal=CHLD sleep infinity < /dev/null > /dev/null 2>&1 &
		read -r self _ < /proc/self/stat
		read -r pid _ < "/proc/$self/task/$self/children" || : # no newline behind it
		echo "$1" > /proc/sys/kernel/hostname
		mount -t proc proc /proc
		mount -t tmpfs -o mode=755 srv /srv
		mkdir /srv/shared "/srv/$1"
		mount --bind "$2/shared" /srv/shared
		mount --bind "$2/$1" "/srv/$1"
		mount -t tmpfs -o mode=755 trial "${2%/*}"
		mount -t tmpfs -o mode=755 run /run
		ip link set lo up
		echo "$pid"
	' sh "$1" "$state" 7>&- 9>&-
}

# The machine has no part in it: all links are between namespaces of the trial.
make_links() {
	bridge="type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
	nsenter --net="/proc/$client/ns/net" ip -batch - <<-end
		link add clients $bridge
		address add 10.77.0.1/24 dev clients
		link set clients up
		link add to-a type veth peer name uplink netns /proc/$A/ns/net
		link add to-b type veth peer name uplink netns /proc/$B/ns/net
		link set to-a master clients up
		link set to-b master clients up
	end
	nsenter --net="/proc/$A/ns/net" ip -batch - <<-end
		link add ftlink type veth peer name ftlink netns /proc/$B/ns/net
	end
	for host in "$A 1" "$B 2"; do
		nsenter --net="/proc/${host% *}/ns/net" ip -batch - <<-end
			link add ftbr0 $bridge
			link set ftbr0 up
			link set uplink master ftbr0 up
			address add 10.77.1.${host#* }/24 dev ftlink
			link set ftlink up
		end
	done
}

# With what the examples name, from the tree that this is built in, or from where it is installed.
make_folders() {
	tree=${program%/build/*}
	[ -d "$tree/configs" ] || tree=${program%/bin/*}/lib/ftvmm
	mkdir "$state/shared"
	for host in A B client; do
		mkdir "$state/$host"
		[ ! -d "$tree/configs" ] || ln -s "$tree/build" "$tree/configs" "$state/$host"
	done
}

# The trial's first process. Until it hears that all is there it ends with the one that makes it, however that dies.
first() {
	exec 7>&- # as a redirection of the function it would be kept, to be restored
	read -r word <&6 && [ "$word" = stay ] && exec env --ignore-signal=CHLD sleep infinity 6<&-
	remove
}

# Begun anew by begin(), with the lock as 9 and a pipe of its own as 6 and 7. This shell is outside of the PID namespace
# that its children are in, from the first on.
make_trial() {
	first < /dev/null > /dev/null 2>&1 &
	first=$!
	exec 6<&-
	trap 'exec 7>&-; wait "$first" || :; echo "ftvmm: trial: it was not made" >&2' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	make_folders
	A=$(make_host A)
	B=$(make_host B)
	client=$(make_host client)
	make_links
	echo "first=$first A=$A B=$B client=$client" > "$state/pids"
	trap '' INT TERM HUP
	trap - EXIT
	echo stay >&7
	explain
}

explain() {
	cat <<-end
	Two hosts and a client on this machine. In a terminal each:

	    $(say shell A)         10.77.1.1, bridge ftbr0
	    $(say shell B)         10.77.1.2, bridge ftbr0
	    $(say shell client)    10.77.0.1, in the network of both bridges

	or, in one:

	    $(say tmux)          two shells on each host, one on the client

	There type what the README has for host A, host B and the client. Each has its own processes, /run and folder;
	/srv/shared is one folder for all. Nothing of it is seen on the machine itself. In the end, to remove all of it:

	    $(say end)
	end
	[ -w /dev/kvm ] || echo "
There is no /dev/kvm here: no VM will start. In the sources, tests/testbed has a machine with one."
}

begin() {
	for tool in ip flock unshare nsenter; do
		command -v "$tool" > /dev/null || fail "there is no $tool; it is in iproute2 and util-linux"
	done
	case $program in /srv/* | /run/*) fail "each host has /srv and /run of its own, without $program: move it" ;; esac
	(umask 077 && mkdir -p "$base") # images are not for every user
	lock -n || fail "there is one already; to remove it: $(say end)"
	trap remove EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	rm -f "$state/pids"
	rm -rf --one-file-system "$state"
	mkdir "$state"
	mkfifo "$state/word"
	exec 7<> "$state/word" 6< "$state/word"
	rm "$state/word"
	exec unshare --pid -- "$program" trial --name "$name" make
}

# The PIDs of a trial that lives, by whoever has its lock: a PID may have become another process's, or be one of another
# PID namespace.
read_pids() {
	[ -e "$state/pids" ] || return 1
	eval "$(cat "$state/pids")"
	[ "/proc/$first/fd/9" -ef "$state.lock" ]
}

find_trial() {
	if [ -e "$state.lock" ] && exec 9< "$state.lock" && ! flock -ns 9 && read_pids; then
		exec 9<&-
	else
		fail "there is none; to make it: $(say)"
	fi
}

# enter HOST COMMAND...
enter() {
	find_trial
	case $1 in
	A) pid=$A ;;
	B) pid=$B ;;
	client) pid=$client ;;
	*) fail "no host '$1': A, B or client" ;;
	esac
	grep -q '^NSpid:.*[[:space:]]1$' "/proc/$pid/status" 2> /dev/null ||
		fail "host $1 is dead; to remove the trial: $(say end)"
	where=/proc/$pid/root/srv/$1
	shift
	unset XDG_RUNTIME_DIR
	export PATH="${program%/*}:$PATH" FTVMM_TRIAL="$name"
	exec nsenter --target="$pid" --net --mount --uts --pid --wd="$where" -- "$@"
}

show_tmux() {
	find_trial
	command -v tmux > /dev/null || fail "tmux is not installed; instead, in a terminal each: $(say shell A)"
	unset TMUX
	tmux="tmux -L ftvmm-trial-$name"
	$tmux has-session 2> /dev/null && exec $tmux attach
	exec $tmux new-session "$(say shell A)" \; split-window -fv "$(say shell client)" \; \
		select-pane -t '{top}' \; split-window -h "$(say shell B)" \; split-window -v "$(say shell B)" \; \
		select-pane -t '{top-left}' \; split-window -v "$(say shell A)" \; select-pane -t '{top-left}'
}

# The kernel has ended all in it when the first process is gone; its parent may leave it as a zombie.
await_end() {
	for _ in $(seq 200); do
		read -r state_of 2> /dev/null < "/proc/$1/stat" || return 0
		case $state_of in *") Z "*) return 0 ;; esac
		sleep 0.05
	done
	fail "process $1 does not end: is something of it stuck in the kernel? Try again"
}

end_trial() {
	[ -e "$state" ] || [ -e "$state.lock" ] || { remove; fail "there is none; to make it: $(say)"; }
	if ! lock -n; then
		read_pids || fail "it is being made or removed, or lives in another PID namespace: try again"
		kill -9 "$first" 2> /dev/null || : # it has ended meanwhile
		await_end "$first"
		lock -n || fail "another one removes it or makes it"
	fi
	remove
}

if [ "${1-}" = --name ] && [ $# -gt 1 ]; then
	name=$2
	shift 2
fi
case $name in *[!A-Za-z0-9_-]* | "" | ?????????????????????????????????*) fail "name '$name': at most 32 letters, digits, _ and -" ;; esac
state=$base/$name
if [ "${1-}" = make ] && [ "$state.lock" -ef /proc/self/fd/9 ]; then
	make_trial
	exit
fi
case ${1-} in -h | --help) usage && exit ;; esac
[ "$(id -u)" = 0 ] || fail "namespaces and bridges take root: sudo $(say "$@")"
[ -z "${FTVMM_TRIAL-}" ] || fail "this is $(cat /proc/sys/kernel/hostname), a host of trial '$FTVMM_TRIAL'; type it in another terminal"
case $#${1-} in
0) begin ;;
2shell) enter "$2" "${SHELL:-/bin/sh}" ;;
1tmux) show_tmux ;;
1end) end_trial ;;
*)
	[ "${1-}" = run ] && [ $# -gt 2 ] || { usage >&2; exit 1; }
	host=$2
	shift 2
	[ "$1" != -- ] || shift
	[ $# -gt 0 ] || { usage >&2; exit 1; }
	enter "$host" "$@"
	;;
esac
