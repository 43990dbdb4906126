/* What only the start needed is not in memory any more; a debugger keeps its breakpoints. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/base/giveback.h"

/* KiB in memory of what may be executed, by smaps. */
static unsigned long code_kib(void)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long sum = 0, from, to, kib;
	char line[300], rights[5] = "";

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3)
			continue;
		if (rights[2] == 'x' && sscanf(line, "Rss: %lu kB", &kib) == 1)
			sum += kib;
	}
	fclose(f);
	return sum;
}

/* All of the C library that there is. */
static int touch(struct dl_phdr_info *o, size_t size, void *arg)
{
	volatile uint8_t *sum = arg;

	for (int i = 0; strstr(o->dlpi_name, "libc.so") && i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
			continue;
		for (size_t at = 0; at < p->p_memsz; at += 4096)
			*sum += *(const uint8_t *)(o->dlpi_addr + p->p_vaddr + at);
	}
	return 0;
}

static unsigned long touch_code(void)
{
	uint8_t sum = 0;

	dl_iterate_phdr(touch, &sum);
	return code_kib();
}

static void code_goes(void **state)
{
	unsigned long before = touch_code(), after;

	giveback_start();
	after = code_kib();
	assert_true(before > 1000);
	assert_in_range(after, 1, before - 500);
	assert_in_range(touch_code(), after + 500, before + 500); /* and comes again */
}

static void a_debugger_keeps_it(void **state)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		unsigned long before;

		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(77);
		before = touch_code();
		giveback_start();
		_exit(code_kib() < before);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_goes),
		cmocka_unit_test(a_debugger_keeps_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
