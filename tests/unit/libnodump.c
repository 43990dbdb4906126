#include "tests/unit/libnodump.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "dd" among the flags of proc(5), smaps. */
bool is_nodump(const void *p)
{
	FILE *maps = fopen("/proc/self/smaps", "re");
	bool inside = false, ret = false;
	char line[512];

	if (!maps)
		abort();
	while (fgets(line, sizeof(line), maps)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = (uintptr_t)p >= from && (uintptr_t)p < to;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			ret = strstr(line, " dd");
	}
	fclose(maps);
	return ret;
}
