#include "vmm/vm/twin.h"

#include <errno.h>
#include <string.h>

#include "vmm/conf/option.h"
#include "vmm/machine/fdt.h"

/* What it needs here grows with it: as much again may be staged. */
static int check_memory(const struct config *cfg, const struct machine *m, struct err *e)
{
	char is[32], most[32];

	if (!cfg->max_mem_bytes || m->mem_bytes <= cfg->max_mem_bytes)
		return 0;
	option_format_size(m->mem_bytes, is, sizeof(is));
	option_format_size(cfg->max_mem_bytes, most, sizeof(most));
	return err_set(e, -EPERM,
		       "the peer's VM has %s of memory, this side takes %s at most; give this side "
		       "a larger --max-memory, or the VM less with -m",
		       is, most);
}

/* An image that is made here as large as the peer says. */
static int check_size(const struct config *cfg, const struct mdev *md, struct err *e)
{
	char is[32], most[32];

	if (!cfg->max_disk_bytes || md->ft != DISK_FT_MIRROR || md->bytes <= cfg->max_disk_bytes)
		return 0;
	option_format_size(md->bytes, is, sizeof(is));
	option_format_size(cfg->max_disk_bytes, most, sizeof(most));
	return err_set(e, -EPERM,
		       "disk '%s' has %s at the peer, this side makes images of %s at most; give "
		       "this side a larger --max-disk",
		       md->id, is, most);
}

/* A peer may not have an image written that is read-only here. */
static int check_disk(const struct config *cfg, const struct mdev *md, struct err *e)
{
	if (md->kind != MDEV_BLK)
		return 0;
	for (unsigned n = 0; n < cfg->ndisks; n++)
		if (!strcmp(md->id, cfg->disks[n].id) && cfg->disks[n].readonly && !md->readonly)
			return err_set(e, -EPERM, "disk '%s' is read-only here, not at the peer",
				       md->id);
	return check_size(cfg, md, e);
}

int twin_parse(struct machine *ret, const struct config *cfg, const void *fdt, size_t len,
	       struct err *e)
{
	int r = fdt_parse(fdt, len, ret, e);

	if (!r)
		r = check_memory(cfg, ret, e);
	for (unsigned i = 0; !r && i < ret->ndevs; i++)
		r = check_disk(cfg, &ret->devs[i], e);
	return r;
}
