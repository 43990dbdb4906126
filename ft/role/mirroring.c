#include "ft/role/mirroring.h"

#include <stdio.h>
#include <string.h>

#include "ft/role/primary.h"
#include "vmm/base/log.h"

#define DIAL_NS	   5000000000ull
#define AGAIN_NS   500000000ull
#define SHORT	   10u /* so many short ones in a row are too many: */
#define SHORT_OF   4u  /* shorter than a fourth of the time between two without a difference */
#define KEMARI_NS  5000000000ull
#define OVERDUE_OF 4u		/* of the peer's timeout */
#define LOAD_NS	   500000000ull /* or the peer's timeout: a host may be that late, and alive */
#define INPUT_NS   200000000ull /* TCP sends again after that */

static void failed(struct mirroring *m, const char *why)
{
	dial_stop(&m->dial);
	if (strcmp(why, m->trouble))
		log_warn("twin: %s; as with kemari until it is there", why);
	snprintf(m->trouble, sizeof(m->trouble), "%s", why);
	m->state = MIRRORING_REST;
	loop_timer_set(m->primary->ft->loop, &m->timer_op, AGAIN_NS);
}

static void seal_soon(struct mirroring *m)
{
	if (fsm_expects(&m->primary->fsm, PRI_EV_DIFFER))
		fsm_post(&m->primary->fsm, PRI_EV_DIFFER);
}

/* --- while it is up --------------------------------------------------------------------------- */

/*
 * The peer has acknowledged, and its heart beats: it is the twin alone that is missing. Giving the
 * link up would leave the VM unprotected, and cost a first sync.
 */
static void without_twin(struct mirroring *m, const char *what)
{
	m->short_ones = 0;
	m->kemari_until = loop_now_ns() + KEMARI_NS;
	if (log_may(&m->told))
		log_info("twin: %s (%s); as with kemari for %llu s", what, m->lockstep.why,
			 KEMARI_NS / 1000000000ull);
}

/* A guest whose outputs always differ is better off without a twin. */
static void count_short(struct mirroring *m)
{
	uint64_t ran_ns = loop_now_ns() - m->lockstep.sealed_ns;

	if (ran_ns > m->primary->epoch_ns * POLICY_COLO / SHORT_OF)
		m->short_ones = 0;
	else if (++m->short_ones >= SHORT)
		without_twin(m, "outputs keep differing");
}

static void news(void *arg, enum lockstep_news what)
{
	struct mirroring *m = arg;

	if (what == LOCKSTEP_LOST)
		failed(m, m->lockstep.why);
	else if (what == LOCKSTEP_LATE)
		without_twin(m, "it does not keep up");
	else
		count_short(m);
	seal_soon(m);
}

/* --- the connection --------------------------------------------------------------------------- */

static struct lockstep_bounds bounds_of(uint64_t peer_timeout_ns)
{
	return (struct lockstep_bounds){.overdue_ns = peer_timeout_ns / OVERDUE_OF,
					.load_ns = peer_timeout_ns > LOAD_NS ? peer_timeout_ns
									     : LOAD_NS,
					.input_ns = INPUT_NS};
}

static int begin(struct mirroring *m, struct err *e)
{
	struct primary *p = m->primary;
	uint64_t until = loop_now_ns() + LINK_SEND_NS;
	struct chan c = dial_take(&m->dial);
	struct stream st;
	int r;

	stream_init_on(&st, &c, STREAM_MIRROR, p->link->main.session);
	r = stream_send_preface(&st, until);
	if (!r)
		r = stream_send(&st, FRAME_MIRROR, 0, NULL, 0, until);
	if (r < 0) {
		stream_done(&st);
		return err_set(e, r, "connection broken");
	}
	m->lockstep.disklog = &p->engine.disklog;
	m->lockstep.bounds = bounds_of(p->ft->cfg->peer_timeout_ns);
	return lockstep_begin(&m->lockstep, p->vm, &p->link->heart, &st, e);
}

static void dialled(void *arg, const struct err *e)
{
	struct mirroring *m = arg;
	struct err why = {0};

	if (e) {
		failed(m, e->msg);
		return;
	}
	loop_timer_del(m->primary->ft->loop, &m->timer_op);
	if (begin(m, &why)) {
		failed(m, why.msg);
		return;
	}
	m->state = MIRRORING_UP;
	seal_soon(m);
}

static void dial_now(struct mirroring *m)
{
	struct err e = {0};

	m->state = MIRRORING_DIAL;
	loop_timer_set(m->primary->ft->loop, &m->timer_op, DIAL_NS);
	if (dial_start(&m->dial, m->primary->link->peer, &e))
		failed(m, e.msg);
}

static void timer(struct loop_op *op, int res)
{
	struct mirroring *m = op->arg;

	if (m->state == MIRRORING_REST)
		dial_now(m);
	else if (m->state == MIRRORING_DIAL)
		failed(m, "no answer in time");
}

void mirroring_look(struct mirroring *m)
{
	bool wanted = m->primary->policy->twin && !machine_has_shared(&m->primary->vm->machine);

	if (wanted && m->state == MIRRORING_OFF)
		dial_now(m);
	else if (!wanted)
		mirroring_stop(m);
}

void mirroring_stop(struct mirroring *m)
{
	if (m->state == MIRRORING_OFF)
		return;
	m->state = MIRRORING_OFF;
	loop_timer_del(m->primary->ft->loop, &m->timer_op);
	dial_stop(&m->dial);
	lockstep_end(&m->lockstep);
	m->trouble[0] = 0;
	m->short_ones = 0;
	m->kemari_until = 0;
}

bool mirroring_may_run(const struct mirroring *m)
{
	return m->state == MIRRORING_UP && loop_now_ns() >= m->kemari_until &&
	       m->primary->fsm.state == PRI_FLIGHT && !(m->primary->ft->stands & FT_STAND_USER);
}

void mirroring_init(struct mirroring *m, struct primary *p)
{
	memset(m, 0, sizeof(*m));
	m->primary = p;
	m->timer_op = (struct loop_op){.fn = timer, .arg = m};
	m->lockstep.news = news;
	m->lockstep.arg = m;
	m->dial = (struct dial){.loop = p->ft->loop,
				.tls = p->ft->tls,
				.us = TLS_PRIMARY,
				.done = dialled,
				.arg = m,
				.fd = -1};
}
