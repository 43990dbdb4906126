#include "tests/unit/libcommand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/cli/command.h"

int command_says(const char *line, char *out, size_t cap)
{
	char copy[1000], *words[32] = {"ftvmm"}, *rest = copy, *word,
			 path[] = "/tmp/ftvmm-out-XXXXXX";
	int n = 1, code, fd = mkstemp(path), save1 = dup(1), save2 = dup(2);
	ssize_t len;

	assert_true(snprintf(copy, sizeof(copy), "%s", line) < (int)sizeof(copy));
	while ((word = strsep(&rest, " ")))
		words[n++] = word;
	fflush(stdout);
	dup2(fd, 1);
	dup2(fd, 2);
	code = command_main(n, words);
	fflush(stdout);
	dup2(save1, 1);
	dup2(save2, 2);
	close(save1);
	close(save2);
	len = pread(fd, out, cap - 1, 0);
	assert_true(len >= 0);
	out[len] = 0;
	close(fd);
	unlink(path);
	return code;
}
