#define _GNU_SOURCE
#include "devices/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/log.h"

#define SECTOR 512u
/* Operations of one disk at the kernel; the loop's slots are shared by all disks. */
#define MAX_INFLIGHT 128u
#define LOCK_TRIES   50
#define LOCK_WAIT_MS 10
#define ZERO_CHUNK   32768u
/* One read or write call moves less than 2 GiB. */
#define MAX_CHUNK (1u << 30)

static const uint8_t zeros[ZERO_CHUNK] __attribute__((aligned(4096)));

const char *disk_op_name(enum disk_op op)
{
	static const char *const name[] = {
		[DISK_READ] = "read", [DISK_WRITE] = "write",	  [DISK_FLUSH] = "flush",
		[DISK_ZERO] = "zero", [DISK_DISCARD] = "discard",
	};

	return (unsigned)op < sizeof(name) / sizeof(name[0]) ? name[op] : "?";
}

static const char part_text[] = "ftvmm: a part of an image, of a migration that did not end\n";

void disk_part_fill(uint8_t *sector)
{
	memset(sector, 0, DISK_PART_BYTES);
	memcpy(sector, part_text, sizeof(part_text));
}

bool disk_is_part(const struct disk *d)
{
	uint8_t sector[DISK_PART_BYTES] __attribute__((aligned(4096)));

	return pread(d->fd, sector, sizeof(sector), 0) >= (ssize_t)sizeof(part_text) &&
	       !memcmp(sector, part_text, sizeof(part_text));
}

static struct flock lock_of(const struct disk *d)
{
	return (struct flock){.l_type = d->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
}

/* Of the open file, not of the process: it goes away with the last fd, on kill too. */
static int try_lock(const struct disk *d)
{
	struct flock fl = lock_of(d);

	if (fcntl(d->fd, F_OFD_SETLK, &fl) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

static int not_locked(const struct disk *d, int r, const char *path, struct err *e)
{
	if (r != -EAGAIN)
		return err_set(e, r, "disk %s: lock of %s: %s", d->id, path, strerror(-r));
	return err_set(e, -EBUSY,
		       "disk %s: %s is in use by another process (see `lslocks`); stop that one, "
		       "or give this VM an image of its own",
		       d->id, path);
}

static int try_image(const struct disk *d, const char *path, struct err *e)
{
	struct flock fl = lock_of(d);
	int r = fcntl(d->fd, F_OFD_GETLK, &fl) < 0 ? -errno : fl.l_type == F_UNLCK ? 0 : -EAGAIN;

	return r ? not_locked(d, r, path, e) : 0;
}

static int lock_image(struct disk *d, const char *path, struct err *e)
{
	int r = try_lock(d);

	/* The kernel may be finishing the requests of one that was killed a moment ago. */
	for (int i = 1; i < LOCK_TRIES && r == -EAGAIN; i++) {
		poll(NULL, 0, LOCK_WAIT_MS);
		r = try_lock(d);
	}
	return r ? not_locked(d, r, path, e) : 0;
}

/* What the page cache has of a block device may be older than what another host wrote. */
int disk_lock(struct disk *d, struct err *e)
{
	struct stat st;
	int r = try_lock(d);

	if (r)
		return not_locked(d, r, "the image", e);
	if (fstat(d->fd, &st) == 0 && S_ISBLK(st.st_mode) && ioctl(d->fd, BLKFLSBUF, 0) < 0)
		log_warn("disk %s: the host's cache of it cannot be emptied: %s", d->id,
			 strerror(errno));
	return 0;
}

void disk_unlock(struct disk *d)
{
	struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (fcntl(d->fd, F_OFD_SETLK, &fl) < 0)
		log_warn("disk %s: the lock stays: %s", d->id, strerror(errno));
}

bool disk_is_elsewhere(const struct disk *d)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(d->fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

static int measure(struct disk *d, const char *path, struct err *e)
{
	struct stat st;
	off_t end;
	int r;

	if (fstat(d->fd, &st) < 0)
		return err_sys(e, "disk %s: %s", d->id, path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, -EINVAL, "disk %s: %s is neither a file nor a block device",
			       d->id, path);
	end = lseek(d->fd, 0, SEEK_END);
	if (end < 0)
		return err_sys(e, "disk %s: size of %s", d->id, path);
	if (end % SECTOR)
		return err_set(
			e, -EINVAL,
			"disk %s: %s has %lld bytes, which is no multiple of 512; is it a raw "
			"image? (truncate -s makes it longer)",
			d->id, path, (long long)end);
	d->bytes = (uint64_t)end;
	r = disk_block_of(d->fd, d->direct, path, &d->block, e);
	return r ? err_wrap(e, "disk %s", d->id) : 0;
}

int disk_serves(const struct disk *d, uint32_t block, struct err *e)
{
	if (d->block.align > block)
		return err_set(e, -EINVAL,
			       "disk %s: the image takes requests of %u bytes with 'direct', the "
			       "guest's blocks have %u; leave 'direct' out, use another file "
			       "system or device, or, if what is in the image was made for such "
			       "blocks, give block=%u where the guest is started",
			       d->id, d->block.align, block, d->block.align);
	return 0;
}

static void run_queue(struct disk *d);

/* A turn at the queue: what may go out now, or the rest. */
static bool go_on(struct loop_work *w)
{
	run_queue(w->arg);
	return false;
}

int disk_open(struct disk *d, struct loop *l, const char *id, const char *path, int flags,
	      struct err *e)
{
	int oflags = O_CLOEXEC | (flags & DISK_OPEN_RO ? O_RDONLY : O_RDWR);
	int r;

	memset(d, 0, sizeof(*d));
	snprintf(d->id, sizeof(d->id), "%s", id);
	d->loop = l;
	d->queue_tail = &d->queue;
	d->work = (struct loop_work){.fn = go_on, .arg = d};
	d->readonly = flags & DISK_OPEN_RO;
	d->direct = flags & DISK_OPEN_DIRECT;
	if (d->direct)
		oflags |= O_DIRECT;
	d->sync = flags & DISK_OPEN_SYNC;
	if (d->sync)
		oflags |= O_DSYNC;
	if ((flags & DISK_OPEN_CREATE) && !(flags & DISK_OPEN_TRY) && !d->readonly)
		oflags |= O_CREAT;
	d->fd = open(path, oflags, 0600);
	if (d->fd < 0 && d->direct) {
		disk_block_no_direct(path, -errno, e);
		return err_wrap(e, "disk %s", id);
	}
	if (d->fd < 0)
		return err_sys(e, "disk %s: cannot open %s", id, path);
	r = flags & DISK_OPEN_UNLOCKED ? 0
	    : flags & DISK_OPEN_TRY    ? try_image(d, path, e)
				       : lock_image(d, path, e);
	if (!r)
		r = measure(d, path, e);
	if (!r && !d->bytes && !(flags & DISK_OPEN_CREATE))
		r = err_set(e, -EINVAL, "disk %s: %s is empty", id, path);
	if (!r && !(flags & (DISK_OPEN_CREATE | DISK_OPEN_UNLOCKED)) && disk_is_part(d))
		r = err_set(e, -EINVAL,
			    "disk %s: %s is a part of an image: a migration that was to bring it "
			    "did not end; migrate to it again, give another image, or, to use it "
			    "as it is, clear the mark: dd if=/dev/zero of=IMAGE bs=%u count=1 "
			    "conv=notrunc",
			    id, path, DISK_PART_BYTES);
	if (r)
		disk_close(d);
	return r;
}

void disk_alias(struct disk *alias, const struct disk *d)
{
	*alias = *d;
	alias->hook = (struct disk_hook){0};
	alias->layer = NULL;
	alias->failed = NULL;
	alias->told = NULL;
	alias->inflight = 0;
	alias->held = false;
	alias->drained = NULL;
	alias->ranges = NULL;
	alias->queue = NULL;
	alias->queue_tail = &alias->queue;
	alias->work = (struct loop_work){.fn = go_on, .arg = alias};
}

/* They never went out. */
static void give_up_queue(struct disk *d)
{
	struct disk_req *r = d->queue;

	d->queue = NULL;
	d->queue_tail = &d->queue;
	while (r) {
		struct disk_req *next = r->next;

		r->done(r, -ECANCELED);
		r = next;
	}
}

void disk_close(struct disk *d)
{
	/* The medium may be stuck: the kernel keeps the file and the owners keep the buffers. */
	if (d->inflight)
		log_warn("disk %s: closed with %u requests under way", d->id, d->inflight);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	if (d->loop)
		loop_work_del(d->loop, &d->work);
	give_up_queue(d);
}

int disk_resize(struct disk *d, uint64_t bytes, struct err *e)
{
	if (d->bytes == bytes)
		return 0;
	if (d->bytes)
		return err_set(
			e, -EINVAL,
			"disk %s: the image has %llu bytes, %llu are needed; give an image of "
			"that size, or a new file",
			d->id, (unsigned long long)d->bytes, (unsigned long long)bytes);
	if (!bytes || bytes % SECTOR || bytes > INT64_MAX)
		return err_set(e, -EINVAL, "disk %s: a size of %llu bytes is not possible", d->id,
			       (unsigned long long)bytes);
	if (ftruncate(d->fd, (off_t)bytes) < 0)
		return err_sys(e, "disk %s: cannot make it %llu bytes long", d->id,
			       (unsigned long long)bytes);
	d->bytes = bytes;
	return 0;
}

static int check(const struct disk *d, const struct disk_req *r)
{
	if (r->kind == DISK_FLUSH)
		return 0;
	if (r->kind > DISK_DISCARD || !r->len || r->len % d->block.align || r->off % d->block.align)
		return -EINVAL;
	if (r->off > d->bytes || r->len > d->bytes - r->off)
		return -ERANGE;
	if (r->kind != DISK_READ && d->readonly)
		return -EROFS;
	return 0;
}

static bool is_change(const struct disk_req *r)
{
	return r->kind != DISK_READ && r->kind != DISK_FLUSH;
}

static bool overlap(const struct disk_req *a, const struct disk_req *b)
{
	return a->off >= b->off ? a->off - b->off < b->len : b->off - a->off < a->len;
}

/* Does r, not checked yet, touch sectors that are being changed, or change some in use? */
static bool must_wait(const struct disk *d, const struct disk_req *r)
{
	if (r->kind == DISK_FLUSH)
		return false;
#ifdef BUG_READ_PASSES /* planted: a read does not wait for a change that does */
	if (r->kind == DISK_READ)
		return false;
#endif
	for (const struct disk_req *c = d->ranges; c; c = c->next) {
		if (c != r && (is_change(c) || is_change(r)) && overlap(r, c))
			return true;
	}
	return false;
}

static void add_range(struct disk *d, struct disk_req *r)
{
	r->next = d->ranges;
	d->ranges = r;
}

static void del_range(struct disk *d, struct disk_req *r)
{
	struct disk_req **at = &d->ranges;

	while (*at && *at != r)
		at = &(*at)->next;
	if (*at)
		*at = r->next;
}

static void run_queue_later(struct disk *d)
{
	if (d->queue && !d->held)
		loop_work_add(d->loop, &d->work);
}

static void tell_drained(struct disk *d)
{
	void (*fn)(void *arg) = d->drained;

	if (d->inflight || !fn)
		return;
	d->drained = NULL;
	fn(d->drained_arg);
}

/* Give r back to its owner, who may reuse it at once, and have the next ones started. */
static void give_back(struct disk_req *r, int res)
{
	struct disk *d = r->disk;

	d->inflight--;
	del_range(d, r);
	r->done(r, res);
	if (d->layer)
		d->layer->ended(d->layer->arg);
	tell_drained(d);
	run_queue_later(d);
}

void disk_settle(struct disk_req *r, int res)
{
	if (r->kind != DISK_READ && r->disk->hook.done)
		r->disk->hook.done(r->disk->hook.arg, r->disk, r, res);
	give_back(r, res);
}

void disk_fail(struct disk_req *r, int res)
{
	const struct disk_hook *h = &r->disk->hook;

	if (r->kind == DISK_READ || res >= 0 || res == -ECANCELED || !h->failed ||
	    !h->failed(h->arg, r->disk, r, res))
		disk_settle(r, res);
}

void disk_end(struct disk_req *r, int res)
{
	const struct disk *d = r->disk;

	if (r->canceled)
		res = -ECANCELED;
	if (res >= 0 || res == -ECANCELED || !d->failed || !d->failed(d->failed_arg, r, res))
		disk_fail(r, res);
}

/* The guest gets it as an error of its disk; whoever runs this host is to know, too. */
static void tell_error(const struct disk_req *r, int res)
{
	struct disk *d = r->disk;

	d->errors++;
	d->error = res;
	d->failing = true;
	if (!log_may(&d->error_told))
		return;
	log_error("disk %s: %s of %u bytes at %llu: %s; %llu such errors so far", d->id,
		  disk_op_name(r->kind), r->len, (unsigned long long)r->off, strerror(-res),
		  (unsigned long long)d->errors);
	if (d->told)
		d->told(d->told_arg, d, r, res);
}

static void finish(struct disk_req *r, int res)
{
	const struct disk_layer *layer = r->disk->layer;

	if (res < 0 && !r->canceled)
		tell_error(r, res);
	else if (!res)
		r->disk->failing = false;
	if (layer && !r->canceled && layer->more(layer->arg, r, res))
		return;
	disk_end(r, res);
}

static void on_step(struct loop_op *op, int res);
static void sync_holes(struct disk_req *r);

/* Hand the rest of r to the kernel. */
static void step(struct disk_req *r)
{
	struct disk *d = r->disk;
	uint64_t off = r->off + r->pos;
	uint32_t left = r->len - r->pos, chunk = left < MAX_CHUNK ? left : MAX_CHUNK;
	int ret = 0;

	switch (r->kind) {
	case DISK_READ:
		ret = loop_read(d->loop, &r->io, d->fd, r->buf + r->pos, chunk, off);
		break;
	case DISK_WRITE:
		ret = loop_write(d->loop, &r->io, d->fd, r->buf + r->pos, chunk, off);
		break;
	case DISK_FLUSH:
		ret = loop_fdatasync(d->loop, &r->io, d->fd);
		break;
	case DISK_ZERO:
		if (r->how == DISK_HOW_WRITE)
			ret = loop_write(d->loop, &r->io, d->fd, zeros,
					 left < ZERO_CHUNK ? left : ZERO_CHUNK, off);
		else
			ret = loop_fallocate(d->loop, &r->io, d->fd,
					     FALLOC_FL_KEEP_SIZE | (r->how == DISK_HOW_PUNCH
									    ? FALLOC_FL_PUNCH_HOLE
									    : FALLOC_FL_ZERO_RANGE),
					     off, left);
		break;
	case DISK_DISCARD:
		ret = loop_fallocate(d->loop, &r->io, d->fd,
				     FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, off, left);
		break;
	}
	/* MAX_INFLIGHT keeps us below the loop's slots. */
	VMM_BUG_ON(ret < 0);
}

static bool moves_bytes(const struct disk_req *r)
{
	return r->kind == DISK_READ || r->kind == DISK_WRITE ||
	       (r->kind == DISK_ZERO && r->how == DISK_HOW_WRITE);
}

static void on_synced(struct loop_op *op, int res)
{
	struct disk_req *r = op->arg;

	if (res == -EINTR || res == -EAGAIN)
		sync_holes(r);
	else
		finish(r, res < 0 ? res : 0);
}

/* O_DSYNC is of bytes that are written. */
static void sync_holes(struct disk_req *r)
{
	r->io = (struct loop_op){.fn = on_synced, .arg = r};
	VMM_BUG_ON(loop_fdatasync(r->disk->loop, &r->io, r->disk->fd) < 0);
}

static void on_step(struct loop_op *op, int res)
{
	struct disk_req *r = op->arg;
	const struct disk *d = r->disk;

	if (res == -EINTR || res == -EAGAIN) {
		step(r);
		return;
	}
	/* -EINVAL: a block device takes ranges of whole blocks of its own only. */
	if (res == -EOPNOTSUPP || res == -ENOSYS || res == -ENODEV || res == -EINVAL) {
		if (r->kind == DISK_DISCARD) { /* a hint only */
			finish(r, 0);
			return;
		}
		if (r->kind == DISK_ZERO && r->how != DISK_HOW_WRITE) {
			r->how++;
			step(r);
			return;
		}
	}
	if (res < 0 || !moves_bytes(r)) {
		if (res >= 0 && d->sync && is_change(r))
			sync_holes(r);
		else
			finish(r, res < 0 ? res : 0);
		return;
	}
	if (!res) { /* the file shrank behind our back, or the medium is full */
		finish(r, -EIO);
		return;
	}
	r->pos += (uint32_t)res;
	if (r->pos < r->len)
		step(r);
	else
		finish(r, 0);
}

static void on_refused(struct loop_op *op, int res)
{
	struct disk_req *r = op->arg;

	(void)res;
	give_back(r, check(r->disk, r)); /* the hook never saw it */
}

static void start(struct disk *d, struct disk_req *r)
{
	int refused = check(d, r);

	d->inflight++;
	r->pos = 0;
	r->how = r->sparse ? DISK_HOW_PUNCH : DISK_HOW_ZERO_RANGE;
	r->io = (struct loop_op){.fn = refused ? on_refused : on_step, .arg = r};
	if (refused) {
		VMM_BUG_ON(loop_timer_set(d->loop, &r->io, 0) < 0);
		return;
	}
	if (is_change(r) || (d->layer && r->kind == DISK_READ))
		add_range(d, r);
	if (!d->layer || !d->layer->begin(d->layer->arg, r))
		step(r);
}

static bool layer_holds(struct disk *d, const struct disk_req *r)
{
	return d->layer && !check(d, r) && !d->layer->may(d->layer->arg, r);
}

/* What is refused anyway the hook does not see. */
static bool hook_holds(struct disk *d, const struct disk_req *r)
{
	return r->kind != DISK_READ && d->hook.submit && !check(d, r) &&
	       d->hook.submit(d->hook.arg, d, r) == DISK_HOLD;
}

/* Each is copied by the hook, and perhaps served by the kernel as it is handed over. */
static void run_queue(struct disk *d)
{
	while (d->queue && !d->held && d->inflight < MAX_INFLIGHT && !must_wait(d, d->queue)) {
		struct disk_req *r = d->queue;

		if (layer_holds(d, r))
			return;
		if (hook_holds(d, r)) {
			d->held = true;
			return;
		}
		d->queue = r->next;
		if (!d->queue)
			d->queue_tail = &d->queue;
		r->next = NULL;
		start(d, r);
		if (loop_should_yield(d->loop)) {
			run_queue_later(d);
			return;
		}
	}
}

void disk_submit(struct disk *d, struct disk_req *r)
{
	r->disk = d;
	r->next = NULL;
	r->canceled = false;
	*d->queue_tail = r;
	d->queue_tail = &r->next;
	run_queue(d);
}

void disk_hold(struct disk *d, bool hold)
{
	d->held = hold;
	if (!hold)
		d->drained = NULL;
	run_queue(d);
}

void disk_drain(struct disk *d, void (*fn)(void *arg), void *arg)
{
	d->held = true;
	d->drained = fn;
	d->drained_arg = arg;
	tell_drained(d);
}

void disk_cancel(struct disk *d)
{
	for (struct disk_req *r = d->ranges; r; r = r->next)
		r->canceled = true;
	give_up_queue(d);
}

static void on_end(struct loop_op *op, int res)
{
	struct disk_req *r = op->arg;

	disk_end(r, r->res);
}

void disk_end_later(struct disk_req *r, int res)
{
	r->res = res;
	r->io = (struct loop_op){.fn = on_end, .arg = r};
	VMM_BUG_ON(loop_timer_set(r->disk->loop, &r->io, 0) < 0);
}

void disk_below(struct disk_req *r)
{
	r->pos = 0;
	r->io = (struct loop_op){.fn = on_step, .arg = r};
	step(r);
}

void disk_go_on(struct disk *d)
{
	run_queue_later(d);
}

void disk_enter(struct disk *d, struct disk_req *r)
{
	r->disk = d;
	r->canceled = false;
	add_range(d, r);
}

bool disk_is_alone(const struct disk *d, const struct disk_req *r)
{
	return !must_wait(d, r);
}

void disk_leave(struct disk *d, struct disk_req *r)
{
	del_range(d, r);
	run_queue_later(d);
}
