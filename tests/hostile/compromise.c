/*
 * compromise PID TID process|vcpu: makes a thread of a running program ask the kernel for things,
 * as whoever has taken it over would, and prints a line for each: its name and what the kernel
 * said. The thread then goes on where it was. Arguments are such that nothing comes of a call that
 * is let in.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct attempt {
	const char *name;
	long call;
	bool vcpu; /* nothing for a vCPU, though other threads need it */
	uint64_t args[6];
};

#define TRY(name, ...)                                                                             \
	{                                                                                          \
#name, SYS_##name, false,                                                          \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}
#define TRY_VCPU(name, ...)                                                                        \
	{                                                                                          \
#name, SYS_##name, true,                                                           \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}
#define AS(text, name, ...)                                                                        \
	{                                                                                          \
		text, SYS_##name, false,                                                           \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}
#define AS_VCPU(text, name, ...)                                                                   \
	{                                                                                          \
		text, SYS_##name, true,                                                            \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}
#define NO ((uint64_t)-1)

static const struct attempt attempts[] = {
	/* Other programs, and other processes. */
	TRY(execve),
	TRY(execveat, NO),
	AS("clone: a process", clone, CLONE_SIGHAND),
	AS("clone: a namespace", clone, CLONE_NEWUSER | CLONE_FS),
	TRY(ptrace, PTRACE_CONT, NO),
	TRY(process_vm_readv, NO),
	TRY(process_vm_writev, NO),
	TRY(process_madvise, NO),
	TRY(pidfd_open, NO),
	TRY(pidfd_getfd, NO),
	TRY(pidfd_send_signal, NO),
	AS("kill: process 1", kill, 1),
	AS("tgkill: process 1", tgkill, 1, 1),
	TRY(kcmp, NO, NO),
	/* Rights, namespaces, mounts. */
	TRY(setresuid, NO, NO, NO),
	TRY(setgid, NO),
	TRY(capset),
	TRY(unshare),
	TRY(setns, NO),
	TRY(chroot),
	TRY(mount_setattr, NO, 0, 0, NO),
	TRY(open_by_handle_at, NO),
	TRY(name_to_handle_at, NO),
	AS("prctl: core dumps", prctl, PR_SET_DUMPABLE, 1),
	AS("prlimit64: set", prlimit64, 0, RLIMIT_NOFILE, NO),
	TRY(fchown, NO),
	TRY(chmod),
	TRY(symlink),
	TRY(mknod),
	/* The kernel's inner parts. */
	TRY(bpf, NO),
	TRY(perf_event_open),
	TRY(finit_module, NO),
	TRY(keyctl, NO),
	TRY(add_key),
	TRY(io_uring_setup),
	TRY(io_uring_register, NO),
	TRY(fanotify_init, NO, NO),
	TRY(memfd_secret, NO),
	TRY(modify_ldt, 99),
	TRY(vmsplice, NO),
	AS("socket: AF_ALG", socket, AF_ALG, 99),
	AS("socket: AF_PACKET", socket, AF_PACKET, 99),
	AS("socket: AF_VSOCK", socket, AF_VSOCK, 99),
	AS("ioctl: typing into a terminal", ioctl, NO, TIOCSTI),

	AS_VCPU("mmap: code", mmap, 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, NO),
	AS_VCPU("mprotect: code", mprotect, 4095, 4096, PROT_EXEC),
	AS_VCPU("clone: a thread", clone, CLONE_THREAD | CLONE_VM),
	TRY_VCPU(open),
	TRY_VCPU(openat, NO),
	AS_VCPU("socket: AF_INET", socket, AF_INET, 99),
	AS_VCPU("socket: AF_UNIX", socket, AF_UNIX, 99),
	TRY_VCPU(connect, NO),
	TRY_VCPU(bind, NO),
	TRY_VCPU(sendto, NO),
	TRY_VCPU(sendmsg, NO),
	TRY_VCPU(recvmsg, NO),
	TRY_VCPU(accept4, NO),
	TRY_VCPU(io_uring_enter, NO),
	TRY_VCPU(epoll_ctl, NO),
	TRY_VCPU(fcntl, NO),
	TRY_VCPU(dup, NO),
	TRY_VCPU(pread64, NO),
	TRY_VCPU(pwrite64, NO),
	TRY_VCPU(fallocate, NO),
	TRY_VCPU(ftruncate, NO),
	TRY_VCPU(unlink),
	TRY_VCPU(rename),
	TRY_VCPU(memfd_create),
	TRY_VCPU(userfaultfd, NO),
	AS_VCPU("ioctl: a tap", ioctl, NO, 0x400454ca),
	AS_VCPU("prctl: a name", prctl, PR_SET_NAME),
	TRY_VCPU(seccomp, NO),
};

static void die(const char *what)
{
	fprintf(stderr, "compromise: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Where a system call instruction is: in the vDSO. */
static uint64_t find_syscall(pid_t pid)
{
	char path[64], line[256];
	uint8_t page[16384];
	unsigned long from = 0, to;
	FILE *maps;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps))
		if (strstr(line, "[vdso]"))
			sscanf(line, "%lx-%lx", &from, &to);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = from ? pread(fd, page, sizeof(page) < to - from ? sizeof(page) : to - from, (off_t)from)
		 : 0;
	for (ssize_t i = 0; i + 1 < n; i++)
		if (page[i] == 0x0f && page[i + 1] == 0x05)
			return from + (uint64_t)i;
	errno = ENOENT;
	die("a system call in the vDSO");
	return 0;
}

/* Why it stands: the signal, SIGTRAP for us. */
static int wait_stop(pid_t tid)
{
	int status;

	if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status)) {
		errno = ESRCH;
		die("the thread has ended");
	}
	return WSTOPSIG(status);
}

/* *ret_signal: one that came meanwhile, to be given to the thread when it goes on. */
static long call(pid_t tid, const struct user_regs_struct *was, uint64_t at,
		 const struct attempt *a, int *ret_signal)
{
	struct user_regs_struct r;
	int sig = 0;

	do {
		if (sig)
			*ret_signal = sig;
		r = *was;
		r.rip = at;
		r.rax = (uint64_t)a->call;
		r.orig_rax = NO;
		r.rdi = a->args[0];
		r.rsi = a->args[1];
		r.rdx = a->args[2];
		r.r10 = a->args[3];
		r.r8 = a->args[4];
		r.r9 = a->args[5];
		if (ptrace(PTRACE_SETREGS, tid, NULL, &r) ||
		    ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL))
			die("PTRACE_SETREGS");
		sig = wait_stop(tid);
	} while (sig != SIGTRAP);
	if (ptrace(PTRACE_GETREGS, tid, NULL, &r))
		die("PTRACE_GETREGS");
	return (long)r.rax;
}

int main(int argc, char **argv)
{
	struct user_regs_struct was;
	bool vcpu = argc == 4 && !strcmp(argv[3], "vcpu");
	int sig = 0;
	uint64_t at;
	pid_t tid;

	if (argc != 4) {
		fprintf(stderr, "usage: compromise PID TID process|vcpu\n");
		return 1;
	}
	tid = atoi(argv[2]);
	at = find_syscall(atoi(argv[1]));
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
		die("PTRACE_SEIZE");
	sig = wait_stop(tid);
	if (sig == SIGTRAP)
		sig = 0;
	if (ptrace(PTRACE_GETREGS, tid, NULL, &was))
		die("PTRACE_GETREGS");
	for (unsigned i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
		long r;

		if (attempts[i].vcpu && !vcpu)
			continue;
		r = call(tid, &was, at, &attempts[i], &sig);
		printf("%s: %s\n", attempts[i].name, r < 0 ? strerrorname_np((int)-r) : "done");
	}
	if (ptrace(PTRACE_SETREGS, tid, NULL, &was) ||
	    ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)sig))
		die("PTRACE_DETACH");
	return 0;
}
