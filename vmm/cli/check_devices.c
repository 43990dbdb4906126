#include "vmm/cli/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/disk.h"
#include "ft/common/marks.h"
#include "net/netdev.h"
#include "vmm/conf/option.h"

/* --- images ----------------------------------------------------------------------------------- */

static bool is_replica(const struct check *c, const struct config_disk *d)
{
	return c->cfg->role == ROLE_SECONDARY && d->ft == DISK_FT_MIRROR;
}

/* The other side has the lock of a shared one. */
static int flags_of(const struct check *c, const struct config_disk *d)
{
	bool elsewhere = c->cfg->role == ROLE_SECONDARY || c->cfg->incoming[0];
	int flags = DISK_OPEN_TRY | (d->direct ? DISK_OPEN_DIRECT : 0);

	if (is_replica(c, d))
		return flags | DISK_OPEN_CREATE;
	return flags | (d->readonly ? DISK_OPEN_RO : elsewhere ? DISK_OPEN_UNLOCKED : 0);
}

static void image(struct check *c, const struct config_disk *cd)
{
	static const struct arbiter_record any = {.generation = UINT64_MAX};
	bool replica = is_replica(c, cd);
	char what[48], size[32];
	struct err e = {0};
	struct disk d;
	uint32_t block;

	snprintf(what, sizeof(what), "disk %s", cd->id);
	if (replica && access(cd->path, F_OK) < 0) {
		check_say(c, CHECK_OK, what, "'%s' is made when a primary connects", cd->path);
		return;
	}
	if (disk_open(&d, NULL, cd->id, cd->path, flags_of(c, cd), &e)) {
		check_say(c, CHECK_FAILS, what, "%s", e.msg);
		return;
	}
	option_format_size(d.bytes, size, sizeof(size));
	/*
	 * Which generation the arbiter knows is looked at where it is asked; which blocks the guest
	 * has, a primary says when it connects.
	 */
	block = cd->block ? (uint32_t)cd->block : d.block.logical;
	if (mark_allows(c->cfg, cd, strcmp(c->cfg->arbiter, "none") ? &any : NULL, &e) ||
	    (!replica &&
	     (disk_serves(&d, block, &e) || disk_block_divides(cd->path, d.bytes, block, &e))))
		check_say(c, CHECK_FAILS, what, "%s", e.msg);
	else
		check_say(c, CHECK_OK, what, "'%s', %s%s", cd->path, size,
			  replica ? "; overwritten when a primary connects" : "");
	disk_close(&d);
}

/* --- networks --------------------------------------------------------------------------------- */

/* A passt may be there for one client alone: it is not connected to. */
static void passt(struct check *c, const struct config_net *n, const char *what)
{
	struct stat st;

	if (stat(n->socket, &st) < 0)
		check_say(c, CHECK_FAILS, what,
			  "passt at '%s': %s; start it first: passt --socket %s", n->socket,
			  strerror(errno), n->socket);
	else if (!S_ISSOCK(st.st_mode))
		check_say(c, CHECK_FAILS, what, "'%s' is no socket", n->socket);
	else
		check_say(c, CHECK_OK, what, "passt's socket '%s' is there", n->socket);
}

static void net(struct check *c, const struct config_net *n)
{
	struct err e = {0};
	char what[48], text[80];
	int r;

	snprintf(what, sizeof(what), "net %s", n->id);
	if (n->socket[0]) {
		passt(c, n, what);
		return;
	}
	r = netdev_try_tap(n->tap, n->bridge, &e);
	snprintf(text, sizeof(text), "tap '%s'%s%s%s", n->tap, n->bridge[0] ? ", bridge '" : "",
		 n->bridge, n->bridge[0] ? "'" : "");
	check_tried(c, what, r, &e, text);
}

void check_devices(struct check *c)
{
	for (unsigned i = 0; i < c->cfg->ndisks; i++)
		image(c, &c->cfg->disks[i]);
	for (unsigned i = 0; i < c->cfg->nnets; i++)
		net(c, &c->cfg->nets[i]);
}
