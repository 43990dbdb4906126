/* Which side an image makes of a host: the same again, and another one for another image. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(of_images)};
	char cmd[64];
	int r;

	strcpy(folder, "/tmp/ftvmm-side-XXXXXX");
	if (!mkdtemp(folder))
		return 1;
	r = cmocka_run_group_tests_name("side", tests, NULL, NULL);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", folder);
	return system(cmd) || r;
}
