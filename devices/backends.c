#include "devices/backends.h"

#include <errno.h>
#include <string.h>

#include "devices/disk.h"
#include "net/netdev.h"
#include "net/vsock_host.h"

static const struct disk_backend *find_disk(const struct backends *b, const char *id)
{
	for (unsigned i = 0; i < b->ndisks; i++)
		if (!strcmp(b->disks[i].id, id))
			return &b->disks[i];
	return NULL;
}

int backends_open_disk(const struct backends *b, const struct mdev *md, struct loop *l,
		       struct disk *d, struct err *e)
{
	const struct disk_backend *given = find_disk(b, md->id);
	bool fit = b->standby && md->ft == DISK_FT_MIRROR;
	bool shared = machine_is_shared(md);
	int flags, r;

	if (!given)
		return err_set(e, -ENOENT, "disk '%s': no image given here; add -d id=%s,path=FILE",
			       md->id, md->id);
	flags = (md->readonly ? DISK_OPEN_RO : 0) | (given->direct ? DISK_OPEN_DIRECT : 0) |
		(fit ? DISK_OPEN_CREATE : 0) | (shared ? DISK_OPEN_SYNC : 0) |
		(b->late_locks || (b->standby && shared) ? DISK_OPEN_UNLOCKED : 0);
	r = disk_open(d, l, md->id, given->path, flags, e);
	if (!r)
		r = disk_serves(d, machine_block(md), e);
	if (r)
		return r;
	if (fit)
		return disk_resize(d, md->bytes, e);
	if (d->bytes != md->bytes)
		return err_set(e, -EINVAL,
			       "disk '%s': '%s' has %llu bytes, the machine has %llu; the images "
			       "must be the same size",
			       md->id, given->path, (unsigned long long)d->bytes,
			       (unsigned long long)md->bytes);
	return 0;
}

int backends_open_net(const struct backends *b, const struct mdev *md, struct loop *l,
		      struct netdev *nd, struct err *e)
{
	for (unsigned n = 0; n < b->nnets; n++) {
		const struct net_backend *given = &b->nets[n];

		if (strcmp(given->id, md->id))
			continue;
		if (!given->socket)
			return netdev_open_tap(nd, md->id, given->tap, given->bridge, e);
		if (!md->no_offload)
			return err_set(e, -EINVAL,
				       "network '%s': the guest has checksum and segmentation "
				       "offload, which passt cannot do; give this side a tap, or "
				       "start the guest with socket= as well",
				       md->id);
		return netdev_open_passt(nd, l, md->id, given->socket, e);
	}
	return err_set(e, -ENOENT,
		       "network '%s': not given here; add -n id=%s,tap=NAME or "
		       "-n id=%s,socket=PATH",
		       md->id, md->id, md->id);
}

int backends_open_vsock(const struct backends *b, struct loop *l, struct vsock_host *h,
			struct err *e)
{
	if (!b->vsock)
		return err_set(e, -ENOENT,
			       "the machine has a vsock, and none is given here; add --vsock "
			       "path=SOCK");
	return vsock_host_init(h, l, b->vsock, e);
}

struct limit_rates backends_limit(const struct backends *b, const char *id)
{
	const struct disk_backend *disk = find_disk(b, id);

	for (unsigned n = 0; n < b->nnets; n++)
		if (!strcmp(b->nets[n].id, id))
			return b->nets[n].limit;
	return disk ? disk->limit : (struct limit_rates){0};
}
