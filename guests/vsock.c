/*
 * Sockets between guest and host. Port 5000 echoes; port 5001 answers every byte with the next
 * number (8 bytes), so that a state older than an answer that somebody got is noticed. At start,
 * and after the device said that all connections are gone, connects to port out=N (6000, 0: none)
 * of the host, says "hello N" with a number that rises, and echoes there.
 */
#include "guests/lib/guest.h"
#include "guests/lib/vsock.h"

#define CONNS	     64
#define BUF	     65536u /* what we let the host send; also what waits to be echoed */
#define ECHO_PORT    5000u
#define COUNT_PORT   5001u
#define OUT_PORT     6000u
#define LOCAL_PORT   1024u
#define OUT_RETRY_NS 500000000ul

struct conn {
	bool used, open;
	bool owes_response, owes_shutdown, owes_credit, owes_request;
	bool ended; /* the host sends no more */
	uint32_t local, remote;
	uint32_t tx_cnt, peer_buf, peer_fwd;
	uint32_t fwd_cnt, fwd_told;
	uint32_t head, len; /* of buf */
	uint8_t *buf;
};

static struct conn conns[CONNS];
static uint64_t counter, hellos, resets, refused;
static uint32_t out_port, next_local = LOCAL_PORT;
static uint64_t out_at; /* when to try to connect again; 0: not */
static uint8_t packet[VSOCK_SLOT];

static struct conn *find(uint32_t local, uint32_t remote)
{
	for (unsigned i = 0; i < CONNS; i++)
		if (conns[i].used && conns[i].local == local && conns[i].remote == remote)
			return &conns[i];
	return NULL;
}

static struct conn *make(uint32_t local, uint32_t remote)
{
	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *c = &conns[i];
		uint8_t *buf = c->buf;

		if (c->used)
			continue;
		*c = (struct conn){.used = true, .local = local, .remote = remote, .buf = buf};
		if (!c->buf)
			c->buf = mem_alloc(BUF / PAGE_SIZE);
		return c;
	}
	return NULL;
}

static int say(struct conn *c, uint16_t op, const void *data, uint32_t len)
{
	struct vsock_hdr h = {.src_port = c->local,
			      .dst_port = c->remote,
			      .op = op,
			      .len = len,
			      .flags = op == VSOCK_SHUTDOWN ? VSOCK_SHUT_BOTH : 0,
			      .buf_alloc = BUF,
			      .fwd_cnt = c->fwd_cnt};
	int r = vsock_send(&h, data);

	if (!r)
		c->fwd_told = c->fwd_cnt;
	return r;
}

/* Nobody waits for it: when the ring is full, it is left out. */
static void say_rst(const struct vsock_hdr *to)
{
	struct vsock_hdr h = {.src_port = to->dst_port, .dst_port = to->src_port, .op = VSOCK_RST};

	if (to->op != VSOCK_RST)
		vsock_send(&h, NULL);
}

static void connect_out(void)
{
	struct conn *c = make(next_local++, out_port);

	out_at = 0;
	if (c)
		c->owes_request = true;
}

static void put(struct conn *c, const void *data, uint32_t len)
{
	const uint8_t *p = data;

	for (uint32_t i = 0; i < len; i++)
		c->buf[(c->head + c->len++) % BUF] = p[i];
}

static void take_data(struct conn *c, uint32_t len)
{
	if (len > BUF - (c->local == COUNT_PORT ? 0 : c->len))
		guest_die(3, "FAILED: %u bytes beyond our credit", len);
	if (c->local != COUNT_PORT) {
		put(c, packet, len);
		return;
	}
	c->fwd_cnt += len;
	for (; len && c->len <= BUF - 8; len--) {
		counter++;
		put(c, &counter, sizeof(counter));
	}
}

static void say_hello(struct conn *c)
{
	char text[32];
	int n = format_text(text, sizeof(text), "hello %lu\n", ++hellos);

	c->open = true;
	put(c, text, (uint32_t)n);
	/* Not of the host: it is not to be counted as forwarded. */
	c->fwd_cnt -= (uint32_t)n;
	print("out connected\n");
}

static void take(const struct vsock_hdr *h)
{
	struct conn *c = find(h->dst_port, h->src_port);

	if (h->op == VSOCK_REQUEST && !c &&
	    (h->dst_port == ECHO_PORT || h->dst_port == COUNT_PORT) &&
	    (c = make(h->dst_port, h->src_port))) {
		c->open = c->owes_response = true;
		c->peer_buf = h->buf_alloc;
		return;
	}
	if (!c) {
		say_rst(h);
		return;
	}
	c->peer_buf = h->buf_alloc;
	c->peer_fwd = h->fwd_cnt;
	if (h->op == VSOCK_RST) {
		if (!c->open && !refused++)
			print("out refused\n"); /* once, not at every try */
		if (c->remote == out_port)
			out_at = clock_ns() + OUT_RETRY_NS;
		c->used = false;
	} else if (h->op == VSOCK_RESPONSE && !c->open) {
		say_hello(c);
	} else if (h->op == VSOCK_RW && c->open) {
		take_data(c, h->len);
	} else if (h->op == VSOCK_SHUTDOWN && h->flags & VSOCK_SHUT_SEND) {
		c->ended = c->owes_shutdown = true;
	} else if (h->op == VSOCK_CREDIT_REQUEST) {
		c->owes_credit = true;
	}
}

/* What waits, as far as the host has room; then the end. */
static void flush(struct conn *c)
{
	if (c->owes_request && !say(c, VSOCK_REQUEST, NULL, 0))
		c->owes_request = false;
	if (c->owes_response && !say(c, VSOCK_RESPONSE, NULL, 0))
		c->owes_response = false;
	if (c->owes_response || !c->open)
		return;
	while (c->len) {
		uint32_t room = c->peer_buf - (c->tx_cnt - c->peer_fwd), n = c->len;

		n = n > BUF - c->head ? BUF - c->head : n;
		n = n > VSOCK_DATA_MAX ? VSOCK_DATA_MAX : n;
		n = n > room ? room : n;
		if (!n || say(c, VSOCK_RW, c->buf + c->head, n))
			break;
		c->head = (c->head + n) % BUF;
		c->len -= n;
		c->tx_cnt += n;
		if (c->local != COUNT_PORT)
			c->fwd_cnt += n;
	}
	if (c->fwd_cnt - c->fwd_told >= BUF / 2)
		c->owes_credit = true;
	if (c->owes_credit && !say(c, VSOCK_CREDIT_UPDATE, NULL, 0))
		c->owes_credit = false;
	if (c->owes_shutdown && !c->len && !say(c, VSOCK_SHUTDOWN, NULL, 0))
		c->owes_shutdown = false;
}

static void forget_all(void)
{
	for (unsigned i = 0; i < CONNS; i++)
		conns[i].used = false;
	print("transport reset %lu\n", ++resets);
	if (out_port)
		connect_out();
}

int main(void)
{
	struct vsock_hdr h;

	if (!vsock_open())
		guest_die(2, "no vsock");
	out_port = (uint32_t)cmdline_u64("out", OUT_PORT);
	print("cid %lu\n", vsock_cid());
	if (out_port)
		connect_out();
	print("READY\n");
	for (;;) {
		uint64_t seen = guest_events();

		if (vsock_was_reset())
			forget_all();
		while (vsock_recv(&h, packet))
			take(&h);
		if (out_at && clock_ns() >= out_at)
			connect_out();
		for (unsigned i = 0; i < CONNS; i++)
			if (conns[i].used)
				flush(&conns[i]);
		vsock_kick();
		if (out_at)
			guest_wait_until(seen, out_at);
		else
			guest_wait(seen);
	}
}
