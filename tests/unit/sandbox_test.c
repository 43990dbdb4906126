/* Each case in a process of its own: a list is for good. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/base/sandbox.h"

/* Without what a sanitizer does before, by calls that are on no list. */
static void leave(int code)
{
	syscall(SYS_exit_group, code);
}

/* The status of a child that does so. */
static int child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGSYS, SIG_DFL);
		fn();
		leave(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* In a child: 1 + the line that does not hold is its exit code. */
#define MUST(what)                                                                                 \
	do {                                                                                       \
		if (!(what))                                                                       \
			leave(__LINE__ % 255 + 1);                                                 \
	} while (0)

static void enter(enum sandbox how, enum sandbox_of of, bool all_threads)
{
	struct sandbox_list list;
	struct err e = {0};

	MUST(!sandbox_make(&list, how, of, &e));
	MUST(!sandbox_enter(&list, all_threads, &e));
}

static bool refused(long r)
{
	return r == -1 && errno == EPERM;
}

static void *nothing(void *arg)
{
	return arg;
}

static void process_on(void)
{
	pthread_t thread;
	void *code;

	enter(SANDBOX_ON, SANDBOX_PROCESS, true);
	MUST(refused(execve("/bin/true", (char *[]){"true", NULL}, NULL)));
	MUST(refused(syscall(SYS_fork)));
	MUST(refused(socket(AF_PACKET, SOCK_RAW, 0)));
	MUST(refused(kill(getppid(), 0)));
	MUST(refused(syscall(SYS_io_uring_setup, 1, NULL)));
	MUST(refused(prctl(PR_SET_DUMPABLE, 1)));
	MUST(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS);
	/* And what it is there for. */
	MUST(!pthread_create(&thread, NULL, nothing, NULL) && !pthread_join(thread, NULL));
	MUST(open("/dev/null", O_RDWR | O_CLOEXEC) >= 0);
	MUST(socket(AF_INET, SOCK_STREAM, 0) >= 0);
	MUST(!kill(getpid(), 0));
	code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(code != MAP_FAILED);
}

static void vcpu_on(void)
{
	void *p;

	enter(SANDBOX_ON, SANDBOX_VCPU, false);
	MUST(refused(open("/dev/null", O_RDONLY | O_CLOEXEC)));
	MUST(refused(socket(AF_UNIX, SOCK_STREAM, 0)));
	p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(p == MAP_FAILED && errno == EPERM);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(p != MAP_FAILED);
	MUST(refused(mprotect(p, 4096, PROT_READ | PROT_EXEC)));
	MUST(!munmap(p, 4096));
	p = malloc(1 << 20);
	MUST(p);
	free(p);
	MUST(write(STDERR_FILENO, "", 0) == 0);
}

static void on(void **state)
{
	assert_int_equal(child(process_on), 0);
	assert_int_equal(child(vcpu_on), 0);
}

static void strict_process(void)
{
	enter(SANDBOX_STRICT, SANDBOX_PROCESS, true);
	execve("/bin/true", (char *[]){"true", NULL}, NULL);
}

static void strict_vcpu(void)
{
	enter(SANDBOX_STRICT, SANDBOX_VCPU, false);
	fcntl(0, F_DUPFD, 0);
}

__attribute__((unused)) static void abort_vcpu(void)
{
	prctl(PR_SET_DUMPABLE, 0);
	signal(SIGABRT, SIG_DFL);
	enter(SANDBOX_STRICT, SANDBOX_VCPU, false);
	abort();
}

static void strict(void **state)
{
	int status = child(strict_process);

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	status = child(strict_vcpu);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
#ifndef __SANITIZE_ADDRESS__ /* which has calls of its own before */
	/* What we do to ourselves is let in. */
	status = child(abort_vcpu);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
#endif
}

static void process_off(void)
{
	struct err e = {0};

	enter(SANDBOX_OFF, SANDBOX_PROCESS, true);
	MUST(!sandbox_drop_rights(SANDBOX_OFF, false, &e));
	MUST(prctl(PR_GET_SECCOMP) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
	MUST(dup(0) >= 0 || errno == EBADF);
}

static void off(void **state)
{
	if (prctl(PR_GET_SECCOMP) || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))
		skip(); /* this test itself is in a sandbox */
	assert_int_equal(child(process_off), 0);
}

struct early {
	sem_t go;
	long said;
};

static void *started_before(void *arg)
{
	struct early *t = arg;

	while (sem_wait(&t->go))
		;
	t->said = syscall(SYS_fork);
	if (t->said == 0)
		leave(99);
	t->said = refused(t->said);
	return NULL;
}

static void early_thread(void)
{
	struct early t = {0};
	pthread_t thread;

	sem_init(&t.go, 0, 0);
	MUST(!pthread_create(&thread, NULL, started_before, &t));
	enter(SANDBOX_ON, SANDBOX_PROCESS, true);
	sem_post(&t.go);
	MUST(!pthread_join(thread, NULL));
	MUST(t.said == 1);
}

static void threads_that_there_are(void **state)
{
	assert_int_equal(child(early_thread), 0);
}

static uint64_t rights(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct half[2];

	MUST(!syscall(SYS_capget, &h, half));
	MUST(half[0].effective == half[0].permitted && half[1].effective == half[1].permitted);
	return half[0].effective | (uint64_t)half[1].effective << 32;
}

#define BIT(cap) (1ull << (cap))

static void drop(void)
{
	uint64_t had = rights(), flushes;
	struct err e = {0};

	MUST(!sandbox_drop_rights(SANDBOX_ON, true, &e));
	flushes = rights();
	MUST(!(flushes & ~had));
	MUST((flushes & BIT(CAP_SYS_ADMIN)) == (had & BIT(CAP_SYS_ADMIN)));
	MUST(!sandbox_drop_rights(SANDBOX_ON, false, &e));
	MUST(rights() == (flushes & ~BIT(CAP_SYS_ADMIN)));
	MUST((rights() & BIT(CAP_NET_ADMIN)) == (had & BIT(CAP_NET_ADMIN)));
	MUST(!(rights() &
	       (BIT(CAP_SYS_MODULE) | BIT(CAP_SETUID) | BIT(CAP_SYS_CHROOT) | BIT(CAP_BPF))));
}

static void rights_are_dropped(void **state)
{
	assert_int_equal(child(drop), 0);
}

static void no_kernel_takes_it(void **state)
{
	struct sandbox_list list = {.n = 1, .code = {{.code = 0xffff}}};
	struct err e = {0};

	assert_int_equal(sandbox_enter(&list, false, &e), -EINVAL);
	assert_string_equal(e.msg,
			    "sandbox: the kernel takes no list of system calls: Invalid argument; "
			    "--sandbox off runs without");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on),
		cmocka_unit_test(strict),
		cmocka_unit_test(off),
		cmocka_unit_test(threads_that_there_are),
		cmocka_unit_test(rights_are_dropped),
		cmocka_unit_test(no_kernel_takes_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
