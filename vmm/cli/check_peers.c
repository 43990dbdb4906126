#include "vmm/cli/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/dial.h"
#include "vmm/base/loop.h"
#include "vmm/cli/record.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/tls.h"

#define ANSWER_NS 3000000000ull

/* --- where it listens ------------------------------------------------------------------------- */

static void address(struct check *c, const char *what, const char *text)
{
	struct err e = {0};
	struct chan_uri u;
	int r = chan_parse(text, &u, &e);

	if (!r)
		r = chan_try_listen(&u, &e);
	check_tried(c, what, r, &e, text);
}

/* --- whom it connects to ---------------------------------------------------------------------- */

struct call {
	bool over;
	struct err e;
};

static void answered(void *arg, const struct err *e)
{
	struct call *call = arg;

	call->over = true;
	if (e)
		call->e = *e;
}

/* A connection, and its keys; nothing is said on it. */
static int reach(const char *uri, const struct tls *tls, struct err *e)
{
	struct call call = {0};
	uint64_t until = loop_now_ns() + ANSWER_NS;
	struct loop l;
	int r = loop_init(&l, e);

	if (r)
		return r;
	struct dial d = {.loop = &l,
			 .tls = tls,
			 .us = TLS_PRIMARY,
			 .done = answered,
			 .arg = &call,
			 .fd = -1};

	if (dial_start(&d, uri, &call.e))
		call.over = true;
	for (uint64_t now; !call.over && (now = loop_now_ns()) < until;)
		loop_run_once(&l, until - now);
	dial_stop(&d);
	loop_done(&l);
	if (!call.over)
		return err_set(e, -ETIMEDOUT, "no answer within %d s",
			       (int)(ANSWER_NS / 1000000000));
	*e = call.e;
	return e->code;
}

static void peer(struct check *c, const char *uri, const struct tls *tls)
{
	char at[sizeof(c->cfg->peers[0])];
	struct err e = {0};

	snprintf(at, sizeof(at), "%s", uri);
	if (chan_resolve(at, sizeof(at), &e))
		check_say(c, CHECK_FAILS, "peer", "%s", e.msg);
	else if (c->cfg->role == ROLE_SECONDARY)
		check_say(c, CHECK_OK, "peer", "%s is connected to after a takeover", at);
	else if (!reach(at, tls, &e))
		check_say(c, CHECK_OK, "peer", "%s answers", at);
	else if (!strncmp(e.msg, "TLS: ", 5))
		check_say(c, CHECK_FAILS, "peer", "%s: %s", at, e.msg);
	else
		check_say(c, CHECK_WARN, "peer",
			  "%s: %s; the VM runs unprotected until a secondary is there", at, e.msg);
}

/* --- who may run it --------------------------------------------------------------------------- */

static void describe(const struct arbiter_record *r, char *ret, size_t cap)
{
	static const char *const ends[] = {
		[ARBITER_HELD] = "held by",
		[ARBITER_STOPPED] = "stopped by",
		[ARBITER_RELEASED] = "stopped, in step, by",
	};

	if (r->generation)
		snprintf(ret, cap, "generation %" PRIu64 ", %s '%s'", r->generation, ends[r->end],
			 r->holder);
	else
		snprintf(ret, cap, "nobody has run this VM yet");
}

static void arbiter(struct check *c)
{
	const struct config *cfg = c->cfg;
	struct arbiter_record rec = {0};
	struct arbiter *a;
	struct err e = {0};
	char text[200];
	int r;

	r = arbiter_open(&a, NULL, cfg->arbiter, cfg->name, "ftvmm check", &e);
	if (!r) {
		r = cfg->role == ROLE_PRIMARY ? record_allows(cfg, a, &rec, &e)
					      : arbiter_read(a, &rec, &e);
		arbiter_close(a);
	}
	describe(&rec, text, sizeof(text));
	check_tried(c, "arbiter", r, &e, text);
}

/* --- all -------------------------------------------------------------------------------------- */

static int open_tls(struct check *c, struct tls **ret)
{
	const struct tls_from from = {
		.psk = c->cfg->tls_psk, .dir = c->cfg->tls_dir, .name = c->cfg->name};
	struct err e = {0};
	int r;

	*ret = NULL;
	if (!from.psk[0] && !from.dir[0])
		return 0;
	r = tls_open(ret, &from, &e);
	check_tried(c, "tls", r, &e, from.psk[0] ? from.psk : from.dir);
	return r;
}

void check_peers(struct check *c)
{
	const struct config *cfg = c->cfg;
	struct tls *tls;
	int r = open_tls(c, &tls);

	if (cfg->incoming[0])
		address(c, "incoming", cfg->incoming);
	if (cfg->listen[0])
		address(c, "listen", cfg->listen);
	for (unsigned i = 0; i < cfg->npeers && !r; i++)
		peer(c, cfg->peers[i], tls);
	if (cfg->role != ROLE_PLAIN && strcmp(cfg->arbiter, "none"))
		arbiter(c);
	tls_close(tls);
}
