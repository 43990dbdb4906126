/* Connect, offer the VM, send memory while the guest runs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/steps.h"
#include "postcopy/source_do.h"
#include "vmm/base/log.h"
#include "vmm/machine/fdt.h"

#define CONNECT_NS 5000000000ull
#define OFFER_NS   10000000000ull /* the destination builds a VM in this time */
#define LINK_MS	   10000	  /* TCP_USER_TIMEOUT */

void source_connect(void *arg)
{
	struct source *s = arg;

	log_info("migrate: to %s", s->conf.uri);
	snprintf(s->ft->peer, sizeof(s->ft->peer), "%s", s->conf.uri);
	ft_set(s->ft, FT_HERE, FT_MIGRATING, NULL);
	source_set_result(s, SOURCE_ACTIVE);
	source_timer(s, CONNECT_NS);
	source_dial(s);
}

void source_offer(void *arg)
{
	struct source *s = arg;
	struct wire_image images[MACHINE_MAX_DEVS];
	uint8_t *fdt = malloc(FDT_MAX_BYTES);
	struct err e = {0};
	int len = fdt ? fdt_build(&s->vm->machine, fdt, FDT_MAX_BYTES, &e)
		      : err_set(&e, -ENOMEM, "out of memory");
	struct wire_offer offer = {.mode = s->conf.how == MIGRATE_HOW_PRECOPY ? MIGRATE_PRECOPY
									      : MIGRATE_POSTCOPY,
				   .fdt_bytes = len > 0 ? len : 0,
				   .nimages = s->conf.copy_disks ? copies_list(s->vm, images) : 0};
	struct iovec iov[3] = {{&offer, sizeof(offer)},
			       {images, offer.nimages * sizeof(images[0])},
			       {fdt, offer.fdt_bytes}};

	s->offered = 0;
	for (unsigned i = 0; i < offer.nimages; i++)
		s->offered |= 1ull << images[i].disk;
	source_timer(s, OFFER_NS);
	if (len < 0)
		source_lose(s, e.msg);
	else
		source_open_link(s, FRAME_OFFER, iov, 3);
	if (s->link.fd >= 0)
		chan_set_options(s->link.fd, LINK_MS);
	free(fdt);
	step_reached(STEP_MIG_OFFERED);
}

bool source_take_welcome(struct source *s, const struct frame *f)
{
	struct wire_welcome w = {0};

	if (f->length && f->length != sizeof(w))
		return false;
	memcpy(&w, f->data, f->length);
	if (w.copied & ~s->offered)
		return false;
	s->copies.which = (uint32_t)w.copied;
	return true;
}

/* The urgent link, unless nothing is ever sent after the switch. */
void source_pair(void *arg)
{
	struct source *s = arg;

	source_timer(s, CONNECT_NS);
	if (s->conf.how == MIGRATE_HOW_PRECOPY)
		source_post(s, SRC_EV_PAIRED);
	else
		source_dial(s);
}

/* The frame without pages says which migration it belongs to; the answer comes on the main link. */
void source_open_urgent(void *arg)
{
	uint64_t deadline = loop_now_ns() + 1000000000ull;
	struct source *s = arg;
	struct chan c = dial_take(&s->dial);

	stream_init_on(&s->pair, &c, STREAM_URGENT, s->session);
	chan_set_options(s->pair.fd, LINK_MS);
	if (stream_send_preface(&s->pair, deadline) ||
	    stream_send(&s->pair, FRAME_PAGES, 0, NULL, 0, deadline))
		source_lose(s, "urgent link: handshake failed");
	step_reached(STEP_MIG_PAIRED);
}

static void list_images(struct source *s)
{
	struct vm *vm = s->vm;

	s->passes.nfds = 0;
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == MDEV_BLK && !vm->machine.devs[i].readonly &&
		    !copies_has(s->copies.which, i))
			s->passes.fds[s->passes.nfds++] = vm->devices.disks[i].fd;
}

static int begin(struct source *s, struct err *e)
{
	struct passes *p = &s->passes;
	int fd = p->notify_fd, r;

	*p = (struct passes){.dirty = &s->dirty,
			     .copies = &s->copies,
			     .stream = &s->link,
			     .conf = &s->conf,
			     .notify_fd = fd};
	p->stats.disk_total = copies_bytes(s->vm, s->copies.which);
	list_images(s);
	p->lazy = !s->conf.passes;
	p->lazy_from_ns = s->at.begun + s->conf.timeout_ns / 2;
	if (s->conf.how != MIGRATE_HOW_PRECOPY) {
		p->sent = calloc((s->vm->mem.npages + 63) / 64, sizeof(*p->sent));
		if (!p->sent)
			return err_set(e, -ENOMEM, "migration: out of memory");
	}
	s->dirty.mem = &s->vm->mem;
	r = copies_watch(&s->copies, s->vm, s->copies.which, e);
	if (!r && s->conf.passes)
		r = dirty_start(&s->dirty, &s->vm->kvm, &s->vm->mem, e);
	if (!r)
		r = passes_init(p, e);
	return r ? r : passes_start(p, PASSES_LIVE, e);
}

void source_begin_passes(void *arg)
{
	struct source *s = arg;
	struct err e = {0};

	loop_timer_del(s->ft->loop, &s->timer_op);
	s->at.passes = loop_now_ns();
	for (unsigned i = 0; i < s->vm->machine.ndevs; i++)
		if (copies_has(s->copies.which, i))
			log_info("migrate: disk '%s' is copied: %llu MiB",
				 s->vm->machine.devs[i].id,
				 (unsigned long long)(s->vm->machine.devs[i].bytes >> 20));
	if (!begin(s, &e))
		return;
	snprintf(s->why, sizeof(s->why), "%s", e.msg);
	source_post(s, SRC_EV_FAILED);
}
