/*
 * How long a program takes from its start to the first byte it writes to standard output.
 *
 *	startup first PROGRAM [ARG...]	starts it, prints the time as JSON, kills it
 *	startup kvm MIB			the floor: the least that makes KVM run one instruction
 *
 * With a guest whose first instructions write to the serial port (first.S) that byte means that
 * the guest runs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "startup: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int run_first(char **argv)
{
	posix_spawn_file_actions_t fa;
	uint64_t start, first;
	int p[2], r;
	char byte;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC))
		die("pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, p[1], 1);
	start = now_ns();
	r = posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
	if (r) {
		errno = r;
		die(argv[0]);
	}
	close(p[1]);
	r = (int)read(p[0], &byte, 1);
	first = now_ns();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (r != 1) {
		fprintf(stderr, "startup: %s ended without a word\n", argv[0]);
		return 1;
	}
	printf("{\"ms\": %.3f}\n", (first - start) / 1e6);
	return 0;
}

/* One slot, interrupt chips, one vCPU in real mode: what every machine of ours needs as well. */
static int run_kvm(size_t bytes)
{
	static const uint8_t code[] = {0xba, 0xf8, 0x03, 0xee,
				       0xf4}; /* mov $0x3f8,%dx; out %al,%dx; hlt */
	struct kvm_userspace_memory_region slot = {.memory_size = bytes};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, cpu;
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
	struct kvm_sregs sregs;
	struct kvm_run *run;
	uint8_t *ram;

	if (kvm < 0)
		die("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	if (vm < 0 || ram == MAP_FAILED)
		die("KVM_CREATE_VM");
	memcpy(ram + 0x1000, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)ram;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		die("KVM_SET_USER_MEMORY_REGION");
	if (ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0)
		die("KVM_CREATE_IRQCHIP");
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (cpu < 0 || ioctl(cpu, KVM_GET_SREGS, &sregs) < 0)
		die("KVM_CREATE_VCPU");
	sregs.cs.base = sregs.cs.selector = 0;
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, cpu, 0);
	if (run == MAP_FAILED || ioctl(cpu, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(cpu, KVM_SET_REGS, &regs) < 0)
		die("vCPU");
	if (ioctl(cpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
		die("KVM_RUN");
	return write(STDOUT_FILENO, "R", 1) == 1 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "first"))
		return run_first(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "kvm"))
		return run_kvm((size_t)atoi(argv[2]) << 20);
	fprintf(stderr, "usage: startup first PROGRAM [ARG...] | startup kvm MIB\n");
	return 2;
}
