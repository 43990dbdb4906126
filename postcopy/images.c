#include "postcopy/images.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "postcopy/copies.h"

static bool is_disk(const struct vm *vm, unsigned i)
{
	return vm->machine.devs[i].kind == MDEV_BLK && vm->devices.disks[i].fd >= 0;
}

static void one_less(struct images *im, int r)
{
	if (r < 0 && !im->error)
		im->error = r;
	if (!--im->pending)
		im->drained(im->arg, im->error);
}

static void synced(struct loop_op *op, int res)
{
	struct image *i = op->arg;

	one_less(i->all, res < 0 ? res : 0);
}

static void drained(void *arg)
{
	struct image *i = arg;
	int r;

	if (i->disk->readonly || i->copied) {
		one_less(i->all, 0);
		return;
	}
	r = loop_fdatasync(i->disk->loop, &i->sync_op, i->disk->fd);
	if (r < 0)
		one_less(i->all, r);
}

void images_drain(struct images *im, struct vm *vm, uint32_t copied, void (*fn)(void *arg, int r),
		  void *arg)
{
	memset(im, 0, sizeof(*im));
	im->vm = vm;
	im->drained = fn;
	im->arg = arg;
	im->pending = 1; /* this function's own, so that it is the last */
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		if (!is_disk(vm, i))
			continue;
		im->each[i] = (struct image){
			.all = im, .disk = &vm->devices.disks[i], .copied = copies_has(copied, i)};
		im->each[i].sync_op = (struct loop_op){.fn = synced, .arg = &im->each[i]};
		im->pending++;
		disk_drain(im->each[i].disk, drained, &im->each[i]);
	}
	one_less(im, 0);
}

void images_go_on(struct images *im)
{
	struct vm *vm = im->vm;

	for (unsigned i = 0; vm && i < vm->machine.ndevs; i++) {
		if (!is_disk(vm, i))
			continue;
		loop_io_abandon(vm->loop, &im->each[i].sync_op);
		disk_hold(&vm->devices.disks[i], false);
	}
	im->vm = NULL;
}

void images_forget(struct images *im)
{
	struct vm *vm = im->vm;

	for (unsigned i = 0; vm && i < vm->machine.ndevs; i++) {
		if (!is_disk(vm, i))
			continue;
		loop_io_abandon(vm->loop, &im->each[i].sync_op);
		disk_drain(&vm->devices.disks[i], NULL, NULL); /* held, and nobody is told */
	}
	im->vm = NULL;
}

void images_unlock(struct vm *vm, uint32_t copied)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (is_disk(vm, i) && !copies_has(copied, i))
			disk_unlock(&vm->devices.disks[i]);
}

int images_lock(struct vm *vm, uint32_t copied, struct err *e)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		bool ours = is_disk(vm, i) && !copies_has(copied, i);
		int r = ours ? disk_lock(&vm->devices.disks[i], e) : 0;

		if (!r)
			continue;
		while (i--)
			if (is_disk(vm, i) && !copies_has(copied, i))
				disk_unlock(&vm->devices.disks[i]);
		return r;
	}
	return 0;
}

int images_check_shared(struct vm *vm, uint32_t copied, struct err *e)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct disk *d = &vm->devices.disks[i];
		struct stat st;

		if (!is_disk(vm, i) || d->readonly || copies_has(copied, i) || disk_is_elsewhere(d))
			continue;
		if (fstat(d->fd, &st) == 0 && S_ISBLK(st.st_mode))
			continue;
		return err_set(
			e, -EPERM,
			"disk '%s': the image here is not the one that the source has open, "
			"as that one is locked; give both hosts the same file, on storage "
			"that carries locks, or the same block device; or have it copied: migrate "
			"with --copy-disks",
			d->id);
	}
	return 0;
}
