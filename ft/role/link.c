#include "ft/role/link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "vmm/base/log.h"
#include "vmm/wire/chan.h"

/* --- the end of it ---------------------------------------------------------------------------- */

void link_break(struct link *l, const char *why)
{
	if (l->state != LINK_UP)
		return;
	l->state = LINK_BROKEN;
	/* Nobody reads it any more, and it may be closed much later. */
	loop_poll_del(l->ft->loop, &l->main_op);
	snprintf(l->why, sizeof(l->why), "%s", why);
	l->news(l->arg, LINK_LOST);
}

void link_close(struct link *l)
{
	dial_stop(&l->dial);
	loop_poll_del(l->ft->loop, &l->main_op);
	heart_stop(&l->heart);
	stream_done(&l->main);
	l->state = LINK_DOWN;
	l->ack_waits = false;
	l->peer[0] = 0;
}

static char *last_trouble(struct link *l)
{
	return l->trouble[l->at];
}

void link_note_trouble(struct link *l, bool connecting, char *note, size_t cap)
{
	const char *why = l->why, *kind = note;
	size_t n = strlen(l->peer);

	/* Who says that this is not its key was reached. */
	if (connecting && strncmp(why, "TLS: ", 5) != 0)
		kind = "cannot be reached";
	/* The errors of a connection begin with the address, too: it is said once. */
	if (!strncmp(why, l->peer, n) && !strncmp(why + n, ": ", 2))
		why += n + 2;
	snprintf(note, cap, "peer %.100s: %.360s", l->peer, why);
	if (strcmp(kind, last_trouble(l)))
		log_warn("%s", note);
	else
		log_debug("%s", note);
	snprintf(last_trouble(l), sizeof(l->trouble[0]), "%s", kind);
}

/* --- frames from the peer --------------------------------------------------------------------- */

static void refused(struct link *l, const struct frame *f)
{
	char text[360];

	stream_text(f, "refuses: ", text, sizeof(text));
	l->refused = true;
	link_break(l, text);
}

static void welcome(struct link *l, const struct frame *f)
{
	struct wire_side w = {0};

	/* One of before says less. */
	memcpy(&w, f->data, f->length < sizeof(w) ? f->length : sizeof(w));
	l->side = w.side;
	l->kept = w.kept;
	l->may_dismiss = w.dismiss == 1;
	l->news(l->arg, LINK_WELCOME);
}

/* What is acted on only when nothing is behind it. */
struct last_word {
	bool has;
	enum link_news what;
};

static void take_frame(struct link *l, const struct frame *f, struct last_word *w)
{
	if (f->type == FRAME_REFUSE) {
		refused(l, f);
	} else if (w->has || (f->type == FRAME_ACK && (l->ack_waits || !l->heart.loop))) {
		link_break(l, "message out of order");
	} else if (f->type == FRAME_WELCOME) {
		welcome(l, f);
	} else if (f->type == FRAME_DIFFER) {
		l->frame = f;
		l->news(l->arg, LINK_COMPARED);
		l->frame = NULL;
	} else if (f->type == FRAME_DONE) {
		l->news(l->arg, LINK_DONE);
	} else if (f->type == FRAME_ACK) {
		*w = (struct last_word){true, LINK_ACK};
		l->acked = f->epoch;
	} else if (f->type == FRAME_RUNS) {
		*w = (struct last_word){true, LINK_RUNS};
	} else {
		link_break(l, "message out of order");
	}
}

static void tell_last_word(struct link *l, const struct last_word *w)
{
	/* We were away: the peer may have taken over since it acknowledged. Ask it first. */
	if (w->what == LINK_ACK && heart_suspect(&l->heart))
		l->ack_waits = true;
	else
		l->news(l->arg, w->what);
}

/*
 * Everything that has arrived, and its end. A stream whose socket gave less than there was room for
 * does not ask it again, so it is read until it has nothing twice. False: the link is lost, or
 * closed.
 */
static bool read_main(struct link *l, struct last_word *w)
{
	struct frame f;
	int r = 0;

	for (int nothing = 0; l->state == LINK_UP && r >= 0 && nothing < 2; nothing += r == 0) {
		r = stream_recv(&l->main, &f);
		if (r == 1)
			take_frame(l, &f, w);
	}
	if (r < 0)
		link_break(l, stream_trouble(&l->main, r));
	return l->state == LINK_UP;
}

static void main_readable(struct loop_op *op, int res)
{
	struct link *l = op->arg;
	struct last_word w = {0};

	if (!read_main(l, &w))
		return;
	heart_heard(&l->heart);
	if (w.has)
		tell_last_word(l, &w);
}

/* An ack that came before the end is not acted on. */
void link_break_after_reading(struct link *l, const char *why)
{
	struct last_word w = {0};

	if (l->main.fd < 0 || read_main(l, &w))
		link_break(l, why);
}

/* --- the way to a peer ------------------------------------------------------------------------ */

static void dialled(void *arg, const struct err *e)
{
	struct link *l = arg;

	if (e)
		link_break(l, e->msg);
	else
		l->news(l->arg, LINK_CONNECTED);
}

static void try_peer(struct link *l, unsigned at, const char *uri)
{
	struct err e = {0};

	l->at = at;
	snprintf(l->peer, sizeof(l->peer), "%s", uri);
	l->state = LINK_UP;
	l->refused = false;
	l->side = 0;
	if (dial_start(&l->dial, l->peer, &e))
		link_break(l, e.msg);
}

void link_try_next(struct link *l)
{
	const struct config *cfg = l->ft->cfg;
	unsigned n = cfg->npeers, at = l->next;

	l->next = (at + 1) % (n + (l->extra[0] != 0));
	try_peer(l, at < n ? at : LINK_OTHER, at < n ? cfg->peers[at] : l->extra);
}

unsigned link_next(const struct link *l)
{
	return l->next < l->ft->cfg->npeers ? l->next : LINK_OTHER;
}

void link_forget_peers(struct link *l)
{
	l->next = 0;
	l->extra[0] = 0;
	memset(l->trouble, 0, sizeof(l->trouble));
}

void link_try(struct link *l, const char *uri)
{
	snprintf(l->extra, sizeof(l->extra), "%s", uri);
	try_peer(l, LINK_OTHER, l->extra);
}

void link_begin_main(struct link *l, const struct iovec *hello, int niov)
{
	uint64_t session, deadline = loop_now_ns() + LINK_SEND_NS;
	struct chan c = dial_take(&l->dial);

	if (getrandom(&session, sizeof(session), 0) != sizeof(session))
		session = loop_now_ns();
	stream_init_on(&l->main, &c, STREAM_MAIN, session | 1);
	chan_set_options(l->main.fd, FT_MAIN_TIMEOUT_MS);
	l->main_op = (struct loop_op){.fn = main_readable, .arg = l};
	if (!hello || stream_send_preface(&l->main, deadline) < 0 ||
	    stream_send(&l->main, FRAME_HELLO, 0, hello, niov, deadline) < 0 ||
	    loop_poll_add(l->ft->loop, &l->main_op, l->main.fd, POLLIN) < 0)
		link_break_after_reading(l, "handshake failed"); /* the peer may have said why */
}

void link_try_heart(struct link *l)
{
	struct err e = {0};

	if (dial_start(&l->dial, l->peer, &e)) {
		err_wrap(&e, "heartbeat link");
		link_break(l, e.msg);
	}
}

/* The word that ends a stop may have come already, on the other link. */
static void peer_silent(void *arg, const char *why)
{
	link_break_after_reading(arg, why);
}

static void trusted_again(void *arg)
{
	struct link *l = arg;
	struct last_word w = {0};

	/* Nothing, and no end, may be behind it: a second word there is out of order. */
	if (!l->ack_waits || !read_main(l, &w))
		return;
	l->ack_waits = false;
	l->news(l->arg, LINK_ACK);
}

void link_begin_heart(struct link *l)
{
	const struct config *cfg = l->ft->cfg;
	struct chan c = dial_take(&l->dial);
	struct stream st;

	stream_init_on(&st, &c, STREAM_HEART, l->main.session);
	chan_set_options(st.fd, FT_HEART_TIMEOUT_MS);
	l->heart.lost = peer_silent;
	l->heart.trusted = trusted_again;
	l->heart.arg = l;
	if (stream_send_preface(&st, loop_now_ns() + LINK_SEND_NS) < 0 ||
	    heart_start(&l->heart, l->ft->loop, &st, cfg->heartbeat_ns, cfg->peer_timeout_ns) < 0) {
		stream_done(&st);
		link_break(l, "heartbeat link failed");
		return;
	}
	last_trouble(l)[0] = 0;
}

bool link_say(struct link *l, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	if (!stream_send(&l->main, type, 0, &iov, len ? 1 : 0, loop_now_ns() + LINK_SEND_NS))
		return true;
	link_break(l, "link broken");
	return false;
}

void link_init(struct link *l, struct ft *ft, void (*news)(void *arg, enum link_news what),
	       void *arg)
{
	memset(l, 0, sizeof(*l));
	l->ft = ft;
	l->news = news;
	l->arg = arg;
	l->main.fd = -1;
	l->dial = (struct dial){.loop = ft->loop,
				.tls = ft->tls,
				.us = TLS_PRIMARY,
				.done = dialled,
				.arg = l,
				.fd = -1};
}
