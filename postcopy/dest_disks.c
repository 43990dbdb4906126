/*
 * Images that are copied to here. From WELCOME to SWITCH each begins with a text that says so, and
 * that nobody boots: its first block comes last. What waits for the images is bounded: when it is
 * too much the link is not read.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "postcopy/dest_do.h"
#include "vmm/base/log.h"

#define QUEUE_HIGH (32u << 20)
#define QUEUE_LOW  (24u << 20)	   /* soon: the source waits at its link for so long */
#define HANGS_NS   120000000000ull /* so long does the source wait there */

/* --- they move -------------------------------------------------------------------------------- */

static void failed(struct dest *d)
{
	char why[120];

	snprintf(why, sizeof(why), "an image that is copied to cannot be written: %s",
		 strerror(-d->images.error));
	if (d->fsm.state != DST_LOADING) {
		dest_reject(d, why);
		return;
	}
	snprintf(d->why, sizeof(d->why), "%s", why);
	dest_post(d, DST_EV_NOT_LOADED);
}

static void moved(void *arg)
{
	struct dest *d = arg;

	if (d->fsm.state != DST_RECEIVING && d->fsm.state != DST_LOADING)
		return;
	if (d->images.error) {
		failed(d);
		return;
	}
	if (diskapply_idle(&d->images) && d->written_asked) {
		d->written_asked = false;
		if (dest_say(d, FRAME_DONE, NULL, 0))
			dest_lose(d, "source: connection broken");
	}
	if (diskapply_idle(&d->images) && d->fsm.state == DST_LOADING) {
		d->stats.lock_ns = loop_now_ns() - d->switch_ns;
		dest_post(d, DST_EV_WRITTEN);
	}
	if (d->read_stopped && d->images.queue.bytes < QUEUE_LOW && dest_has_link(d)) {
		d->read_stopped = false;
		d->heard_ns = loop_now_ns();
		dest_listen_to_link(d);
	}
}

uint64_t dest_disks_patience(const struct dest *d)
{
	return d->read_stopped ? HANGS_NS : DEST_SILENT_NS;
}

bool dest_disks_full(const struct dest *d)
{
	return d->copied && d->images.queue.bytes > QUEUE_HIGH;
}

/* --- from the offer on ------------------------------------------------------------------------ */

/* What is there is void, and says so, before any of it is overwritten. */
static int mark(struct dest *d)
{
	struct disk_writes list = {0};
	uint8_t text[DISK_PART_BYTES];
	int r = 0;

	disk_part_fill(text);
	for (uint32_t i = 0; i < d->vm->machine.ndevs && !r; i++) {
		uint64_t bytes = d->vm->machine.devs[i].bytes;
		uint32_t len = bytes < sizeof(text) ? (uint32_t)bytes : sizeof(text);
		struct wire_disk w = {.disk = i, .kind = DISK_WRITE, .len = len, .data = len};

		if (copies_has(d->copied, i))
			r = disk_writes_add(&list, &w, text);
	}
	diskapply_push(&d->images, &list);
	return r;
}

static void tell(const struct dest *d, const char *what)
{
	for (unsigned i = 0; i < d->vm->machine.ndevs; i++)
		if (copies_has(d->copied, i))
			log_info("migration: disk '%s': %s", d->vm->machine.devs[i].id, what);
}

int dest_disks_open(struct dest *d, struct err *e)
{
	int r;

	if (!d->copied)
		return 0;
	r = diskapply_init(&d->images, &d->vm->machine, d->vm->devices.disks, moved, d);
	d->images.which = d->copied;
	d->images.sparse = true;
	if (!r)
		r = mark(d);
	if (!r)
		r = diskapply_flush(&d->images);
	if (r)
		return err_set(e, r, "migration: images: %s", strerror(-r));
	tell(d, "the image comes, too; what is here is overwritten");
	return 0;
}

int dest_disks_take(struct dest *d, const struct frame *f, struct err *e)
{
	struct disk_writes list = {0};
	int r = d->copied ? diskapply_parse(&d->images, f->data, f->length, &list, e)
			  : err_set(e, -EBADMSG, "%s where it does not belong",
				    stream_frame_name(f->type));

	if (r)
		return r;
	if (list.head->wire.kind == DISK_FLUSH) {
		d->written_asked = true;
		r = diskapply_flush(&d->images);
	}
	diskapply_push(&d->images, &list);
	return r ? err_set(e, r, "migration: out of memory") : 0;
}

/* --- all of it has come ----------------------------------------------------------------------- */

int dest_disks_end(struct dest *d, struct err *e)
{
	int r = d->copied ? diskapply_flush(&d->images) : 0;

	return r ? err_set(e, r, "migration: out of memory") : 0;
}

bool dest_disks_written(const struct dest *d)
{
	return !d->copied || (diskapply_idle(&d->images) && !d->images.error);
}

void dest_disks_keep(struct dest *d)
{
	if (d->copied)
		diskapply_done(&d->images);
	d->copied = 0;
}

/* With its first block it looks whole, and the guest goes on with the source's. */
static int mark_again(struct dest *d)
{
	uint64_t until = loop_now_ns() + DEST_SILENT_NS;
	int r;

	diskapply_drop(&d->images);
	if (!diskapply_drain_until(&d->images, until))
		return -ETIMEDOUT;
	d->images.error = 0; /* what was is why it is dropped, perhaps */
	r = mark(d);
	if (!r)
		r = diskapply_flush(&d->images);
	if (!diskapply_drain_until(&d->images, until))
		return -ETIMEDOUT;
	return r ? r : d->images.error;
}

void dest_disks_drop(struct dest *d)
{
	bool begun = d->copied && d->images.buf;
	int r;

	d->read_stopped = d->written_asked = false;
	if (begun) {
		r = mark_again(d);
		if (r)
			log_error("migration: an image here may be a part of one and not say so, "
				  "as it cannot be written: %s: do not start it",
				  strerror(-r));
		else
			tell(d, "the image here is a part of one, and is not started");
		diskapply_abandon(&d->images);
	}
	d->copied = 0;
}
