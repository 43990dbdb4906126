#define _GNU_SOURCE
#include "tests/sim/file.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/sim/memory.h"
#include "tests/sim/real.h"

#define SECTOR 512u
#define NAMES  256
#define MARK   160u

struct handle;

struct inode {
	uint64_t ino;
	unsigned links, open, kept; /* kept: names on the medium */
	size_t size, synced_size;
	uint8_t *data, *synced; /* as long as size_max */
	uint8_t *dirty;		/* a byte for each sector */
	size_t size_max;
	const struct handle *locker;
	char mark[MARK], synced_mark[MARK]; /* its one extended attribute */
};

struct name {
	char path[128];
	struct inode *inode;
};

struct handle { /* an open file */
	struct inode *inode;
	unsigned copies; /* descriptors besides the first */
	uint64_t pos;
	bool append, sync; /* sync: O_DSYNC */
	char dir[128];	   /* of a folder */
};

struct folder {
	int fd;
	unsigned next;
	struct dirent ent;
};

struct storage storage[HOSTS];
static struct name names[NAMES];
static struct name on_medium[NAMES]; /* of the shared folder, at its last sync */
static uint64_t inodes = 100;

/* --- names ------------------------------------------------------------------------------------ */

static bool is_ours(const char *path)
{
	return !strncmp(path, FILE_ROOT, strlen(FILE_ROOT)) || !strcmp(path, "/etc/machine-id");
}

static struct name *find(const char *path)
{
	for (unsigned i = 0; i < NAMES; i++)
		if (names[i].inode && !strcmp(names[i].path, path))
			return &names[i];
	return NULL;
}

static bool is_folder(const char *path)
{
	size_t n = strlen(path);

	for (unsigned i = 0; i < NAMES; i++)
		if (names[i].inode && !strncmp(names[i].path, path, n) && names[i].path[n] == '/')
			return true;
	return !strcmp(path, FILE_SHARED);
}

static struct name *add(const char *path, struct inode *inode)
{
	for (unsigned i = 0; i < NAMES; i++)
		if (!names[i].inode) {
			snprintf(names[i].path, sizeof(names[i].path), "%s", path);
			names[i].inode = inode;
			inode->links++;
			return &names[i];
		}
	abort();
}

static void forget(struct inode *i)
{
	if (i->links || i->open || i->kept)
		return;
	free(i->data);
	free(i->synced);
	free(i->dirty);
	free(i);
}

static void drop(struct name *n)
{
	struct inode *i = n->inode;

	n->inode = NULL;
	i->links--;
	forget(i);
}

static struct inode *make(size_t room)
{
	struct inode *i = calloc(1, sizeof(*i));

	i->ino = inodes++;
	i->size_max = room;
	i->data = calloc(1, room);
	i->synced = calloc(1, room);
	i->dirty = calloc(1, room / SECTOR);
	return i;
}

void file_make(const char *path, size_t size)
{
	struct inode *i = make(size);

	i->size = size;
	add(path, i);
}

uint8_t *file_data(const char *path, size_t *size)
{
	struct name *n = find(path);

	*size = n ? n->inode->size : 0;
	return n ? n->inode->data : NULL;
}

const uint8_t *file_synced(const char *path, size_t *size)
{
	struct name *n = find(path);

	*size = n ? n->inode->size : 0;
	return n ? n->inode->synced : NULL;
}

/* --- the network file system ------------------------------------------------------------------ */

static bool works(void *arg)
{
	return !storage[(uintptr_t)arg].hangs;
}

static struct storage *mine(void)
{
	return &storage[proc_now()->host->index];
}

/* Before it is carried out. False: it is not. */
static bool reach(const char *path)
{
	struct storage *s = mine();

	if (strncmp(path, FILE_SHARED, strlen(FILE_SHARED)))
		return true;
	fiber_sleep(rnd_below(s->delay_ns) + 20 * US);
	fiber_wait(works, (void *)(uintptr_t)proc_now()->host->index, NEVER);
	return !rnd_one_in(s->eio);
}

/* It was carried out; what is said of it. */
static int answer(const char *path, int r)
{
	struct storage *s = mine();

	if (strncmp(path, FILE_SHARED, strlen(FILE_SHARED)))
		return r;
	fiber_sleep(rnd_below(s->delay_ns) + 20 * US);
	fiber_wait(works, (void *)(uintptr_t)proc_now()->host->index, NEVER);
	return rnd_one_in(s->lost) ? fail(EIO) : r;
}

/* --- the calls -------------------------------------------------------------------------------- */

static void path_at(int dir, const char *name, char path[128])
{
	struct fd *f = fd_of(dir, &file_ops);

	if (f && name[0] != '/')
		snprintf(path, 128, "%.60s/%.60s", ((struct handle *)f->of)->dir, name);
	else
		snprintf(path, 128, "%s", name);
}

static int open_path(const char *path, int flags)
{
	struct name *n;
	struct handle *h;

	if (!reach(path))
		return fail(EIO);
	n = find(path);
	if (n && flags & O_EXCL)
		return answer(path, fail(EEXIST));
	if (!n && !(flags & O_CREAT) && !is_folder(path))
		return fail(ENOENT);
	if (!n && flags & O_CREAT)
		n = add(path, make(4096));
	h = calloc(1, sizeof(*h));
	h->append = flags & O_APPEND;
	h->sync = flags & O_DSYNC;
	snprintf(h->dir, sizeof(h->dir), "%s", path);
	h->inode = n ? n->inode : NULL;
	if (h->inode)
		h->inode->open++;
	return fd_new(&file_ops, h);
}

/* Another open file, without the first one's lock. */
static int open_again(int number)
{
	struct fd *f = fd_of(number, &file_ops);
	struct inode *i = f ? ((struct handle *)f->of)->inode : NULL;
	struct handle *h;

	if (!i)
		return fail(ENOENT);
	h = calloc(1, sizeof(*h));
	memcpy(h->dir, ((struct handle *)f->of)->dir, sizeof(h->dir));
	h->inode = i;
	i->open++;
	return fd_new(&file_ops, h);
}

int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	int mode, number;

	va_start(ap, flags);
	mode = va_arg(ap, int);
	va_end(ap);
	if (!strcmp(path, "/dev/kvm"))
		return proc_kvm_open();
	if (!strcmp(path, "/dev/userfaultfd"))
		return proc_uffd_open();
	if (sscanf(path, "/proc/self/fd/%d", &number) == 1)
		return open_again(number);
	return is_ours(path) ? open_path(path, flags) : REAL(open)(path, flags, mode);
}

int __wrap_openat(int dir, const char *name, int flags, ...)
{
	char path[128];

	path_at(dir, name, path);
	return open_path(path, flags);
}

int __wrap_unlinkat(int dir, const char *name, int flags)
{
	char path[128];
	struct name *n;

	path_at(dir, name, path);
	if (!reach(path))
		return fail(EIO);
	n = find(path);
	if (!n)
		return fail(ENOENT);
	drop(n);
	return answer(path, 0);
}

int __wrap_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	char path[128], target[128];
	struct name *n;

	path_at(from_dir, from, path);
	path_at(to_dir, to, target);
	if (!reach(path))
		return fail(EIO);
	n = find(path);
	if (!n)
		return fail(ENOENT);
	if (find(target))
		return answer(path, fail(EEXIST));
	add(target, n->inode);
	return answer(path, 0);
}

int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	char path[128], target[128];
	struct name *n, *old;

	path_at(from_dir, from, path);
	path_at(to_dir, to, target);
	if (!reach(path))
		return fail(EIO);
	n = find(path);
	old = find(target);
	if (!n)
		return fail(ENOENT);
	if (old)
		drop(old);
	snprintf(n->path, sizeof(n->path), "%s", target);
	return answer(path, 0);
}

static void fill_stat(const struct inode *i, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_mode = i ? S_IFREG | 0600 : S_IFDIR | 0700;
	st->st_size = i ? (off_t)i->size : 0;
	st->st_nlink = i ? i->links : 1;
	st->st_ino = i ? i->ino : 1;
	st->st_blksize = 4096;
}

int __wrap_stat(const char *path, struct stat *st)
{
	struct name *n = find(path);

	if (!is_ours(path))
		return REAL(stat)(path, st);
	if (!n && !is_folder(path))
		return fail(ENOENT);
	fill_stat(n ? n->inode : NULL, st);
	return 0;
}

int __wrap_fstat(int number, struct stat *st)
{
	struct fd *f = fd_of(number, &file_ops);
	struct handle *h = f ? f->of : NULL;

	if (number < FD_FIRST)
		return REAL(fstat)(number, st);
	if (!h)
		return fail(EBADF);
	if (!reach(h->dir))
		return fail(EIO);
	fill_stat(h->inode, st);
	return 0;
}

int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *st)
{
	struct name *n = find(path);

	if (!n)
		return fail(ENOENT);
	memset(st, 0, sizeof(*st));
	st->stx_mode = S_IFREG | 0600;
	st->stx_ino = n->inode->ino;
	st->stx_mask = STATX_INO | STATX_BTIME | STATX_TYPE;
	st->stx_btime.tv_sec = 1600000000;
	return 0;
}

int __wrap_access(const char *path, int mode)
{
	if (!is_ours(path))
		return REAL(access)(path, mode);
	return find(path) || is_folder(path) ? 0 : fail(ENOENT);
}

/* --- contents --------------------------------------------------------------------------------- */

static struct inode *inode_of(struct fd *f)
{
	return ((struct handle *)f->of)->inode;
}

ssize_t file_read_at(struct fd *f, void *buf, size_t len, uint64_t off)
{
	const struct inode *i = inode_of(f);
	size_t n = off < i->size ? i->size - off : 0;

	n = n < len ? n : len;
	memcpy(buf, i->data + off, n);
	return (ssize_t)n;
}

static void changed(struct fd *f, uint64_t off, size_t len)
{
	const struct handle *h = f->of;
	struct inode *i = h->inode;
	size_t first = off / SECTOR, n = (off + len + SECTOR - 1) / SECTOR - first;

	memset(i->dirty + first, !h->sync, n);
	if (h->sync)
		memcpy(i->synced + first * SECTOR, i->data + first * SECTOR, n * SECTOR);
}

ssize_t file_write_at(struct fd *f, const void *buf, size_t len, uint64_t off)
{
	struct inode *i = inode_of(f);

	if (off + len > i->size_max)
		return -ENOSPC;
	memcpy(i->data + off, buf, len);
	changed(f, off, len);
	i->size = off + len > i->size ? off + len : i->size;
	return (ssize_t)len;
}

static bool is_shared(const struct name *n)
{
	return n->inode && !strncmp(n->path, FILE_SHARED "/", strlen(FILE_SHARED) + 1);
}

static void put_on_medium(struct name *to, const struct name *from)
{
	struct inode *was = to->inode;

	*to = *from;
	if (to->inode)
		to->inode->kept++;
	if (was) {
		was->kept--;
		forget(was);
	}
}

static void sync_names(void)
{
	static const struct name none;

	for (unsigned i = 0; i < NAMES; i++)
		put_on_medium(&on_medium[i], is_shared(&names[i]) ? &names[i] : &none);
}

int file_sync(struct fd *f)
{
	struct inode *i = inode_of(f);

	if (!i)
		sync_names();
	else
		i->synced_size = i->size;
	for (size_t s = 0; i && s < i->size_max / SECTOR; s++)
		if (i->dirty[s]) {
			memcpy(i->synced + s * SECTOR, i->data + s * SECTOR, SECTOR);
			i->dirty[s] = 0;
		}
	if (i)
		memcpy(i->synced_mark, i->mark, MARK);
	return 0;
}

int file_allocate(struct fd *f, int mode, uint64_t off, uint64_t len)
{
	struct inode *i = inode_of(f);

	if (off + len > i->size_max)
		return -ENOSPC;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
		memset(i->data + off, 0, len);
		changed(f, off, len);
	}
	return 0;
}

int file_lock(struct fd *f, int cmd, struct flock *fl)
{
	const struct handle *h = f->of;
	struct inode *i = h->inode;

	if (cmd == F_OFD_GETLK) {
		fl->l_type = i->locker && i->locker != h ? F_WRLCK : F_UNLCK;
	} else if (fl->l_type == F_UNLCK) {
		if (i->locker == h)
			i->locker = NULL;
	} else if (i->locker && i->locker != h) {
		return -EAGAIN;
	} else {
		i->locker = h;
	}
	return 0;
}

int file_dup(struct fd *f)
{
	struct handle *h = f->of;

	h->copies++;
	return fd_new(&file_ops, h);
}

static bool on_medium_has(const struct name *n)
{
	for (unsigned i = 0; i < NAMES; i++)
		if (on_medium[i].inode == n->inode && !strcmp(on_medium[i].path, n->path))
			return true;
	return false;
}

void file_power_lost(const struct host *h)
{
	char prefix[8];

	snprintf(prefix, sizeof(prefix), "/sim/%c/", h->name);
	for (unsigned n = 0; n < NAMES; n++) {
		struct inode *i = names[n].inode;

		if (!i || (strncmp(names[n].path, prefix, strlen(prefix)) &&
			   strncmp(names[n].path, FILE_DISKS, strlen(FILE_DISKS))))
			continue;
		for (size_t s = 0; s < i->size_max / SECTOR; s++)
			if (i->dirty[s] && rnd_one_in(2))
				memcpy(i->data + s * SECTOR, i->synced + s * SECTOR, SECTOR);
		memset(i->dirty, 0, i->size_max / SECTOR);
		memcpy(i->synced, i->data, i->size_max);
		if (strcmp(i->mark, i->synced_mark) && rnd_one_in(2))
			memcpy(i->mark, i->synced_mark, MARK);
		memcpy(i->synced_mark, i->mark, MARK);
	}
}

/* What was written and closed, but not synced, may be gone, or be there in part. */
static void lose_data(struct inode *i)
{
	if (i->open)
		return; /* whoever has it open writes it again */
	for (size_t s = 0; s < i->size_max / SECTOR; s++)
		if (i->dirty[s] && rnd_one_in(2))
			memcpy(i->data + s * SECTOR, i->synced + s * SECTOR, SECTOR);
	if (i->size != i->synced_size && rnd_one_in(2))
		i->size = i->synced_size;
	memset(i->dirty, 0, i->size_max / SECTOR);
	i->synced_size = i->size;
	memcpy(i->synced, i->data, i->size_max);
}

/* Each name is as it was at the last sync, or as it is: a rename over it is whole. */
static void take_back(const char *path)
{
	struct name *is = find(path), *was = NULL;

	for (unsigned i = 0; i < NAMES && !was; i++)
		if (on_medium[i].inode && !strcmp(on_medium[i].path, path))
			was = &on_medium[i];
	if (is)
		drop(is);
	if (was)
		add(path, was->inode);
}

void file_server_restarts(void)
{
	static struct name before[NAMES];

	memcpy(before, names, sizeof(before));
	for (unsigned i = 0; i < NAMES; i++)
		if (is_shared(&before[i]) && !on_medium_has(&before[i]) && rnd_one_in(2))
			take_back(before[i].path);
	for (unsigned i = 0; i < NAMES; i++)
		if (on_medium[i].inode && !find(on_medium[i].path) && rnd_one_in(2))
			take_back(on_medium[i].path);
	for (unsigned i = 0; i < NAMES; i++)
		if (is_shared(&names[i]))
			lose_data(names[i].inode);
	sync_names();
}

/* --- by descriptor ---------------------------------------------------------------------------- */

static ssize_t file_read(struct fd *f, void *buf, size_t len)
{
	struct handle *h = f->of;
	ssize_t n;

	if (!h->inode)
		return -EISDIR;
	if (!reach(h->dir))
		return -EIO;
	n = file_read_at(f, buf, len, h->pos);
	h->pos += (uint64_t)n;
	return n;
}

static ssize_t file_write(struct fd *f, const struct iovec *iov, int niov)
{
	struct handle *h = f->of;
	ssize_t n;

	if (!reach(h->dir))
		return -EIO;
	n = file_write_at(f, iov->iov_base, iov->iov_len, h->append ? h->inode->size : h->pos);
	h->pos += n > 0 ? (uint64_t)n : 0;
	return n;
}

static void file_close(struct fd *f)
{
	struct handle *h = f->of;

	if (h->copies) {
		h->copies--;
		return;
	}
	if (h->inode) {
		if (h->inode->locker == h)
			h->inode->locker = NULL;
		h->inode->open--;
		forget(h->inode);
	}
	free(h);
}

const struct fd_ops file_ops = {"file", file_read, file_write, NULL, file_close};

ssize_t __wrap_pread(int number, void *buf, size_t len, off_t off)
{
	struct fd *f = fd_of(number, &file_ops);

	if (number < FD_FIRST)
		return REAL(pread)(number, buf, len, off);
	fiber_maybe(8);
	return f ? result(file_read_at(f, buf, len, (uint64_t)off)) : fail(EBADF);
}

off_t __wrap_lseek(int number, off_t off, int whence)
{
	struct fd *f = fd_of(number, &file_ops);
	off_t end = f && inode_of(f) ? (off_t)inode_of(f)->size : 0, at;

	if (number < FD_FIRST && memory_seek(number, off, whence, &at))
		return at;
	if (number < FD_FIRST)
		return REAL(lseek)(number, off, whence);
	if (whence == SEEK_END)
		return end + off;
	if (whence == SEEK_DATA) /* zeros are holes */
		while (off < end && !inode_of(f)->data[off])
			off++;
	if (whence == SEEK_DATA)
		return off < end ? off : fail(ENXIO);
	return whence == SEEK_HOLE ? end : off;
}

int __wrap_ftruncate(int number, off_t len)
{
	struct fd *f = fd_of(number, &file_ops);
	struct inode *i = f ? inode_of(f) : NULL;
	int r;

	if (number < FD_FIRST && memory_truncate(number, len, &r))
		return r;
	if (number < FD_FIRST)
		return REAL(ftruncate)(number, len);
	if (!i || (size_t)len > i->size_max)
		return fail(EINVAL);
	if ((size_t)len < i->size) {
		memset(i->data + len, 0, i->size - (size_t)len);
		memset(i->dirty + len / SECTOR, 1, (i->size_max - (size_t)len) / SECTOR);
	}
	i->size = (size_t)len;
	return 0;
}

int __wrap_fallocate(int number, int mode, off_t off, off_t len)
{
	struct fd *f = fd_of(number, &file_ops);

	if (number < FD_FIRST)
		return REAL(fallocate)(number, mode, off, len);
	return (int)result(file_allocate(f, mode, (uint64_t)off, (uint64_t)len));
}

ssize_t __wrap_getxattr(const char *path, const char *name, void *value, size_t size)
{
	struct name *n = find(path);

	if (!n)
		return fail(ENOENT);
	if (!n->inode->mark[0])
		return fail(ENODATA);
	return snprintf(value, size, "%s", n->inode->mark);
}

int __wrap_fsetxattr(int number, const char *name, const void *value, size_t size, int flags)
{
	struct fd *f = fd_of(number, &file_ops);
	struct inode *i = f ? inode_of(f) : NULL;

	if (!i || size >= MARK)
		return fail(EINVAL);
	memset(i->mark, 0, MARK);
	memcpy(i->mark, value, size);
	return 0;
}

int __wrap_fremovexattr(int number, const char *name)
{
	return __wrap_fsetxattr(number, name, "", 0, 0);
}

static int sync_number(int number)
{
	struct fd *f = fd_of(number, &file_ops);

	if (!f)
		return fail(EBADF);
	if (!reach(((struct handle *)f->of)->dir))
		return fail(EIO);
	return file_sync(f);
}

int __wrap_fsync(int number)
{
	return sync_number(number);
}

int __wrap_fdatasync(int number)
{
	return sync_number(number);
}

/* --- listings --------------------------------------------------------------------------------- */

DIR *__wrap_opendir(const char *path)
{
	int fd = open_path(path, O_RDONLY);
	struct folder *d;

	if (fd < 0)
		return NULL;
	d = calloc(1, sizeof(*d));
	d->fd = fd;
	return (DIR *)d;
}

int __wrap_dirfd(DIR *dir)
{
	return ((struct folder *)dir)->fd;
}

struct dirent *__wrap_readdir(DIR *dir)
{
	struct folder *d = (struct folder *)dir;
	const char *path = ((struct handle *)fd_find(d->fd)->of)->dir;
	size_t n = strlen(path);

	while (d->next < NAMES) {
		const struct name *e = &names[d->next++];

		if (!e->inode || strncmp(e->path, path, n) || e->path[n] != '/')
			continue;
		snprintf(d->ent.d_name, sizeof(d->ent.d_name), "%s", e->path + n + 1);
		return &d->ent;
	}
	return NULL;
}

void __wrap_rewinddir(DIR *dir)
{
	((struct folder *)dir)->next = 0;
}

int __wrap_closedir(DIR *dir)
{
	struct folder *d = (struct folder *)dir;

	__wrap_close(d->fd);
	free(d);
	return 0;
}
