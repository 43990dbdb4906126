/* What an image says of itself, and who may use it then. */
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
#include <sys/xattr.h>
#include <unistd.h>

#include "ft/common/marks.h"

static char path[64];
static int fd;
static bool have_attributes;
static struct config cfg;

static int set_up(void **state)
{
	snprintf(path, sizeof(path), "build/mark-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0)
		return -1;
	have_attributes = !fsetxattr(fd, MARK_ATTRIBUTE, "x", 1, 0);
	fremovexattr(fd, MARK_ATTRIBUTE);
	config_init(&cfg);
	snprintf(cfg.name, sizeof(cfg.name), "web-1");
	cfg.ndisks = 1;
	snprintf(cfg.disks[0].id, sizeof(cfg.disks[0].id), "root");
	snprintf(cfg.disks[0].path, sizeof(cfg.disks[0].path), "%s", path);
	return 0;
}

static int tear_down(void **state)
{
	close(fd);
	return unlink(path);
}

static void put(enum mark_word word, uint64_t generation, const char *vm)
{
	struct mark m = {.word = word, .generation = generation};

	if (!have_attributes) {
		print_message("# this file system has no extended attributes\n");
		skip();
	}
	snprintf(m.vm, sizeof(m.vm), "%s", vm);
	assert_int_equal(mark_write(fd, &m), 0);
}

static void comes_back(void **state)
{
	struct mark m;
	struct err e = {0};

	assert_int_equal(mark_read(path, &m, &e), 0);
	assert_int_equal(m.word, MARK_NONE);
	for (enum mark_word w = MARK_HALF; w < MARK_WORDS; w++) {
		put(w, UINT64_MAX - w, "web-1");
		assert_int_equal(mark_read(path, &m, &e), 0);
		assert_int_equal(m.word, w);
		assert_int_equal(m.generation, UINT64_MAX - w);
		assert_string_equal(m.vm, "web-1");
	}
	put(MARK_NONE, 0, "");
	put(MARK_NONE, 0, "");
	assert_int_equal(mark_read(path, &m, &e), 0);
	assert_int_equal(m.word, MARK_NONE);
	assert_int_equal(mark_read("build/no-such-image", &m, &e), 0);
}

static void damaged(void **state)
{
	static const char *const texts[] = {
		"",
		"1",
		"2 web-1 3 run",
		"1 web-1 3 none",
		"1 web-1 3 running",
		"1 web-1 3 run x",
		"1 web-1 03 run",
		"1 web-1 -3 run",
		"1  web-1 3 run",
		"1 web-1 3",
	};
	char longest[400];

	put(MARK_NONE, 0, "");
	memset(longest, 'a', sizeof(longest));
	for (unsigned i = 0; i <= sizeof(texts) / sizeof(texts[0]); i++) {
		bool last = i == sizeof(texts) / sizeof(texts[0]);
		const char *text = last ? longest : texts[i];
		struct mark m;
		struct err e = {0};

		fsetxattr(fd, MARK_ATTRIBUTE, text, last ? sizeof(longest) : strlen(text), 0);
		assert_int_equal(mark_read(path, &m, &e), -EBADMSG);
		assert_int_equal(m.word, MARK_NONE);
		assert_non_null(strstr(e.msg, "setfattr -x"));
	}
}

/* -1: no arbiter that both sides have. */
static int may(enum config_role role, long long known)
{
	struct arbiter_record rec = {.generation = (uint64_t)known};
	struct err e = {0};

	cfg.role = role;
	return marks_allow(&cfg, known < 0 ? NULL : &rec, &e);
}

static void who_may(void **state)
{
	assert_int_equal(may(ROLE_PLAIN, -1), 0);
	for (enum mark_word w = MARK_HALF; w < MARK_WORDS; w++) {
		put(w, 3, "web-1");
		assert_int_equal(may(ROLE_PLAIN, -1), -ESTALE);
		assert_int_equal(may(ROLE_SECONDARY, -1), 0);
		assert_int_equal(may(ROLE_PRIMARY, 3), w == MARK_HALF ? -ESTALE : 0);
		assert_int_equal(may(ROLE_PRIMARY, 4), w == MARK_HALF ? -ESTALE : 0);
		/* Its storage is not mounted, or is an old copy. */
		assert_int_equal(may(ROLE_PRIMARY, 2), -ESTALE);
		assert_int_equal(may(ROLE_PRIMARY, 0), -ESTALE);
		assert_int_equal(may(ROLE_PRIMARY, -1),
				 w == MARK_HALF || w == MARK_BEHIND ? -ESTALE : 0);
	}
}

static void of_another(void **state)
{
	put(MARK_WHOLE, 1, "web-2");
	assert_int_equal(may(ROLE_PLAIN, -1), -ESTALE);
	assert_int_equal(may(ROLE_PRIMARY, 9), -ESTALE);
	assert_int_equal(may(ROLE_SECONDARY, -1), -ESTALE);
}

static void not_asked(void **state)
{
	put(MARK_HALF, 3, "web-2");
	cfg.claim = true;
	assert_int_equal(may(ROLE_PLAIN, -1), 0);
	assert_int_equal(may(ROLE_PRIMARY, 0), 0);
	cfg.claim = false;
	cfg.disks[0].readonly = true;
	assert_int_equal(may(ROLE_PLAIN, -1), 0);
	cfg.disks[0].readonly = false;
	cfg.disks[0].ft = DISK_FT_SHARED; /* one image: its lock says who has it */
	assert_int_equal(may(ROLE_PLAIN, -1), 0);
}

/* --claim: what is written here is nobody's half any more; the rest has no mark. */
static void taken_off(void **state)
{
	static struct vm vm;
	struct mark m;
	struct err e = {0};

	put(MARK_HALF, 3, "web-2");
	vm.machine.ndevs = 4;
	vm.machine.devs[0].kind = MDEV_NET;
	vm.machine.devs[1] = (struct mdev){.kind = MDEV_BLK, .readonly = true};
	vm.machine.devs[2] = (struct mdev){.kind = MDEV_BLK, .ft = DISK_FT_SHARED};
	vm.machine.devs[3] = (struct mdev){.kind = MDEV_BLK, .ft = DISK_FT_MIRROR};
	for (unsigned i = 0; i < 3; i++)
		vm.devices.disks[i].fd = -1;
	vm.devices.disks[3].fd = fd;
	assert_int_equal(marks_take_off(&vm, &e), 0);
	assert_int_equal(mark_read(path, &m, &e), 0);
	assert_int_equal(m.word, MARK_NONE);
	vm.devices.disks[3].fd = -1;
	assert_int_equal(marks_take_off(&vm, &e), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(comes_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(damaged, set_up, tear_down),
		cmocka_unit_test_setup_teardown(who_may, set_up, tear_down),
		cmocka_unit_test_setup_teardown(of_another, set_up, tear_down),
		cmocka_unit_test_setup_teardown(not_asked, set_up, tear_down),
		cmocka_unit_test_setup_teardown(taken_off, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("mark", tests, NULL, NULL);
}
