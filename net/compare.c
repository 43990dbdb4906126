#include "net/compare.h"

#include <errno.h>
#include <string.h>

#include "net/compare_flow.h"
#include "net/netdev.h"
#include "net/vsock_host.h"
#include "vmm/base/log.h"

#define FLOW_MIN (128u << 10) /* two frames of 64 KiB */
#define FLOW_MAX (1u << 30)   /* half of what positions can tell apart */

static bool is_power(uint32_t n)
{
	return n && !(n & (n - 1));
}

int compare_init(struct compare *c, const struct compare_limits *l, const struct compare_ops *ops,
		 void *arg)
{
	int r;

	memset(c, 0, sizeof(*c));
	if (!is_power(l->flow_bytes) || l->flow_bytes < FLOW_MIN || l->flow_bytes > FLOW_MAX ||
	    !is_power(l->history_bytes) || l->history_bytes > l->flow_bytes || !l->flows ||
	    l->flows > FLOW_MAX || !l->overdue_ns)
		return -EINVAL;
	c->limits = *l;
	c->ops = ops;
	c->arg = arg;
	r = compare_flows_init(c);
	if (r)
		compare_done(c);
	return r;
}

void compare_done(struct compare *c)
{
	compare_flows_done(c);
}

void compare_add_sink(struct compare *c, int sink, enum compare_kind kind)
{
	VMM_BUG_ON(sink < 0 || sink >= COMPARE_MAX_SINKS);
	c->kinds[sink] = (uint8_t)kind;
}

/* Of bytes only these: how they are cut depends on how fast a guest was. */
static void look_at_order(struct packet *p)
{
	struct vsock_order o;

	if (p->len < sizeof(o))
		return; /* of no connection */
	memcpy(&o, p->data, sizeof(o));
	memcpy(p->key.src, &o.id, sizeof(o.id));
	if (o.op != VSOCK_DATA || p->len == sizeof(o))
		return;
	p->data += sizeof(o);
	p->len -= (uint32_t)sizeof(o);
}

/* What it says of itself: the flow's key, and what counts. */
static void look(const struct compare *c, int sink, const void *data, uint32_t len,
		 struct packet *p)
{
	if (c->kinds[sink] == COMPARE_FRAMES) {
		packet_parse(data, len, p);
	} else {
		memset(p, 0, sizeof(*p));
		p->key.kind = c->kinds[sink] == COMPARE_MESSAGES ? PACKET_MESSAGE : PACKET_STREAM;
		p->data = data;
		p->len = len;
		if (c->kinds[sink] == COMPARE_ORDERS)
			look_at_order(p);
	}
	p->key.sink = (uint8_t)sink;
}

static void no_room(struct compare *c, const struct packet *p, bool ours)
{
	struct compare_place at = {.why = COMPARE_FULL};

	at.ours = ours ? p->data : NULL;
	at.nours = ours ? p->len : 0;
	at.theirs = ours ? NULL : p->data;
	at.ntheirs = ours ? 0 : p->len;
	compare_tell(c, &p->key, &at);
}

void compare_ours(struct compare *c, int sink, const void *data, uint32_t len, void *cookie,
		  uint64_t now_ns)
{
	struct compare_flow *f;
	struct packet p;

	VMM_BUG_ON(sink < 0 || sink >= COMPARE_MAX_SINKS || !c->kinds[sink]);
	look(c, sink, data, len, &p);
	f = compare_flow_get(c, &p.key, now_ns);
	if (!f) {
		no_room(c, &p, true);
		return;
	}
	if (!compare_flow_is_stream(f)) {
		compare_fifo_ours(c, f, &p, cookie, now_ns);
		return;
	}
	if (p.key.kind == PACKET_STREAM)
		compare_stream_place(f, WINDOW_OURS, &p);
	compare_tcp_ours(c, f, &p, cookie, now_ns);
	if (p.key.kind == PACKET_STREAM)
		compare_stream_skip(f);
}

/* What is no connection begins anew at the reset. */
void compare_learn(struct compare *c, int sink, const void *data, uint32_t len, uint64_t now_ns)
{
	struct compare_flow *f;
	struct packet p;

	VMM_BUG_ON(sink < 0 || sink >= COMPARE_MAX_SINKS);
	c->differs = true;
	if (c->kinds[sink] != COMPARE_FRAMES)
		return;
	look(c, sink, data, len, &p);
	f = p.key.kind == PACKET_TCP ? compare_flow_get(c, &p.key, now_ns) : NULL;
	if (f)
		compare_tcp_ours(c, f, &p, NULL, now_ns);
}

int compare_theirs(struct compare *c, int sink, const void *data, uint32_t len, uint64_t now_ns)
{
	struct compare_flow *f;
	struct packet p;

	if (sink < 0 || sink >= COMPARE_MAX_SINKS || !c->kinds[sink] || !len ||
	    (c->kinds[sink] == COMPARE_FRAMES && len > NET_VNET_HDR + NET_FRAME_MAX))
		return -EBADMSG;
	if (c->differs)
		return 0;
	look(c, sink, data, len, &p);
	f = compare_flow_get(c, &p.key, now_ns);
	if (!f) {
		no_room(c, &p, false);
		return 0;
	}
	if (!compare_flow_is_stream(f)) {
		compare_fifo_theirs(c, f, &p, now_ns);
		return 0;
	}
	if (p.key.kind == PACKET_STREAM)
		compare_stream_place(f, WINDOW_THEIRS, &p);
	compare_tcp_theirs(c, f, &p, now_ns);
	if (p.key.kind == PACKET_STREAM)
		compare_stream_skip(f);
	return 0;
}

void compare_input(struct compare *c, int sink, const void *frame, uint32_t len)
{
	struct compare_flow *f;
	struct packet p;

	VMM_BUG_ON(sink < 0 || sink >= COMPARE_MAX_SINKS);
	if (c->kinds[sink] != COMPARE_FRAMES)
		return;
	look(c, sink, frame, len, &p);
	if (p.key.kind != PACKET_TCP)
		return;
	packet_turn(&p.key);
	f = compare_flow_find(c, &p.key);
	if (f)
		compare_tcp_input(c, f, &p);
}

void compare_reset(struct compare *c)
{
	struct compare_flow *f, *before;

	/* Those in which something happened since the last are the last in the list. */
	for (f = TAILQ_LAST(&c->flows, compare_flows); f && f->resets == c->resets; f = before) {
		before = TAILQ_PREV(f, compare_flows, by_use);
		compare_flow_drop_held(c, f);
		compare_flow_set_ahead(c, f, false, false, 0);
		if (!compare_flow_is_stream(f))
			compare_fifo_clear(c, f);
		else if (!compare_tcp_reset(f))
			compare_flow_forget(c, f);
	}
	c->differs = false;
	c->resets++;
}

uint64_t compare_due(const struct compare *c)
{
	const struct compare_held *h = TAILQ_FIRST(&c->waiting);
	const struct compare_flow *f = TAILQ_FIRST(&c->ahead);
	uint64_t since = UINT64_MAX - c->limits.overdue_ns;

	if (c->differs)
		return UINT64_MAX;
	if (h && h->since_ns < since)
		since = h->since_ns;
	if (f && f->ahead_ns < since)
		since = f->ahead_ns;
	return since + c->limits.overdue_ns;
}

void compare_overdue(struct compare *c, uint64_t now_ns)
{
	const struct compare_held *h = TAILQ_FIRST(&c->waiting);
	const struct compare_flow *f = TAILQ_FIRST(&c->ahead);
	bool ours = h && (!f || h->since_ns <= f->ahead_ns);

	if (compare_due(c) <= now_ns && (h || f)) {
		if (compare_flow_is_stream(ours ? h->flow : f))
			compare_tcp_late(c, ours ? h->flow : f, ours);
		else
			compare_fifo_late(c, ours ? h->flow : f, ours);
	}
	if (now_ns > c->limits.idle_ns)
		compare_flows_expire(c, now_ns - c->limits.idle_ns);
}
