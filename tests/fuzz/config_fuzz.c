/*
 * A configuration file. The first byte picks: the rest is the text; or a list of edits {u16 place,
 * u8 value} to a good one; or a list {u8 key, u8 value} of which one is made. What is
 * accepted makes a machine, whose description is built and parsed
 * again without loss.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/conf/config.h"
#include "vmm/machine/fdt.h"

#define FILES 8 /* /proc/self/fd/100 and so on */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool c)
{
	if (!c)
		abort();
}

static void check_accepted(const struct config *c)
{
	static uint8_t buf[FDT_MAX_BYTES] __attribute__((aligned(8)));
	struct machine m, again;
	struct err e = {0};
	int n = config_to_machine(c, &m, &e);

	require(memchr(c->name, 0, sizeof(c->name)) && c->vcpus && c->vcpus <= MACHINE_MAX_VCPUS);
	require(c->ndisks <= MACHINE_MAX_DEVS && c->nnets <= MACHINE_MAX_DEVS &&
		c->npeers <= CONFIG_MAX_PEERS);
	if (n) {
		require(e.msg[0]);
		return;
	}
	for (unsigned i = 0; i < m.ndevs; i++)
		if (m.devs[i].kind == MDEV_BLK) {
			m.devs[i].bytes = 1 << 20;
			m.devs[i].block = m.devs[i].physical = machine_block(&m.devs[i]);
		}
	/* What the host that creates it adds. */
	m.tsc_khz = 2000000;
	m.ncpuid = 2;
	m.cpuid[1].function = 1;
	n = fdt_build(&m, buf, sizeof(buf), NULL);
	require(n > 0 && !fdt_parse(buf, (size_t)n, &again, &e));
	require(!memcmp(&m, &again, sizeof(m)));
}

static const char good[] =
	"{\"kernel\": \"/proc/self/fd/100\", \"cmdline\": \"a b\", \"memory\": \"64M\", \"cpus\": "
	"2, "
	"\"disk\": [{\"id\": \"d0\", \"path\": \"/proc/self/fd/101\", \"ro\": true, \"ft\": "
	"\"none\"}, "
	"{\"id\": \"d1\", \"path\": \"/proc/self/fd/102\"}], \"net\": [{\"id\": \"n0\", \"tap\": "
	"\"t0\", "
	"\"mac\": \"02:00:00:00:00:01\"}], \"console\": \"none\", \"name\": \"vm\", \"primary\": "
	"true, \"peer\": [\"tcp:127.0.0.1:1\"], \"ft\": \"mc\", \"epoch\": \"25ms\", "
	"\"heartbeat\": \"25ms\", \"peer-timeout\": \"100ms\", \"arbiter\": \"file:/tmp/x\", "
	"\"staging\": \"64M\", \"verify\": true}";

static const char *const keys[] = {
	"kernel",  "initrd",  "cmdline",      "memory",	 "cpus",	  "disk",	  "net",
	"console", "name",    "restore",      "primary", "secondary",	  "peer",	  "listen",
	"ft",	   "epoch",   "heartbeat",    "arbiter", "claim",	  "peer-timeout", "staging",
	"verify",  "verbose", "output-limit", "nokey",	 "disklog-limit", "cpu"};
static const char *const values[] = {
	"true",
	"false",
	"null",
	"0",
	"1",
	"-1",
	"3.5",
	"1e300",
	"18446744073709551615",
	"9223372036854775807",
	"\"\"",
	"\"mc\"",
	"\"25ms\"",
	"\"1s\"",
	"\"64M\"",
	"\"-1M\"",
	"\"99999999999999999999G\"",
	"\"/proc/self/fd/100\"",
	"\"none\"",
	"\"stdio\"",
	"\"tcp:127.0.0.1:1\"",
	"[\"tcp:[::1]:9\", \"unix:/x\"]",
	"[]",
	"{}",
	"[[]]",
	"[{}]",
	"[{\"id\": \"d0\"}]",
	"[{\"id\": \"d0\", \"path\": \"/proc/self/fd/103\", \"ro\": true}]",
	"[{\"id\": \"n0\", \"tap\": \"t0\"}, {\"id\": \"n1\", \"tap\": \"t1\"}]",
	"{\"id\": \"n0\", \"tap\": \"0123456789abcdefghij\"}",
	"[{\"id\": \"a\", \"path\": \"/proc/self/fd/104\"}, {\"id\": \"b\", \"path\": "
	"\"/proc/self/fd/105\"}, {\"id\": \"c\", \"path\": \"/proc/self/fd/106\"}, {\"id\": \"d\", "
	"\"path\": \"/proc/self/fd/107\"}]",
	"[{\"id\": \"e\", \"tap\": \"t0\"}, {\"id\": \"f\", \"tap\": \"t1\"}, {\"id\": \"g\", "
	"\"tap\": \"t2\"}]",
	"\"\\u0000\"",
	"\"\\n\""};

static size_t build(char *out, const uint8_t *p, size_t n)
{
	size_t at = 0;

	out[at++] = '{';
	for (unsigned i = 0; n >= 2 && i < 40; p += 2, n -= 2, i++)
		at += (size_t)sprintf(out + at, "%s\"%s\": %s", i ? ", " : "",
				      keys[p[0] % (sizeof(keys) / sizeof(keys[0]))],
				      values[p[1] % (sizeof(values) / sizeof(values[0]))]);
	out[at++] = '}';
	return at;
}

/* The text that an input stands for, in memory of the caller. */
static size_t text_of(const uint8_t *data, size_t size, char *out)
{
	switch (data[0] % 3) {
	case 0:
		memcpy(out, data + 1, size - 1);
		return size - 1;
	case 1:
		memcpy(out, good, sizeof(good) - 1);
		for (size_t i = 1; i + 3 <= size; i += 3)
			out[(data[i] | data[i + 1] << 8) % (sizeof(good) - 1)] = (char)data[i + 2];
		return sizeof(good) - 1;
	default:
		return build(out, data + 1, size - 1);
	}
}

/* What the paths above lead to: files that do for images, and for a kernel. */
static void make_files(void)
{
	for (int i = 0; i < FILES; i++) {
		int fd = memfd_create("image", MFD_CLOEXEC);

		require(fd >= 0 && ftruncate(fd, 1 << 20) == 0 && dup2(fd, 100 + i) == 100 + i);
		close(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config c;
	static bool ready;
	char path[64], *argv[] = {path}, *text = malloc(size + 16384);
	struct err e = {0};
	int fd = memfd_create("config", MFD_CLOEXEC), r;

	if (!ready)
		make_files();
	ready = true;
	require(fd >= 0 && text);
	size = size ? text_of(data, size, text) : 0;
	require(write(fd, text, size) == (ssize_t)size);
	free(text);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = config_parse_run(&c, 1, argv, &e);
	if (!r)
		check_accepted(&c);
	else
		require(r < 0 && e.msg[0]);
	close(fd);
	return 0;
}
