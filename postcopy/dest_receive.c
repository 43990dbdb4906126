/* Become the machine that the source offers, and take what it sends. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "postcopy/dest_do.h"
#include "postcopy/images.h"
#include "vmm/base/log.h"
#include "vmm/copy/page_in.h"
#include "vmm/vm/twin.h"
#include "vmm/wire/chan.h"

#define LINK_MS 10000 /* TCP_USER_TIMEOUT */

/* What the offer has behind its head. */
struct offered {
	struct wire_offer head;
	struct wire_image images[MACHINE_MAX_DEVS];
	const uint8_t *fdt;
};

static int check_offer(const struct frame *f, struct offered *o, struct err *e)
{
	struct wire_offer *h = &o->head;
	uint64_t images;

	if (f->length < sizeof(*h))
		return err_set(e, -EBADMSG, "short offer");
	memcpy(h, f->data, sizeof(*h));
	images = h->nimages * (uint64_t)sizeof(o->images[0]);
	if (h->nimages > MACHINE_MAX_DEVS || h->fdt_bytes + images != f->length - sizeof(*h))
		return err_set(e, -EBADMSG, "offer with values out of range");
	if (h->mode != MIGRATE_PRECOPY && h->mode != MIGRATE_POSTCOPY)
		return err_set(e, -EOPNOTSUPP, "mode %u of migration is not known here", h->mode);
	memcpy(o->images, f->data + sizeof(*h), images);
	o->fdt = f->data + sizeof(*h) + images;
	return 0;
}

static int build_vm(struct dest *d, const struct frame *f, struct err *e)
{
	const struct config *cfg = d->ft->cfg;
	struct offered offer;
	struct backends b;
	struct machine m;
	int r = check_offer(f, &offer, e);

	config_to_backends(cfg, &b);
	b.late_locks = true; /* the source has them */
	if (!r)
		r = twin_parse(&m, cfg, offer.fdt, offer.head.fdt_bytes, e);
	if (!r)
		r = vm_create(d->vm, d->ft->loop, &m, &b, e);
	if (r)
		return r;
	d->has_vm = true;
	r = copies_choose(d->vm, offer.images, offer.head.nimages, &d->copied, e);
	if (!r)
		r = images_check_shared(d->vm, d->copied, e);
	if (!r && offer.head.mode == MIGRATE_POSTCOPY)
		r = dest_open_pager(d, e);
	return r ? r : dest_disks_open(d, e);
}

void dest_build(void *arg)
{
	struct dest *d = arg;
	struct wire_welcome welcome;
	struct err e = {0};
	int r = build_vm(d, d->frame, &e);

	welcome.copied = d->copied;
	step_reached(STEP_MIG_BUILT);
	door_take(d->caller, &d->link);
	chan_set_options(d->link.fd, LINK_MS);
	d->session = d->link.session;
	if (!r && dest_say(d, FRAME_WELCOME, &welcome, sizeof(welcome)))
		r = err_set(&e, -EPIPE, "source went away in the handshake");
	if (!r) {
		dest_post(d, DST_EV_BUILT);
		return;
	}
	dest_say(d, FRAME_REFUSE, e.msg, strlen(e.msg));
	dest_listen_again(d, e.msg);
}

void dest_welcome(void *arg)
{
	struct dest *d = arg;

	d->stats = (struct dest_stats){.begun_ns = loop_now_ns()};
	d->stats.disk_total = copies_bytes(d->vm, d->copied);
	d->heard_ns = loop_now_ns();
	snprintf(d->ft->peer, sizeof(d->ft->peer), "%s", d->vm->machine.name);
	log_info("migration: VM '%s' comes in, %llu MiB", d->vm->machine.name,
		 (unsigned long long)(d->vm->mem.bytes >> 20));
	ft_set(d->ft, FT_ELSEWHERE, FT_MIGRATING, NULL);
	dest_timer(d, DEST_SILENT_NS);
	dest_listen_to_link(d);
}

void dest_take_part(void *arg)
{
	struct dest *d = arg;
	const struct frame *f = d->frame;
	struct err e = {0};
	int r;

	d->stats.frames++;
	if (f->type == FRAME_DISK)
		d->stats.disk_bytes += f->length;
	else
		d->stats.bytes += f->length;
	if (d->has_state && d->fsm.state == DST_RECEIVING)
		r = err_set(&e, -EBADMSG, "%s behind the state", stream_frame_name(f->type));
	else if (d->pager.mem && d->pager.got_eos) /* no thread fills what the last one ends */
		r = err_set(&e, -EBADMSG, "%s behind the end", stream_frame_name(f->type));
	else if (f->type == FRAME_DISK)
		r = dest_disks_take(d, f, &e);
	else if (f->type != FRAME_STATE && d->pager.mem)
		r = pager_take(&d->pager, f, &e);
	else if (f->type == FRAME_PAGES)
		r = page_in_now(&d->vm->mem, f, &e);
	else if (f->type != FRAME_STATE || d->has_state)
		r = err_set(&e, -EBADMSG, "%s where it does not belong",
			    stream_frame_name(f->type));
	else
		r = vm_decode(d->vm, f->data, f->length, &e);
	d->has_state = d->has_state || (!r && f->type == FRAME_STATE);
	step_reached(d->fsm.state == DST_FILL ? STEP_MIG_FILLED : STEP_MIG_TAKEN);
	if (r)
		dest_reject(d, e.msg);
	else
		dest_look_whether_complete(d);
}

/* Of a source that froze, or a link or an image that takes nothing and does not end. */
void dest_silent(void *arg)
{
	struct dest *d = arg;
	const char *why = dest_disks_written(d) ? "source: nothing came in time"
						: "an image that is copied to takes too long";

	dest_say(d, FRAME_REFUSE, why, strlen(why));
	dest_listen_again(d, why);
}

void dest_drop(void *arg)
{
	struct dest *d = arg;
	char why[sizeof(d->why)];

	memcpy(why, d->why, sizeof(why));
	dest_listen_again(d, why);
}
