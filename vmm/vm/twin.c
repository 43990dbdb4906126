#include "vmm/vm/twin.h"

#include <errno.h>
#include <string.h>

#include "vmm/machine/fdt.h"

/* A peer may not have an image written that is read-only here. */
static int check_disk(const struct config *cfg, const struct mdev *md, struct err *e)
{
	for (unsigned n = 0; n < cfg->ndisks; n++)
		if (md->kind == MDEV_BLK && !strcmp(md->id, cfg->disks[n].id) &&
		    cfg->disks[n].readonly && !md->readonly)
			return err_set(e, -EPERM, "disk '%s' is read-only here, not at the peer",
				       md->id);
	return 0;
}

int twin_parse(struct machine *ret, const struct config *cfg, const void *fdt, size_t len,
	       struct err *e)
{
	int r = fdt_parse(fdt, len, ret, e);

	for (unsigned i = 0; !r && i < ret->ndevs; i++)
		r = check_disk(cfg, &ret->devs[i], e);
	return r;
}
