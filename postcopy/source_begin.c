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
	uint8_t *fdt = malloc(FDT_MAX_BYTES);
	struct err e = {0};
	int len = fdt ? fdt_build(&s->vm->machine, fdt, FDT_MAX_BYTES, &e)
		      : err_set(&e, -ENOMEM, "out of memory");
	struct wire_offer offer = {.mode = s->conf.how == MIGRATE_HOW_PRECOPY ? MIGRATE_PRECOPY
									      : MIGRATE_POSTCOPY,
				   .fdt_bytes = len > 0 ? len : 0};
	struct iovec iov[2] = {{&offer, sizeof(offer)}, {fdt, offer.fdt_bytes}};

	source_timer(s, OFFER_NS);
	if (len < 0)
		source_lose(s, e.msg);
	else
		source_open_link(s, FRAME_OFFER, iov, 2);
	if (s->link.fd >= 0)
		chan_set_options(s->link.fd, LINK_MS);
	free(fdt);
	step_reached(STEP_MIG_OFFERED);
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

	stream_init(&s->pair, s->fd, STREAM_URGENT, s->session);
	s->fd = -1;
	chan_set_options(s->pair.fd, LINK_MS);
	if (stream_send_preface(&s->pair, deadline) ||
	    stream_send(&s->pair, FRAME_PAGES, 0, NULL, 0, deadline))
		source_lose(s, "urgent link: handshake failed");
}

static void list_images(struct source *s)
{
	struct vm *vm = s->vm;

	s->passes.nfds = 0;
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == MDEV_BLK && !vm->machine.devs[i].readonly)
			s->passes.fds[s->passes.nfds++] = vm->devices.disks[i].fd;
}

static int begin(struct source *s, struct err *e)
{
	struct passes *p = &s->passes;
	int fd = p->notify_fd, r;

	*p = (struct passes){
		.dirty = &s->dirty, .stream = &s->link, .conf = &s->conf, .notify_fd = fd};
	list_images(s);
	p->lazy = !s->conf.passes;
	p->lazy_from_ns = s->at.begun + s->conf.timeout_ns / 2;
	if (s->conf.how != MIGRATE_HOW_PRECOPY) {
		p->sent = calloc((s->vm->mem.npages + 63) / 64, sizeof(*p->sent));
		if (!p->sent)
			return err_set(e, -ENOMEM, "migration: out of memory");
	}
	s->dirty.mem = &s->vm->mem;
	r = s->conf.passes ? dirty_start(&s->dirty, &s->vm->kvm, &s->vm->mem, e) : 0;
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
	if (!begin(s, &e))
		return;
	snprintf(s->why, sizeof(s->why), "%s", e.msg);
	source_post(s, SRC_EV_FAILED);
}
