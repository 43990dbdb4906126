/* The way to a peer: connect, HELLO, heartbeat link, first sync. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/steps.h"
#include "ft/role/primary_do.h"
#include "vmm/base/log.h"
#include "vmm/machine/fdt.h"

#define BACK_OFF 6u	       /* times that the time doubles: up to 32 s */
#define TOLD_NS	 2000000000ull /* a shorter time is not worth a word */

void primary_look(void *arg)
{
	struct primary *p = arg;

	if (p->ft->cfg->ft == FT_MODE_OFF) {
		primary_post(p, PRI_EV_OFF);
		return;
	}
	if (!p->ft->cfg->npeers)
		return;
	/*
	 * A sync would read old blocks, and let go the guest's requests that wait for the new. And
	 * a snapshot that is being written has the dirty log.
	 */
	if (p->ft->images_behind || p->vm->kvm.tracked)
		primary_timer(p, PRIMARY_RETRY_NS);
	else
		primary_post(p, PRI_EV_TRY);
}

void primary_try_peer(void *arg)
{
	struct primary *p = arg;

	primary_timer(p, PRIMARY_CONNECT_NS);
	link_try_next(p->link);
	memcpy(p->ft->peer, p->link->peer, sizeof(p->ft->peer));
}

static int make_hello(const struct primary *p, struct wire_hello *h, uint8_t *fdt)
{
	const struct config *cfg = p->ft->cfg;
	int r = fdt_build(&p->vm->machine, fdt, FDT_MAX_BYTES, NULL);

	*h = (struct wire_hello){.generation = p->ft->generation,
				 .sums = 1,
				 .heartbeat_ns = cfg->heartbeat_ns,
				 .peer_timeout_ns = cfg->peer_timeout_ns,
				 .disklog_bytes = cfg->disklog_bytes,
				 .verify = cfg->verify,
				 .fdt_bytes = r > 0 ? r : 0,
				 .shared_arbiter = arbiter_is_shared(p->ft->arbiter)};
	return r;
}

void primary_hello_on(const struct primary *p, struct link *l, uint64_t token)
{
	uint8_t *fdt = malloc(FDT_MAX_BYTES);
	struct wire_hello h;
	int r = fdt ? make_hello(p, &h, fdt) : -ENOMEM;
	struct iovec iov[2] = {{&h, sizeof(h)}, {fdt, r > 0 ? r : 0}};

	h.token = token;
	link_begin_main(l, r > 0 ? iov : NULL, 2);
	free(fdt);
	step_reached(STEP_HELLO_SENT);
}

void primary_say_hello(void *arg)
{
	struct primary *p = arg;

	primary_timer(p, PRIMARY_HANDSHAKE_NS);
	/* A snapshot that was begun since primary_look(): the peer is to leave its images. */
	if (p->vm->kvm.tracked)
		link_begin_main(p->link, NULL, 0);
	else
		primary_hello_on(p, p->link, 0);
}

void primary_welcomed(void *arg)
{
	struct primary *p = arg;

	link_try_heart(p->link);
}

void primary_begin_sync(void *arg)
{
	struct primary *p = arg;
	struct err e = {0};

	loop_timer_del(p->ft->loop, &p->timer_op);
	link_begin_heart(p->link);
	ft_set(p->ft, FT_HERE, FT_SYNCING, NULL);
	if (p->link->state != LINK_UP ||
	    !engine_start(&p->engine, &p->link->main, p->link->kept, &e))
		return;
	log_error("%s", e.msg);
	link_break(p->link, e.msg);
}

void primary_too_late(void *arg)
{
	static const char *const why[PRI_STATE_MAX] = {
		[PRI_CONNECTING] = "no answer in time",
		[PRI_HELLO] = "connected, but no answer in time; is that a --secondary?",
		[PRI_HEART] = "no answer in time",
		[PRI_FLIGHT] = "no acknowledgement in time",
		[PRI_OFF_DUE] = "no acknowledgement in time",
		[PRI_OFF_LAST] = "no acknowledgement in time",
		[PRI_DISMISS] = "ft=off: it did not say in time that it will not take over",
		[PRI_DISMISS_STOP] = "ft=off: it did not say in time that it will not take over",
		[PRI_MOVE_DUE] = "no acknowledgement in time",
		[PRI_MOVE] = "no acknowledgement in time",
		[PRI_KEEP_FLIGHT] = "no acknowledgement in time",
		[PRI_MOVE_NEW] = "no acknowledgement in time",
		[PRI_ASKED_FLIGHT] = "no acknowledgement in time",
		[PRI_STOP_DUE] = "no acknowledgement in time",
		[PRI_STOP] = "no acknowledgement in time",
		[PRI_HAND_DUE] = "no acknowledgement in time",
		[PRI_HAND] = "no acknowledgement in time",
		[PRI_BYE] = "its images did not take all of the disk writes in time",
		[PRI_HANDED] = "failover: it did not claim the VM and run it in time",
		[PRI_HANDED_STOP] = "failover: it did not claim the VM and run it in time",
	};
	struct primary *p = arg;

	link_break_after_reading(p->link, why[p->fsm.state]);
}

/*
 * Never in step: nobody but this side can run the VM. failed: first syncs of this peer in a row.
 * The one that is tried next may be another, and has its own count.
 */
static void alone(struct primary *p, bool connecting, enum ft_cover cover, unsigned failed)
{
	unsigned next = link_next(p->link), n = next == p->link->at ? failed : p->unsynced[next];
	uint64_t retry_ns = PRIMARY_RETRY_NS << (n ? n - 1 : 0);
	char note[480];
	size_t len;

	link_note_trouble(p->link, connecting, note, sizeof(note));
	len = strlen(note);
	if (retry_ns >= TOLD_NS)
		snprintf(note + len, sizeof(note) - len, "; next try in %llu s",
			 (unsigned long long)(retry_ns / 1000000000));
	step_reached(STEP_PEER_LOST);
	primary_close(p);
	/* A peer is looked for before this side has claimed the VM. */
	ft_set(p->ft, p->ft->life, cover, note);
	primary_timer(p, retry_ns);
}

void primary_unreached(void *arg)
{
	struct primary *p = arg;

	alone(p, true, p->ft->cover, 0);
}

void primary_missed(void *arg)
{
	struct primary *p = arg;

	alone(p, false, p->ft->cover, 0);
}

/* A secondary whose image fails would be synced for ever, at the cost of both hosts. */
void primary_unsynced(void *arg)
{
	struct primary *p = arg;
	unsigned *n = &p->unsynced[p->link->at];

	*n += *n <= BACK_OFF;
	alone(p, false, FT_UNPROTECTED, *n);
}
