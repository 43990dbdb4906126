/* Which side an image makes of a host: the same again, and another one for another image. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ft/common/side.h"

static char folder[32];
static struct config cfg;

static void make(const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_CREAT | O_RDWR, 0600);
	assert_true(fd >= 0);
	close(fd);
}

static void use(unsigned i, const char *id, const char *name)
{
	snprintf(cfg.disks[i].id, sizeof(cfg.disks[i].id), "%s", id);
	snprintf(cfg.disks[i].path, sizeof(cfg.disks[i].path), "%s/%s", folder, name);
	cfg.disks[i].readonly = false;
	cfg.ndisks = i + 1;
}

static uint64_t side(void)
{
	struct err e = {0};
	uint64_t ret = 0;

	assert_int_equal(side_identity(&cfg, &ret, &e), 0);
	return ret;
}

static void of_images(void **state)
{
	char one[64], two[64];
	struct err e = {0};
	uint64_t a, both, none;

	assert_int_equal(side(), 0);
	make("a");
	make("b");
	use(0, "root", "a");
	a = side();
	assert_true(a);
	assert_int_equal(truncate(cfg.disks[0].path, 4096), 0);
	assert_true(side() == a);
	snprintf(one, sizeof(one), "%s/a", folder);
	snprintf(two, sizeof(two), "%s/moved", folder);
	assert_int_equal(rename(one, two), 0);
	use(0, "root", "moved");
	assert_true(side() == a); /* moved: it is still that image */
	use(0, "root", "b");
	assert_true(side() != a);
	use(1, "data", "moved");
	both = side();
	assert_true(both != a);
	use(0, "data", "moved");
	use(1, "root", "b");
	assert_true(side() == both);
	cfg.disks[0].readonly = cfg.disks[1].readonly = true;
	assert_int_equal(side(), 0); /* no side can be behind */
	use(0, "root", "none");
	assert_int_equal(side_identity(&cfg, &none, &e), -2);
	assert_non_null(strstr(e.msg, "/none'"));
}

/* --- a host of the test's choice -------------------------------------------------------------- */

static struct {
	const char *id; /* NULL: it has no machine-id */
	const char *name;
	bool is_block;	/* its images are block devices, */
	bool no_births; /* or on a file system that does not know when they were made; */
	unsigned minor; /* so were all mounted */
} host = {.id = "one\n", .name = "here"};

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_gethostname(char *name, size_t size);
int __real_statx(int dir, const char *path, int flags, unsigned mask, struct statx *ret);
int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *ret);

int __wrap_open(const char *path, int flags, ...)
{
	int fd;

	if (strcmp(path, "/etc/machine-id"))
		return __real_open(path, flags, 0600);
	assert_int_equal(flags, O_RDONLY | O_CLOEXEC);
	if (!host.id) {
		errno = ENOENT;
		return -1;
	}
	fd = memfd_create("machine-id", 0);
	assert_int_equal(write(fd, host.id, strlen(host.id)), strlen(host.id));
	lseek(fd, 0, SEEK_SET);
	return fd;
}

int __wrap_gethostname(char *name, size_t size)
{
	if (!host.name)
		return -1;
	snprintf(name, size, "%s", host.name);
	return 0;
}

int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *ret)
{
	int r = __real_statx(dir, path, flags, mask, ret);

	if (host.is_block)
		ret->stx_mode = S_IFBLK | 0600;
	if (host.no_births)
		ret->stx_mask &= ~STATX_BTIME;
	if (host.minor)
		ret->stx_dev_minor = host.minor;
	return r;
}

static uint64_t side_on(const char *id, const char *name)
{
	host.id = id;
	host.name = name;
	return side();
}

/* The same file on two hosts is two images, whichever of both names differs. */
static void of_hosts(void **state)
{
	static const char *const ids[] = {"one\n", "two\n", NULL};
	static const char *const names[] = {"here", "there", NULL};
	int before = dup(0), after;
	uint64_t seen[9];

	close(before);
	make("h");
	use(0, "root", "h");
	cfg.ndisks = 1;
	for (unsigned i = 0; i < 9; i++) {
		seen[i] = side_on(ids[i / 3], names[i % 3]);
		assert_true(seen[i] != 0);
		assert_true(seen[i] == side_on(ids[i / 3], names[i % 3]));
		for (unsigned j = 0; j < i; j++)
			assert_true(seen[i] != seen[j]);
	}
	after = dup(0);
	close(after);
	assert_int_equal(after, before);
}

/* They are known by their paths. */
static void of_block_devices(void **state)
{
	uint64_t a, b;

	make("sda");
	make("sdb");
	use(0, "root", "sda");
	host.is_block = true;
	a = side();
	assert_true(a == side());
	use(0, "data", "sda");
	assert_true(side() != a);
	use(0, "root", "sdb");
	b = side();
	assert_true(b != a);
	/* Its inode is one of devtmpfs, new with each start of the host. */
	assert_int_equal(unlink(cfg.disks[0].path), 0);
	make("sdc");
	make("sdb");
	assert_true(side() == b);
	host.is_block = false;
	assert_true(side() != b);
}

/* Device numbers change with the order of mounts: they count where nothing better is known. */
static void of_file_systems(void **state)
{
	uint64_t knows, does_not;

	make("f");
	use(0, "root", "f");
	host.minor = 1;
	knows = side();
	host.minor = 2;
	assert_true(side() == knows);
	host.no_births = true;
	does_not = side();
	assert_true(does_not != knows);
	host.minor = 1;
	assert_true(side() != does_not);
	host.no_births = false;
	host.minor = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(of_images), cmocka_unit_test(of_hosts),
					   cmocka_unit_test(of_block_devices),
					   cmocka_unit_test(of_file_systems)};
	char cmd[64];
	int r;

	strcpy(folder, "/tmp/ftvmm-side-XXXXXX");
	if (!mkdtemp(folder))
		return 1;
	r = cmocka_run_group_tests_name("side", tests, NULL, NULL);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", folder);
	return system(cmd) || r;
}
