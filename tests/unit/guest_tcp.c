/*
 * The guests' network stack on the host: two stacks joined by a wire that loses, duplicates,
 * reorders and corrupts frames, in simulated time. Byte streams must arrive exactly and
 * connections must close. One side may also be rewound to an epoch as a takeover does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guests/lib/net.c"
#include "guests/lib/arp.c"
#include "guests/lib/ip.c"
#include "guests/lib/icmp.c"
#include "guests/lib/udp.c"
#include "guests/lib/tcp.c"
#include "guests/lib/tcp_buf.c"
#include "guests/lib/tcp_in.c"
#include "guests/lib/tcp_out.c"

#define MS	  NET_NS_PER_MS
#define WIRE_MAX  8192
#define PORT	  9000
#define IP_CLIENT 0x0a000001u
#define IP_SERVER 0x0a000002u

struct frame {
	uint64_t at;
	uint64_t order;
	int to;
	uint32_t len;
	uint8_t data[NET_ETH_MAX];
};

/* One direction-tagged stream of bytes through a connection. */
struct peer {
	struct tcp_conn *conn;
	uint32_t salt;
	uint64_t to_send, sent;
	uint64_t to_read, got;
	uint32_t read_max; /* per event: below the arrival rate it closes the window */
	bool eof, gone, shut, bad;
};

struct side {
	struct net_if nif;
	struct peer peer;
	struct world *w;
	int index;
};

struct world {
	uint64_t rng, seed, now, order;
	unsigned loss, dup, corrupt; /* per 1000 */
	uint64_t delay_min, delay_var;
	struct side side[2];
	struct tcp_stack *tcp[2];
	struct frame *wire;
	unsigned nframes;
	/* takeover of side 1: frames it sent are held until its epoch is saved */
	bool hold;
	unsigned epoch_start; /* index in held of the first frame of the running epoch */
	struct frame *held;
	unsigned nheld;
	struct side saved_side;
	struct tcp_stack *saved_tcp;
};

static uint64_t rnd(struct world *w, uint64_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return n ? (w->rng >> 11) % n : 0;
}

static uint8_t pattern(uint32_t salt, uint64_t i)
{
	return (uint8_t)(((uint32_t)i + salt) * 2654435761u >> 24);
}

#define check(w, cond)                                                                             \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("seed %llu, t %llu ms: %s\n", (unsigned long long)(w)->seed,        \
			       (unsigned long long)((w)->now / MS), #cond);                        \
			fail();                                                                    \
		}                                                                                  \
	} while (0)

static void wire_put(struct world *w, int to, const uint8_t *data, size_t len)
{
	struct frame *f;

	if (rnd(w, 1000) < w->loss || w->nframes == WIRE_MAX)
		return;
	f = &w->wire[w->nframes++];
	f->at = w->now + w->delay_min + rnd(w, w->delay_var + 1);
	f->order = w->order++;
	f->to = to;
	f->len = (uint32_t)len;
	memcpy(f->data, data, len);
	/* Below IP there is no checksum: a real link checks its frames itself. */
	if (rnd(w, 1000) < w->corrupt && net_get16(data + 12) == NET_TYPE_IP)
		f->data[NET_ETH_LEN + rnd(w, len - NET_ETH_LEN)] ^= (uint8_t)(1u << rnd(w, 8));
	if (rnd(w, 1000) < w->dup)
		wire_put(w, to, data, len);
}

static int side_send(void *ctx, const void *frame, size_t len)
{
	struct side *s = ctx;
	struct world *w = s->w;

	if (len > NET_ETH_MAX)
		return -EINVAL;
	if (w->hold && s->index == 1) {
		if (w->nheld == WIRE_MAX)
			return -EAGAIN;
		w->held[w->nheld].len = (uint32_t)len;
		memcpy(w->held[w->nheld++].data, frame, len);
		return 0;
	}
	wire_put(w, !s->index, frame, len);
	return 0;
}

/* Delivers what is due at w->now, in order of arrival. */
static void wire_deliver(struct world *w)
{
	for (;;) {
		struct frame *first = NULL, f;

		for (unsigned i = 0; i < w->nframes; i++) {
			struct frame *c = &w->wire[i];

			if (c->at <= w->now && (!first || c->at < first->at ||
						(c->at == first->at && c->order < first->order)))
				first = c;
		}
		if (!first)
			return;
		f = *first;
		*first = w->wire[--w->nframes];
		/* An exact-size copy: a sanitizer then sees any read beyond the frame. */
		uint8_t *copy = malloc(f.len);
		memcpy(copy, f.data, f.len);
		net_set_time(&w->side[f.to].nif, w->now);
		net_input(&w->side[f.to].nif, copy, f.len);
		free(copy);
	}
}

static void peer_pump(struct side *s)
{
	struct peer *p = &s->peer;
	uint8_t buf[3000];
	size_t n;

	if (!p->conn || p->gone)
		return;
	n = tcp_read(p->conn, buf, p->read_max < sizeof(buf) ? p->read_max : sizeof(buf));
	for (size_t i = 0; i < n; i++)
		if (buf[i] != pattern(!s->index, p->got + i))
			p->bad = true;
	p->got += n;
	p->eof |= tcp_eof(p->conn);
	while (p->sent < p->to_send && tcp_room(p->conn)) {
		n = 1 + rnd(s->w, sizeof(buf));
		if (n > p->to_send - p->sent)
			n = p->to_send - p->sent;
		if (n > tcp_room(p->conn))
			n = tcp_room(p->conn);
		for (size_t i = 0; i < n; i++)
			buf[i] = pattern((uint32_t)s->index, p->sent + i);
		p->sent += tcp_write(p->conn, buf, n);
	}
	if (p->sent == p->to_send && !p->shut && p->conn->state >= TCP_ESTABLISHED) {
		tcp_shutdown(p->conn);
		p->shut = true;
	}
}

static void peer_event(void *ctx, struct tcp_conn *c)
{
	struct side *s = ctx;

	if (s->peer.conn && s->peer.conn != c)
		return;
	s->peer.conn = c;
	if (c->state == TCP_FREE) {
		s->peer.gone = true;
		return;
	}
	peer_pump(s);
}

static void world_open(struct world *w, uint64_t seed)
{
	static const uint8_t mac[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};

	memset(w, 0, sizeof(*w));
	w->seed = seed;
	w->rng = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	w->delay_min = 50 * 1000;
	w->wire = calloc(WIRE_MAX, sizeof(*w->wire));
	for (int i = 0; i < 2; i++) {
		struct side *s = &w->side[i];

		s->w = w;
		s->index = i;
		net_init(&s->nif, mac[i], IP_CLIENT + (uint32_t)i, 24, 0, side_send, s);
		w->tcp[i] = malloc(sizeof(struct tcp_stack));
		memset(w->tcp[i], 0xa5, sizeof(struct tcp_stack));
		tcp_init(w->tcp[i], &s->nif, seed + (uint64_t)i);
		s->peer.read_max = 3000;
	}
	assert_int_equal(tcp_listen(w->tcp[1], PORT, peer_event, &w->side[1]), 0);
}

static void world_close(struct world *w)
{
	free(w->tcp[0]);
	free(w->tcp[1]);
	free(w->wire);
	free(w->held);
	free(w->saved_tcp);
}

static void world_step(struct world *w)
{
	w->now += 200 * 1000;
	wire_deliver(w);
	for (int i = 0; i < 2; i++) {
		peer_pump(&w->side[i]);
		net_poll(&w->side[i].nif, w->now);
	}
}

static void hold_start(struct world *w)
{
	w->hold = true;
	w->held = calloc(WIRE_MAX, sizeof(*w->held));
	w->saved_tcp = malloc(sizeof(*w->saved_tcp));
	w->saved_side = w->side[1];
	memcpy(w->saved_tcp, w->tcp[1], sizeof(*w->saved_tcp));
}

/* The running epoch is saved: its frames may leave. */
static void hold_commit(struct world *w)
{
	for (unsigned i = 0; i < w->nheld; i++)
		wire_put(w, 0, w->held[i].data, w->held[i].len);
	w->nheld = 0;
	w->saved_side = w->side[1];
	memcpy(w->saved_tcp, w->tcp[1], sizeof(*w->saved_tcp));
}

/* The machine of side 1 dies: back to the last epoch; held frames and those to it are lost. */
static void hold_takeover(struct world *w)
{
	unsigned n = 0;

	w->nheld = 0;
	for (unsigned i = 0; i < w->nframes; i++)
		if (w->wire[i].to == 0)
			w->wire[n++] = w->wire[i];
	w->nframes = n;
	w->side[1] = w->saved_side;
	memcpy(w->tcp[1], w->saved_tcp, sizeof(*w->saved_tcp));
}

static bool world_done(struct world *w)
{
	for (int i = 0; i < 2; i++) {
		struct peer *p = &w->side[i].peer;

		if (!p->gone || !p->eof || p->sent != p->to_send)
			return false;
	}
	return true;
}

/* Runs both streams to their end; takeover_ms > 0 crashes side 1 about that often. */
static void world_run(struct world *w, uint64_t up, uint64_t down, unsigned takeover_ms,
		      uint64_t limit_s)
{
	struct peer *c = &w->side[0].peer, *s = &w->side[1].peer;
	unsigned steps = 0;

	c->to_send = up;
	s->to_send = down;
	c->conn = tcp_connect(w->tcp[0], IP_SERVER, PORT, peer_event, &w->side[0]);
	check(w, c->conn);
	if (takeover_ms)
		hold_start(w);
	while (!world_done(w) && w->now < limit_s * NET_NS_PER_S) {
		world_step(w);
		if (takeover_ms && rnd(w, takeover_ms * 5) == 0)
			hold_takeover(w);
		else if (takeover_ms && ++steps % 125 == 0)
			hold_commit(w);
		check(w, !c->bad && !s->bad);
	}
	check(w, c->got == down);
	check(w, s->got == up);
	check(w, world_done(w));
	check(w, c->conn->state == TCP_FREE && s->conn->state == TCP_FREE);
}

static void test_clean(void **state)
{
	struct world w;

	world_open(&w, 1);
	world_run(&w, 3000000, 2000000, 0, 60);
	check(&w, w.tcp[0]->stats.rexmit_timeout == 0);
	check(&w, w.tcp[1]->stats.rexmit_timeout == 0);
	world_close(&w);
}

static void test_empty(void **state)
{
	struct world w;

	world_open(&w, 2);
	world_run(&w, 0, 0, 0, 60);
	world_close(&w);
}

static void test_lossy(void **state)
{
	for (uint64_t seed = 100; seed < 140; seed++) {
		struct world w;

		world_open(&w, seed);
		w.loss = (unsigned)rnd(&w, 150);
		w.dup = (unsigned)rnd(&w, 100);
		w.corrupt = (unsigned)rnd(&w, 50);
		w.delay_var = rnd(&w, 5) * MS;
		world_run(&w, rnd(&w, 300000), rnd(&w, 300000), 0, 3600);
		world_close(&w);
	}
}

/* A reader that stops and goes: the window closes and opens again. */
static void test_window(void **state)
{
	for (uint64_t seed = 200; seed < 210; seed++) {
		struct world w;

		world_open(&w, seed);
		w.loss = (unsigned)rnd(&w, 2) * 50;
		w.side[0].peer.read_max = 0;
		w.side[0].peer.to_send = 0;
		w.side[1].peer.to_send = 400000;
		w.side[0].peer.conn =
			tcp_connect(w.tcp[0], IP_SERVER, PORT, peer_event, &w.side[0]);
		for (int i = 0; i < 20 && w.now < 3600 * NET_NS_PER_S; i++) {
			uint64_t until = w.now + rnd(&w, 10000) * MS;

			while (w.now < until)
				world_step(&w);
			check(&w, w.side[0].peer.got + tcp_avail(w.side[0].peer.conn) <= 400000);
			w.side[0].peer.read_max = i & 1 ? 0 : 1 + (uint32_t)rnd(&w, 40);
		}
		w.side[0].peer.read_max = 3000;
		while (!world_done(&w) && w.now < 7200 * NET_NS_PER_S)
			world_step(&w);
		check(&w, w.side[0].peer.got == 400000 && !w.side[0].peer.bad);
		check(&w, world_done(&w));
		world_close(&w);
	}
}

static void test_takeover(void **state)
{
	for (uint64_t seed = 300; seed < 320; seed++) {
		struct world w;

		world_open(&w, seed);
		w.loss = (unsigned)rnd(&w, 3) * 10;
		w.delay_var = rnd(&w, 2) * MS;
		world_run(&w, rnd(&w, 400000), rnd(&w, 400000), 300 + (unsigned)rnd(&w, 700), 3600);
		world_close(&w);
	}
}

/* More clients than slots: every connection that was accepted works, the others are not hurt. */
static void test_slots(void **state)
{
	struct tcp_conn *c[TCP_CONNS];
	struct world w;

	world_open(&w, 5);
	for (int i = 0; i < TCP_CONNS; i++)
		c[i] = tcp_connect(w.tcp[0], IP_SERVER, PORT, peer_event, &w.side[0]);
	check(&w, !tcp_connect(w.tcp[0], IP_SERVER, PORT, peer_event, &w.side[0]));
	w.side[0].peer.gone = w.side[1].peer.gone = true;
	for (int i = 0; i < 10000; i++) /* all SYNs but one are lost to ARP at first */
		world_step(&w);
	for (int i = 0; i < TCP_CONNS; i++) {
		check(&w, c[i]->state == TCP_ESTABLISHED);
		check(&w, w.tcp[1]->conn[i].state == TCP_ESTABLISHED);
		tcp_abort(c[i]);
	}
	for (int i = 0; i < 100; i++)
		world_step(&w);
	for (int i = 0; i < TCP_CONNS; i++)
		check(&w, w.tcp[1]->conn[i].state == TCP_FREE);
	world_close(&w);
}

static void test_refused(void **state)
{
	struct world w;

	world_open(&w, 6);
	w.side[0].peer.conn = tcp_connect(w.tcp[0], IP_SERVER, PORT + 1, peer_event, &w.side[0]);
	for (int i = 0; i < 100; i++)
		world_step(&w);
	check(&w, w.side[0].peer.gone);
	check(&w, w.side[0].peer.conn->state == TCP_FREE);
	world_close(&w);
}

struct catch
{
	size_t len;
	uint8_t data[NET_ETH_MAX];
	unsigned count;
};

static int catch_send(void *ctx, const void *frame, size_t len)
{
	struct catch *k = ctx;

	k->len = len;
	k->count++;
	memcpy(k->data, frame, len);
	return 0;
}

static void echo_recv(void *ctx, uint32_t src, uint16_t sport, const void *data, size_t len)
{
	udp_send(ctx, src, 7, sport, data, len, NULL, 0);
}

/* Frames of a real exchange with random damage, checksums often repaired: nothing may break. */
static void test_damaged(void **state)
{
	struct world w;

	for (uint64_t seed = 400; seed < 420; seed++) {
		world_open(&w, seed);
		udp_bind(&w.side[1].nif, 7, echo_recv, &w.side[1].nif);
		w.side[0].peer.to_send = w.side[1].peer.to_send = 100000;
		w.side[0].peer.conn =
			tcp_connect(w.tcp[0], IP_SERVER, PORT, peer_event, &w.side[0]);
		for (int i = 0; i < 400; i++) {
			world_step(&w);
			for (unsigned j = 0; j < w.nframes; j++) {
				struct frame *f = &w.wire[j];
				uint8_t *ip = f->data + NET_ETH_LEN, *t = ip + 20;
				size_t len = f->len - NET_ETH_LEN;

				if (rnd(&w, 4) || len < 40)
					continue;
				for (uint64_t n = 1 + rnd(&w, 3); n; n--)
					f->data[12 + rnd(&w, 60) % (f->len - 12)] =
						(uint8_t)rnd(&w, 256);
				if (!rnd(&w, 8))
					f->len = (uint32_t)rnd(&w, f->len + 1);
				if (f->len < NET_ETH_LEN + 40 || !rnd(&w, 4))
					continue;
				len = f->len - NET_ETH_LEN;
				net_put16(ip, 0x4500);
				net_put16(ip + 2, (uint16_t)len);
				net_put16(ip + 10, 0);
				net_put16(ip + 10, net_sum_fold(net_sum(0, ip, 20)));
				net_put16(t + 16, 0);
				net_put16(t + 16,
					  net_sum_fold(net_sum(ip_pseudo_sum(net_get32(ip + 12),
									     net_get32(ip + 16),
									     IP_TCP, len - 20),
							       t, len - 20)));
			}
		}
		world_close(&w);
	}
}

static void test_arp_icmp_udp(void **state)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9}, peer[6] = {2, 0, 0, 0, 0, 8};
	static struct net_if nif;
	static struct catch k;
	uint8_t f[128] = {0};

	net_init(&nif, mac, IP_SERVER, 24, 0, catch_send, &k);
	assert_int_equal(udp_bind(&nif, 7, echo_recv, &nif), 0);
	assert_int_equal(udp_bind(&nif, 7, echo_recv, &nif), -EADDRINUSE);
	arp_announce(&nif);
	assert_int_equal(k.len, 60);
	assert_int_equal(net_get32(k.data + 28), IP_SERVER);
	assert_int_equal(net_get32(k.data + 38), IP_SERVER);

	/* who-has from a neighbour */
	memset(f, 0xff, 6);
	memcpy(f + 6, peer, 6);
	net_put16(f + 12, NET_TYPE_ARP);
	memcpy(f + 14, "\0\1\10\0\6\4\0\1", 8);
	memcpy(f + 22, peer, 6);
	net_put32(f + 28, IP_CLIENT);
	net_put32(f + 38, IP_SERVER);
	net_input(&nif, f, 42);
	assert_int_equal(k.count, 2);
	assert_memory_equal(k.data, peer, 6);
	assert_int_equal(net_get16(k.data + 20), 2);
	net_input(&nif, f, 41); /* too short */
	assert_int_equal(k.count, 2);

	/* a datagram waits for ARP of an unknown neighbour, and leaves with its answer */
	assert_int_equal(udp_send(&nif, IP_CLIENT + 9, 7, 99, "hello", 5, NULL, 0), 0);
	assert_int_equal(net_get16(k.data + 12), NET_TYPE_ARP);
	memcpy(f, mac, 6);
	net_put16(f + 20, 2);
	net_put32(f + 28, IP_CLIENT + 9);
	net_input(&nif, f, 42);
	assert_int_equal(net_get16(k.data + 12), NET_TYPE_IP);
	assert_memory_equal(k.data + 42, "hello", 5);

	/* that datagram, turned round, is echoed */
	memcpy(f, k.data, 47);
	memcpy(f, mac, 6);
	memcpy(f + 6, peer, 6);
	net_put32(f + 26, IP_CLIENT + 9);
	net_put32(f + 30, IP_SERVER);
	net_put16(f + 34, 99);
	net_put16(f + 36, 7);
	net_input(&nif, f, 47);
	assert_int_equal(k.len, 47);
	assert_int_equal(net_get16(k.data + 36), 99);
	f[44] ^= 1; /* checksum */
	k.count = 0;
	net_input(&nif, f, 47);
	assert_int_equal(k.count, 0);
}

static void test_parse(void **state)
{
	unsigned prefix = 99;
	uint32_t ip;

	assert_int_equal(net_parse_addr("10.0.0.2/24", &ip, &prefix), 0);
	assert_int_equal(ip, 0x0a000002);
	assert_int_equal(prefix, 24);
	assert_int_equal(net_parse_addr("255.255.255.255", &ip, NULL), 0);
	assert_int_equal(net_parse_addr("10.0.0.256", &ip, NULL), -EINVAL);
	assert_int_equal(net_parse_addr("10.0.0", &ip, NULL), -EINVAL);
	assert_int_equal(net_parse_addr("10.0.0.1/33", &ip, &prefix), -EINVAL);
	assert_int_equal(net_parse_addr("10.0.0.1x", &ip, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),	 cmocka_unit_test(test_arp_icmp_udp),
		cmocka_unit_test(test_clean),	 cmocka_unit_test(test_empty),
		cmocka_unit_test(test_lossy),	 cmocka_unit_test(test_window),
		cmocka_unit_test(test_takeover), cmocka_unit_test(test_slots),
		cmocka_unit_test(test_refused),	 cmocka_unit_test(test_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
