#include "vmm/cli/check.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "postcopy/pager.h"
#include "vmm/base/loop.h"
#include "vmm/cli/advice.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/conf/option.h"
#include "vmm/vm/kvm.h"

static void kvm(struct check *c)
{
	struct err e = {0};
	struct kvm k;
	int r = kvm_open(&k, &e);

	if (!r)
		kvm_close(&k);
	check_tried(c, "kvm", r, &e, "/dev/kvm makes a VM");
}

static void event_loop(struct check *c)
{
	struct err e = {0};
	struct loop l;
	int r = loop_init(&l, &e);

	if (!r)
		loop_done(&l);
	check_tried(c, "io_uring", r, &e, "the event loop starts");
}

/* Given back: what comes next is not to be in the way of a VM that runs. */
static void priority(struct check *c)
{
	static const struct sched_param ordinary;
	int r = c->cfg->role == ROLE_PLAIN ? 0 : loop_raise_priority(1);

	pthread_setschedparam(pthread_self(), SCHED_OTHER, &ordinary);
	if (r)
		advise_priority(r, check_warn, c);
	else if (c->cfg->role != ROLE_PLAIN)
		check_say(c, CHECK_OK, "priority", "real-time, for heartbeats");
}

/* 0: unknown. */
static uint64_t available_bytes(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

static void memory(struct check *c)
{
	bool told = c->cfg->role == ROLE_SECONDARY || c->cfg->incoming[0] || c->cfg->restore[0];
	uint64_t has = available_bytes(), wants = told ? 0 : c->cfg->mem_bytes;
	char has_text[32], wants_text[32];

	if (!has)
		return;
	option_format_size(has & ~((1ull << 20) - 1), has_text, sizeof(has_text));
	option_format_size(wants, wants_text, sizeof(wants_text));
	if (told)
		check_say(c, CHECK_OK, "memory",
			  "%s to be had here; the VM that comes says how much it has", has_text);
	else if (wants > has)
		check_say(c, CHECK_WARN, "memory",
			  "the guest has %s, of which only %s are to be had here now: when it uses "
			  "more, the kernel ends it; give less with -m",
			  wants_text, has_text);
	else
		check_say(c, CHECK_OK, "memory", "%s of %s", wants_text, has_text);
}

static void userfaultfd(struct check *c)
{
	struct err e = {0};

	if (!c->cfg->lazy && !c->cfg->incoming[0])
		return;
	if (pager_probe(&e) && c->cfg->incoming[0])
		advise_precopy(&e, check_warn, c);
	else
		check_tried(c, "userfaultfd", e.code, &e, "memory may come while the guest runs");
}

/* May a file be made or written there? */
static int may_write(const char *path, struct err *e)
{
	char copy[600];

	snprintf(copy, sizeof(copy), "%s", path);
	if (!access(path, W_OK) || (errno == ENOENT && !access(dirname(copy), W_OK | X_OK)))
		return 0;
	return err_sys(e, "'%s'", path);
}

/* A VM of this name that runs has the images and taps, too. */
static void name(struct check *c)
{
	struct sockaddr_un sa;
	struct err e = {0};
	char dir[192];
	int fd = -ENOENT, r = ctl_sock_dir(dir, sizeof(dir), &e);

	if (!r)
		r = ctl_sock_addr(c->cfg->name, &sa, &e);
	if (!r)
		fd = ctl_sock_connect(&sa, 1000);
	if (fd >= 0 || fd == -ETIMEDOUT)
		check_say(c, CHECK_FAILS, "name",
			  "'%s' runs here already; look at it: ftvmm status %s", c->cfg->name,
			  c->cfg->name);
	else
		check_tried(c, "name", r ? r : may_write(dir, &e), &e, c->cfg->name);
	if (fd >= 0)
		close(fd);
}

static void console(struct check *c)
{
	const char *to = c->cfg->console;
	struct err e = {0};

	if (strcmp(to, "stdio") && strcmp(to, "none"))
		check_tried(c, "console", may_write(to, &e), &e, to);
}

void check_host(struct check *c)
{
	name(c);
	kvm(c);
	event_loop(c);
	priority(c);
	memory(c);
	userfaultfd(c);
	console(c);
}
