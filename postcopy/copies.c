#define _GNU_SOURCE /* statx */
#include "postcopy/copies.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* linux/magic.h does not have these. */
#define XFS_MAGIC 0x58465342
#define ZFS_MAGIC 0x2fc12fc1

static bool is_written(const struct vm *vm, unsigned i)
{
	return vm->machine.devs[i].kind == MDEV_BLK && !vm->machine.devs[i].readonly &&
	       vm->devices.disks[i].fd >= 0;
}

/* --- which ------------------------------------------------------------------------------------ */

/*
 * Does a file have one number here, whichever way it is reached? Not where a file system stands on
 * another one (FUSE, 9p, overlay, a network): the same bytes have another number, and perhaps
 * other locks, there.
 */
static bool tells_files_apart(int fd)
{
	static const uint32_t known[] = {EXT4_SUPER_MAGIC, XFS_MAGIC, BTRFS_SUPER_MAGIC,
					 TMPFS_MAGIC, ZFS_MAGIC};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if ((uint32_t)fs.f_type == known[i])
			return true;
	return false;
}

static struct wire_image image_of(const struct vm *vm, unsigned i)
{
	struct wire_image w = {.disk = i, .kind = WIRE_IMAGE_FILE};
	int fd = vm->devices.disks[i].fd;
	struct statx st = {0};

	if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st) < 0)
		return w; /* as one of which nothing is known */
	if (S_ISBLK(st.stx_mode))
		w.kind = WIRE_IMAGE_DEVICE;
	if (w.kind == WIRE_IMAGE_DEVICE || !tells_files_apart(fd))
		return w;
	w.inode = st.stx_ino;
	if (st.stx_mask & STATX_BTIME) {
		w.born_s = st.stx_btime.tv_sec;
		w.born_ns = st.stx_btime.tv_nsec;
	}
	return w;
}

unsigned copies_list(const struct vm *vm, struct wire_image list[MACHINE_MAX_DEVS])
{
	unsigned n = 0;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (is_written(vm, i))
			list[n++] = image_of(vm, i);
	return n;
}

/* In doubt they may be: also a device and a file, as the file may be what is behind the device. */
static bool may_be_one(const struct wire_image *a, const struct wire_image *b)
{
	return a->kind != WIRE_IMAGE_FILE || b->kind != WIRE_IMAGE_FILE || !a->inode || !b->inode ||
	       (a->inode == b->inode &&
		(!a->born_s || !b->born_s || (a->born_s == b->born_s && a->born_ns == b->born_ns)));
}

static int refuse(const char *id, const struct wire_image *ours, const struct wire_image *theirs,
		  struct err *e)
{
	if (ours->kind != WIRE_IMAGE_FILE || theirs->kind != WIRE_IMAGE_FILE)
		return err_set(e, -EPERM,
			       "disk '%s': a block device here or at the source, of which nobody "
			       "can tell whether the other's image is behind it: it is not copied; "
			       "give both hosts files, or migrate without --copy-disks when it is "
			       "the same device at both",
			       id);
	if (!ours->inode || !theirs->inode)
		return err_set(e, -EPERM,
			       "disk '%s': the file system %s does not tell for sure whether the "
			       "image here is the source's, and no lock of it is seen here: it is "
			       "not written; keep both images on ext4, XFS, btrfs, ZFS or tmpfs "
			       "(not FUSE, 9p, overlay or a network's)",
			       id, ours->inode ? "of the source" : "here");
	return err_set(e, -EPERM,
		       "disk '%s': the image here may be the very file that the source has open, "
		       "and its lock is not seen here: it is not written; give this host a file "
		       "of its own, or storage that carries locks",
		       id);
}

/* 1: it is to be copied to, and is locked; 0: it is the source's, and locked there. */
static int choose(struct vm *vm, const struct wire_image *theirs, struct err *e)
{
	struct disk *d = &vm->devices.disks[theirs->disk];
	const struct wire_image ours = image_of(vm, theirs->disk);
	bool files = ours.kind == WIRE_IMAGE_FILE && theirs->kind == WIRE_IMAGE_FILE;
	int r;

	if (!may_be_one(&ours, theirs)) {
		r = disk_lock(d, e);
		return r ? r : 1;
	}
	return files && disk_is_elsewhere(d) ? 0 : refuse(d->id, &ours, theirs, e);
}

int copies_choose(struct vm *vm, const struct wire_image *list, unsigned n, uint32_t *ret_which,
		  struct err *e)
{
	int r = 0;

	*ret_which = 0;
	for (unsigned i = 0; i < n && r >= 0; i++) {
		if (list[i].disk >= vm->machine.ndevs || !is_written(vm, list[i].disk))
			return err_set(e, -EBADMSG, "offer of an image that is none");
		r = choose(vm, &list[i], e);
		if (r == 1)
			*ret_which |= 1u << list[i].disk;
	}
	return r < 0 ? r : 0;
}

uint64_t copies_bytes(const struct vm *vm, uint32_t which)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		bytes += copies_has(which, i) ? vm->machine.devs[i].bytes : 0;
	return bytes;
}

/* --- what is changed -------------------------------------------------------------------------- */

/*
 * When the change is in the image, and not before: a mark that is taken is of something that the
 * read behind it sees. When the VM stands and its disks are drained, each change has had its mark.
 */
static void changed(void *arg, struct disk *d, const struct disk_req *r, int res)
{
	struct copies *c = arg;

	if (r->kind != DISK_FLUSH)
		block_map_mark(&c->maps[d - c->vm->devices.disks], r->off, r->len);
}

int copies_watch(struct copies *c, struct vm *vm, uint32_t which, struct err *e)
{
	copies_forget(c);
	c->vm = vm;
	c->which = which;
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		struct disk *d = &vm->devices.disks[i];

		if (!copies_has(which, i))
			continue;
		if (block_map_init(&c->maps[i], d->bytes)) {
			copies_forget(c);
			return err_set(e, -ENOMEM, "migration: out of memory");
		}
		d->hook = (struct disk_hook){.done = changed, .arg = c};
	}
	return 0;
}

void copies_forget(struct copies *c)
{
	for (unsigned i = 0; c->vm && i < MACHINE_MAX_DEVS; i++) {
		if (c->maps[i].bits)
			c->vm->devices.disks[i].hook = (struct disk_hook){0};
		block_map_done(&c->maps[i]);
	}
	memset(c, 0, sizeof(*c));
}
