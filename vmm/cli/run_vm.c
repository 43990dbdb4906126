#include "vmm/cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "devices/disk_block.h"
#include "vmm/copy/snapshot.h"
#include "vmm/vm/vm_net.h"

static int measure(const struct config_disk *cd, int fd, struct mdev *md, struct err *e)
{
	struct disk_block block;
	off_t end = lseek(fd, 0, SEEK_END);

	if (end < 0)
		return err_sys(e, "'%s'", cd->path);
	if (disk_block_of(fd, false, cd->path, &block, e))
		return e->code;
	md->block = cd->block ? (uint32_t)cd->block : block.logical;
	md->physical = block.physical > md->block ? block.physical : md->block;
	md->bytes = (uint64_t)end;
	return disk_block_divides(cd->path, md->bytes, md->block, e);
}

static int measure_disk(const struct config_disk *cd, struct mdev *md, struct err *e)
{
	int fd = open(cd->path, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? err_sys(e, "'%s'", cd->path) : measure(cd, fd, md, e);

	if (fd >= 0)
		close(fd);
	return r ? err_wrap(e, "disk '%s'", cd->id) : 0;
}

/*
 * The machine has the sizes of the images and of their blocks; the image itself is opened and
 * locked by vm_create().
 */
static int measure_disks(const struct config *cfg, struct machine *m, struct err *e)
{
	for (uint32_t i = 0; i < m->ndevs; i++)
		for (unsigned n = 0; n < cfg->ndisks; n++)
			if (m->devs[i].kind == MDEV_BLK &&
			    !strcmp(m->devs[i].id, cfg->disks[n].id) &&
			    measure_disk(&cfg->disks[n], &m->devs[i], e))
				return e->code;
	return 0;
}

static int boot(struct run *r, struct err *e)
{
	struct boot_files files;
	int code = boot_files_read(&files, r->cfg.kernel, r->cfg.initrd, e);

	if (code)
		return code;
	code = vm_boot(&r->vm, &files, e);
	boot_files_free(&files);
	return code;
}

static int build_vm(struct run *r, struct err *e)
{
	struct backends b;
	struct machine m;
	int code;

	config_to_backends(&r->cfg, &b);
	if (r->cfg.lazy)
		return run_lazy_restore(r, &b, e);
	if (r->cfg.restore[0])
		return snapshot_restore(&r->vm, &r->loop, &b, r->cfg.restore, NULL, e);
	code = config_to_machine(&r->cfg, &m, e);
	if (!code)
		code = measure_disks(&r->cfg, &m, e);
	if (!code)
		code = vm_create(&r->vm, &r->loop, &m, &b, e);
	if (code)
		return code;
	code = boot(r, e);
	if (code)
		vm_destroy(&r->vm);
	return code;
}

/* What a snapshot says of the disks, and not what is said here, is what the VM has. */
static int check_restored(const struct run *r, struct err *e)
{
	const struct machine *m = &r->vm.machine;

	for (unsigned i = 0; i < m->ndevs; i++)
		for (unsigned n = 0; n < r->cfg.ndisks; n++) {
			const struct config_disk *cd = &r->cfg.disks[n];

			if (m->devs[i].kind != MDEV_BLK || m->devs[i].readonly ||
			    strcmp(m->devs[i].id, cd->id) || cd->ft == m->devs[i].ft)
				continue;
			return err_set(
				e, -EINVAL,
				"disk '%s': ft=%s in the snapshot, ft=%s here; give the same",
				cd->id, disk_ft_name(m->devs[i].ft), disk_ft_name(cd->ft));
		}
	return 0;
}

int run_vm_prepare(struct run *r, struct err *e)
{
	int code = build_vm(r, e);

	if (code)
		return code;
	r->has_vm = true;
	if (r->role == ROLE_PRIMARY)
		code = check_restored(r, e);
	if (code)
		return code;
	run_end_watch(r);
	run_disk_watch(r);
	code = vm_link(&r->vm, true, e);
	return code ? code : vsock_host_listen(&r->vm.devices.vsock, e);
}

int run_vm_go(struct run *r, struct err *e)
{
	int code = r->cfg.restore[0] ? vm_load(&r->vm, 0, e) : 0;

	if (!code && r->cfg.restore[0])
		vm_new_generation(&r->vm);
	if (!code)
		code = run_lazy_go(r, e);
	if (!code)
		vm_start(&r->vm);
	return code;
}
