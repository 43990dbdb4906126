#define _GNU_SOURCE
#include "vmm/base/sandbox.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Who has a row: both, or the process alone. A vCPU thread has its own list and the process'. */
enum { BOTH, MAIN };

enum test { ANY, IS, MASK, SELF }; /* of one argument; SELF: our own process id */

struct row {
	int call;
	uint8_t who, test, arg;
	uint64_t mask, value;
};

#define CALL(name, who)                                                                            \
	{                                                                                          \
		SCMP_SYS(name), who, ANY, 0, 0, 0                                                  \
	}
#define CALL_IS(name, who, arg, value)                                                             \
	{                                                                                          \
		SCMP_SYS(name), who, IS, arg, 0, value                                             \
	}
#define CALL_MASK(name, who, arg, mask, is)                                                        \
	{                                                                                          \
		SCMP_SYS(name), who, MASK, arg, mask, is                                           \
	}
#define CALL_SELF(name, who, arg)                                                                  \
	{                                                                                          \
		SCMP_SYS(name), who, SELF, arg, 0, 0                                               \
	}
/* All requests of one driver: the second byte (ioctl(2)). */
#define IOCTLS_OF(any, who) CALL_MASK(ioctl, who, 1, 0xff00, (uint64_t)_IOC_TYPE(any) << 8)

/* clang-format off */
static const struct row rows[] = {
	/* Run the guest, read and write its registers. */
	IOCTLS_OF(KVM_RUN, BOTH),

	/* Locks, and a thread that wakes another. A vCPU tells the loop by an eventfd. */
	CALL(futex, BOTH),
	CALL(write, BOTH),
	CALL(read, BOTH),
	CALL(restart_syscall, BOTH),
	CALL(rt_sigreturn, BOTH),
	CALL(rt_sigprocmask, BOTH),
	CALL_SELF(tgkill, BOTH, 0),
	CALL(getpid, BOTH),
	CALL(gettid, BOTH),

	/* The heap. Code is mapped by the process alone: libraries that come when they are asked for. */
	CALL(brk, BOTH),
	CALL_MASK(mmap, BOTH, 2, PROT_EXEC, 0),
	CALL_MASK(mprotect, BOTH, 2, PROT_EXEC, 0),
	CALL(munmap, BOTH),
	CALL(mremap, BOTH),
	CALL(madvise, BOTH),
	CALL(getrandom, BOTH),
	CALL(mmap, MAIN),
	CALL(mprotect, MAIN),
	CALL(memfd_create, MAIN),

	/* Time. Of a clock that the vDSO does not have, and of hosts without one. */
	CALL(clock_gettime, BOTH),
	CALL(gettimeofday, BOTH),
	CALL(clock_nanosleep, BOTH),
	CALL(nanosleep, MAIN),
	CALL(clock_getres, MAIN),
	CALL(time, MAIN),

	/* Turns on a processor: a vCPU that is to stop comes first (vmm/vm/vm_run.c). */
	CALL(sched_setscheduler, BOTH),
	CALL(sched_yield, BOTH),
	CALL(sched_getaffinity, BOTH), /* how many arenas the heap may have */
	CALL(sched_getscheduler, MAIN),
	CALL(sched_getparam, MAIN),

	/* The end. */
	CALL(exit, BOTH),
	CALL(exit_group, BOTH),
	CALL(rt_sigaction, BOTH), /* a crash puts the default back */

	/* Threads, no other processes; a thread's own list. */
	CALL_MASK(clone, MAIN, 0, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM),
	CALL(set_robust_list, MAIN),
	CALL(rseq, MAIN),
	CALL(sigaltstack, MAIN),
	CALL(seccomp, MAIN),
	CALL_IS(prctl, MAIN, 0, PR_SET_NAME),
	CALL_IS(prctl, MAIN, 0, PR_SET_NO_NEW_PRIVS),
	CALL_SELF(kill, MAIN, 0),

	/* The loop. Rings are not made any more, and ours does what loop.c asks for. */
	CALL(io_uring_enter, MAIN),
	CALL(epoll_create1, MAIN),
	CALL(epoll_ctl, MAIN),
	CALL(epoll_wait, MAIN),
	CALL(epoll_pwait, MAIN),
	CALL(poll, MAIN),
	CALL(ppoll, MAIN),
	CALL(select, MAIN),
	CALL(pselect6, MAIN),
	CALL(eventfd2, MAIN),
	CALL(signalfd4, MAIN),
	CALL(pipe2, MAIN),
	CALL(rt_sigtimedwait, MAIN),

	/* Images, snapshots, records of an arbiter, the console's file. */
	CALL(open, MAIN),
	CALL(openat, MAIN),
	CALL(close, MAIN),
	CALL(readv, MAIN),
	CALL(writev, MAIN),
	CALL(pread64, MAIN),
	CALL(pwrite64, MAIN),
	CALL(preadv, MAIN),
	CALL(pwritev, MAIN),
	CALL(pwritev2, MAIN),
	CALL(lseek, MAIN),
	CALL(stat, MAIN),
	CALL(lstat, MAIN),
	CALL(fstat, MAIN),
	CALL(newfstatat, MAIN),
	CALL(statx, MAIN),
	CALL(fstatfs, MAIN),
	CALL(access, MAIN),
	CALL(faccessat, MAIN),
	CALL(faccessat2, MAIN),
	CALL(readlink, MAIN),
	CALL(readlinkat, MAIN),
	CALL(getdents64, MAIN),
	CALL(getcwd, MAIN),
	CALL(ftruncate, MAIN),
	CALL(fallocate, MAIN),
	CALL(fadvise64, MAIN),
	CALL(fsync, MAIN),
	CALL(fdatasync, MAIN),
	CALL(getxattr, MAIN),
	CALL(fsetxattr, MAIN),
	CALL(fremovexattr, MAIN),
	CALL(sync_file_range, MAIN),
	CALL(fcntl, MAIN),
	CALL(flock, MAIN),
	CALL(dup, MAIN),
	CALL(mkdir, MAIN),
	CALL(mkdirat, MAIN),
	CALL(rename, MAIN),
	CALL(renameat, MAIN),
	CALL(renameat2, MAIN),
	CALL(link, MAIN),
	CALL(linkat, MAIN),
	CALL(unlink, MAIN),
	CALL(unlinkat, MAIN),
	CALL(fchmod, MAIN),
	CALL(umask, MAIN),
	IOCTLS_OF(BLKFLSBUF, MAIN),

	/* Peers, clients, name servers, passt, taps (netlink). */
	CALL_IS(socket, MAIN, 0, AF_UNIX),
	CALL_IS(socket, MAIN, 0, AF_INET),
	CALL_IS(socket, MAIN, 0, AF_INET6),
	CALL_IS(socket, MAIN, 0, AF_NETLINK),
	CALL(socketpair, MAIN),
	CALL(bind, MAIN),
	CALL(listen, MAIN),
	CALL(accept, MAIN),
	CALL(accept4, MAIN),
	CALL(connect, MAIN),
	CALL(shutdown, MAIN),
	CALL(getsockname, MAIN),
	CALL(getpeername, MAIN),
	CALL(getsockopt, MAIN),
	CALL(setsockopt, MAIN),
	CALL(sendto, MAIN),
	CALL(recvfrom, MAIN),
	CALL(sendmsg, MAIN),
	CALL(recvmsg, MAIN),
	CALL(sendmmsg, MAIN),
	CALL(recvmmsg, MAIN),
	IOCTLS_OF(0x8933, MAIN), /* SIOCGIFINDEX and others of a link's name */
	CALL_IS(ioctl, MAIN, 1, TUNSETIFF),
	CALL_IS(ioctl, MAIN, 1, TUNGETIFF),
	CALL_IS(ioctl, MAIN, 1, TUNSETVNETHDRSZ),
	CALL_IS(ioctl, MAIN, 1, TUNSETOFFLOAD),
	CALL_IS(ioctl, MAIN, 1, FIONREAD),
	CALL_IS(ioctl, MAIN, 1, FIONBIO),

	/* A console that is a terminal. Nothing is typed into it: no TIOCSTI. */
	CALL_IS(ioctl, MAIN, 1, TCGETS),
	CALL_IS(ioctl, MAIN, 1, TCSETS),
	CALL_IS(ioctl, MAIN, 1, TCSETSW),
	CALL_IS(ioctl, MAIN, 1, TCSETSF),
	CALL_IS(ioctl, MAIN, 1, TIOCGWINSZ),

	/* Memory that comes later (postcopy/uffd.c). */
	CALL(userfaultfd, MAIN),
	IOCTLS_OF(UFFDIO_API, MAIN),

	/* What libraries ask about the host and themselves. */
	CALL(uname, MAIN),
	CALL(sysinfo, MAIN),
	CALL(getuid, MAIN),
	CALL(geteuid, MAIN),
	CALL(getgid, MAIN),
	CALL(getegid, MAIN),
	CALL_IS(prlimit64, MAIN, 2, 0), /* read */
	CALL(getrlimit, MAIN),
	CALL(getrusage, MAIN),
};
/* clang-format on */

#define NROWS (sizeof(rows) / sizeof(rows[0]))

static int add(scmp_filter_ctx list, const struct row *row)
{
	struct scmp_arg_cmp arg = {.arg = row->arg, .op = SCMP_CMP_EQ, .datum_a = row->value};

	if (row->test == ANY)
		return seccomp_rule_add(list, SCMP_ACT_ALLOW, row->call, 0);
	if (row->test == SELF)
		arg.datum_a = (uint64_t)getpid();
	if (row->test == MASK) {
		arg.op = SCMP_CMP_MASKED_EQ;
		arg.datum_a = row->mask;
		arg.datum_b = row->value;
	}
	return seccomp_rule_add_array(list, SCMP_ACT_ALLOW, row->call, 1, &arg);
}

static int fill(scmp_filter_ctx list, enum sandbox_of of)
{
	/* Its flags are in memory, where a list cannot look: glibc takes clone() then. */
	int r = seccomp_rule_add(list, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	for (unsigned i = 0; i < NROWS && !r; i++)
		if (of == SANDBOX_PROCESS || rows[i].who == BOTH)
			r = add(list, &rows[i]);
	/* Of what the kernel does not decide by the number alone, this is the most frequent. */
	return r ? r : seccomp_syscall_priority(list, SCMP_SYS(ioctl), 255);
}

/* The library writes to a file. */
static int take(scmp_filter_ctx list, struct sandbox_list *ret)
{
	int fd = memfd_create("sandbox", MFD_CLOEXEC);
	ssize_t got;
	int r;

	if (fd < 0)
		return -errno;
	r = seccomp_export_bpf(list, fd);
	got = r ? r : pread(fd, ret->code, sizeof(ret->code), 0);
	if (got < 0)
		r = r ? r : -errno;
	else if (lseek(fd, 0, SEEK_END) > got)
		r = -E2BIG;
	else
		ret->n = (unsigned short)((size_t)got / sizeof(ret->code[0]));
	close(fd);
	return r;
}

static int no_list(struct err *e, int r)
{
	return err_set(e, r,
		       "sandbox: the kernel takes no list of system calls: %s; --sandbox off runs "
		       "without",
		       strerror(-r));
}

int sandbox_make(struct sandbox_list *ret, enum sandbox how, enum sandbox_of of, struct err *e)
{
	scmp_filter_ctx list;
	int r;

	ret->n = 0;
	if (how == SANDBOX_OFF)
		return 0;
	list = seccomp_init(how == SANDBOX_STRICT ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM));
	r = list ? fill(list, of) : -ENOMEM;
	if (!r)
		r = take(list, ret);
	seccomp_release(list);
	return r ? no_list(e, r) : 0;
}

int sandbox_enter(const struct sandbox_list *list, bool all_threads, struct err *e)
{
	struct sock_fprog program = {.len = list->n, .filter = (struct sock_filter *)list->code};
	unsigned flags = SECCOMP_FILTER_FLAG_LOG;
	long r;

	if (!list->n)
		return 0;
	if (all_threads)
		flags |= SECCOMP_FILTER_FLAG_TSYNC;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return no_list(e, -errno);
	r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (r) /* above 0: that thread has another one */
		return no_list(e, r < 0 ? -errno : -ESRCH);
	return 0;
}

/* What of root's rights has a use here. */
static const uint8_t kept[] = {
	CAP_DAC_OVERRIDE,     CAP_DAC_READ_SEARCH, /* images and sockets of other users */
	CAP_FOWNER,				   /* the mode of what another user made */
	CAP_NET_ADMIN,				   /* taps and bridges */
	CAP_NET_BIND_SERVICE,			   /* --listen below 1024 */
	CAP_SYS_NICE,				   /* the loop comes before ordinary threads */
	CAP_SYS_RESOURCE,			   /* what a file system keeps for root */
	CAP_IPC_LOCK,	/* KVM and rings, where locked memory is bounded */
	CAP_SYS_PTRACE, /* memory that comes later, asked for by the kernel */
};

/* Both halves of a set, as capget(2) has them. */
struct rights {
	struct __user_cap_data_struct half[2];
};

static void keep(struct rights *to, const struct rights *from, unsigned cap)
{
	unsigned i = cap / 32;
	uint32_t bit = 1u << cap % 32;

	to->half[i].permitted |= from->half[i].permitted & bit;
	to->half[i].effective |= from->half[i].effective & bit;
	/* An arbiter's program of another user has what that user was given for it. */
	to->half[i].inheritable |= from->half[i].inheritable & bit;
}

int sandbox_drop_rights(enum sandbox how, bool flushes, struct err *e)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct rights had, rest = {0};

	if (how == SANDBOX_OFF)
		return 0;
	if (syscall(SYS_capget, &h, had.half))
		return err_sys(e, "sandbox: capget");
	for (unsigned i = 0; i < sizeof(kept); i++)
		keep(&rest, &had, kept[i]);
	if (flushes)
		keep(&rest, &had, CAP_SYS_ADMIN);
	return syscall(SYS_capset, &h, rest.half) ? err_sys(e, "sandbox: capset") : 0;
}
