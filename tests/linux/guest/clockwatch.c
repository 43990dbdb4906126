/*
 * clockwatch FILE: reads the clocks from one CPU after the other, every ms, and keeps in FILE what
 * it saw:
 *
 *   reads 1234 backwards 0 gap 12
 *
 * backwards: how often CLOCK_MONOTONIC, CLOCK_BOOTTIME or CLOCK_REALTIME was earlier than before;
 * gap: the longest time between two reads, ms.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static int64_t read_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
	int64_t last[3] = {0}, gap = 0;
	unsigned long reads = 0, backwards = 0;
	int fd = argc == 2 ? open(argv[1], O_CREAT | O_RDWR, 0644) : -1;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (fd < 0)
		return 1;
	for (;; reads++) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(reads % cpus, &set);
		sched_setaffinity(0, sizeof(set), &set);
		for (unsigned i = 0; i < 3; i++) {
			int64_t now = read_ns(clocks[i]);

			backwards += now < last[i];
			if (!i && last[0] && now - last[0] > gap)
				gap = now - last[0];
			last[i] = now;
		}
		if (!(reads % 64)) {
			char text[128];
			int n = snprintf(text, sizeof(text), "reads %lu backwards %lu gap %lld\n",
					 reads, backwards, (long long)(gap / 1000000));

			if (pwrite(fd, text, n, 0) != n)
				return 1;
		}
		usleep(1000);
	}
}
