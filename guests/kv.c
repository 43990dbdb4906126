/*
 * The key-value server of kv_proto.h over UDP and TCP, with the services of echo.c beside it.
 * Options: ip=, ip2= (of a second card), gw=, dirty=N (pages of background memory load on every 10
 * ms tick), cpus=N: each other one has such a load, too, of 8 pages at least. `progress of cpu N
 * at A`: there, in guest memory, is the number of its ticks so far, for a host that looks.
 */
#include "guests/kv_proto.h"
#include "guests/lib/bgload.h"
#include "guests/lib/guest.h"
#include "guests/lib/kv_disk.h"
#include "guests/lib/kv_store.h"
#include "guests/lib/netloop.h"
#include "guests/lib/services.h"

#define KV_WAITING  1024 /* answers that wait for the disk */
#define KV_CARDS    2
#define KV_LOAD_NS  10000000u /* of the other CPUs */
#define KV_LOAD_MIN 8u
#define KV_REP_MAX  (sizeof(struct kv_rep) + KV_LIST_PER_REP * 8)

struct kv_answer {
	struct kv_rep rep;
	uint64_t need;	 /* store.durable that it waits for */
	uint64_t from;	 /* first list element */
	uint64_t serial; /* of the TCP connection; 0: UDP */
	struct tcp_conn *conn;
	struct kv_card *card; /* that it leaves by */
	uint32_t ip;
	uint16_t port;
};

struct kv_client {
	uint64_t serial;
	uint64_t need;	  /* of its last waiting answer: answers keep their order */
	unsigned waiting; /* its answers in the queue */
	bool ending;	  /* nothing more is read; close it after the last answer */
	bool stalled;	  /* has requests that did not fit anywhere */
};

struct kv_card {
	struct kv *kv;
	struct netloop *loop;
	struct kv_client client[TCP_CONNS];
};

struct kv {
	struct kv_store *store;
	struct kv_disk disk;
	struct bgload load[CPU_MAX];
	struct kv_card card[KV_CARDS];
	unsigned cards;
	unsigned count; /* answers in the queue */
	struct kv_answer queue[KV_WAITING];
};

static void kv_tcp_read(struct kv_card *card, struct tcp_conn *c);

static struct kv_client *kv_client_of(const struct kv_answer *a)
{
	return a->serial ? &a->card->client[a->conn->index] : NULL;
}

static bool kv_is_alive(const struct kv_answer *a)
{
	return a->conn->serial == a->serial && a->conn->state != TCP_FREE;
}

/* False if the card is too busy for a datagram. */
static bool kv_send(struct kv *k, const struct kv_answer *a)
{
	const uint64_t *list = NULL;
	size_t len = a->rep.n * 8u;

	if (len)
		list = &k->store->list[a->rep.key][a->from];
	if (!a->serial)
		return udp_send(&a->card->loop->nif, a->ip, KV_PORT, a->port, &a->rep,
				sizeof(a->rep), list, len) != -EAGAIN;
	/* There is room: kv_tcp_read() saw to it. */
	tcp_write(a->conn, &a->rep, sizeof(a->rep));
	if (len)
		tcp_write(a->conn, list, len);
	return true;
}

/* Answers now if nothing has to be waited for, or queues the answer; the queue has room. */
static void kv_answer(struct kv *k, const struct kv_answer *a)
{
	struct kv_client *client = kv_client_of(a);
	struct kv_answer *slot;

	if (a->need <= k->store->durable && !(client && client->waiting) && kv_send(k, a))
		return;
	slot = &k->queue[k->count++];
	*slot = *a;
	if (client) {
		if (client->waiting && client->need > a->need)
			slot->need = client->need;
		client->need = slot->need;
		client->waiting++;
	}
}

static void kv_udp_recv(void *ctx, uint32_t src, uint16_t sport, const void *data, size_t len)
{
	struct kv_answer a = {.card = ctx, .ip = src, .port = sport};
	struct kv *k = a.card->kv;
	struct kv_req req = {0};

	memcpy(&req, data, len < sizeof(req) ? len : sizeof(req));
	if (req.magic == KV_REP_MAGIC || k->count == KV_WAITING)
		return; /* never answer an answer; too busy is like lost */
	if (len != sizeof(req))
		req.magic = 0;
	a.from = req.a;
	if (kv_store_apply(k->store, &req, &a.rep, &a.need))
		kv_answer(k, &a);
}

static void kv_tcp_end(struct kv_card *card, struct tcp_conn *c)
{
	struct kv_client *client = &card->client[c->index];

	client->ending = true;
	if (!client->waiting)
		tcp_close(c);
}

static void kv_tcp_read(struct kv_card *card, struct tcp_conn *c)
{
	struct kv_client *client = &card->client[c->index];
	struct kv_answer a = {.conn = c, .card = card, .serial = c->serial};
	struct kv *k = card->kv;
	struct kv_req req;

	client->stalled = false;
	while (!client->ending && tcp_avail(c) >= sizeof(req)) {
		if (k->count == KV_WAITING || tcp_room(c) < (client->waiting + 1) * KV_REP_MAX) {
			client->stalled = true;
			return;
		}
		tcp_peek(c, &req, sizeof(req));
		if (req.magic != KV_REQ_MAGIC) {
			kv_tcp_end(card, c);
			return;
		}
		a.from = req.a;
		if (!kv_store_apply(k->store, &req, &a.rep, &a.need)) {
			client->stalled = true;
			return;
		}
		tcp_read(c, &req, sizeof(req));
		kv_answer(k, &a);
	}
	if (!client->ending && c->fin_seen)
		kv_tcp_end(card, c);
}

static void kv_tcp_event(void *ctx, struct tcp_conn *c)
{
	struct kv_card *card = ctx;
	struct kv_client *client = &card->client[c->index];

	if (c->state == TCP_FREE)
		return;
	if (client->serial != c->serial)
		*client = (struct kv_client){.serial = c->serial};
	kv_tcp_read(card, c);
}

/* Sends what the disk has caught up with; the others keep their order. */
static void kv_release(struct kv *k)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < k->count; i++) {
		struct kv_answer *a = &k->queue[i];
		struct kv_client *client = kv_client_of(a);

		if (client && !kv_is_alive(a))
			continue;
		if (a->need > k->store->durable || !kv_send(k, a)) {
			if (kept != i)
				k->queue[kept] = *a;
			kept++;
			continue;
		}
		if (client && !--client->waiting && client->ending)
			tcp_close(a->conn);
	}
	k->count = kept;
}

/* Those whose requests did not fit. */
static void kv_read_stalled(struct kv_card *card)
{
	for (int i = 0; i < TCP_CONNS; i++) {
		struct tcp_conn *c = &card->loop->tcp->conn[i];

		if (card->client[i].stalled && card->client[i].serial == c->serial &&
		    c->state != TCP_FREE)
			kv_tcp_read(card, c);
	}
}

static bool kv_poll(void *ctx, uint64_t now)
{
	struct kv *k = ctx;
	bool again;

	kv_disk_poll(&k->disk);
	kv_release(k);
	for (unsigned i = 0; i < k->cards; i++)
		kv_read_stalled(&k->card[i]);
	/* What was read just now may start the next commit. */
	again = kv_disk_poll(&k->disk);
	kv_release(k);
	bgload_poll(&k->load[0], now);
	return again || k->load[0].pages;
}

static void kv_serve(struct kv *k, struct netloop *l)
{
	struct kv_card *card = &k->card[k->cards++];

	*card = (struct kv_card){.kv = k, .loop = l};
	if (udp_bind(&l->nif, KV_PORT, kv_udp_recv, card) ||
	    tcp_listen(l->tcp, KV_PORT, kv_tcp_event, card))
		guest_die(1, "kv: cannot listen");
}

static void kv_cpu(void *arg)
{
	for (;;) {
		uint64_t now = clock_ns();

		bgload_poll(arg, now);
		guest_sleep_until(now + KV_LOAD_NS);
	}
}

/* All memory is taken before: the allocator is of CPU 0. */
static void kv_start_cpus(struct kv *k, uint64_t pages)
{
	for (unsigned i = 1; i < cpu_count(); i++) {
		bgload_start(&k->load[i], pages < KV_LOAD_MIN ? KV_LOAD_MIN : pages);
		if (smp_start(i, kv_cpu, &k->load[i]))
			guest_die(2, "kv: cpu %u does not start", i);
		print("progress of cpu %u at %#lx\n", i, (uint64_t)&k->load[i].tick);
	}
}

int main(void)
{
	struct netloop *l = netloop_open();
	struct kv *k = mem_alloc((sizeof(*k) + PAGE_SIZE - 1) / PAGE_SIZE);

	memset(k, 0, sizeof(*k));
	k->store = mem_alloc((sizeof(*k->store) + PAGE_SIZE - 1) / PAGE_SIZE);
	kv_disk_open(&k->disk, k->store);
	bgload_start(&k->load[0], cmdline_u64("dirty", 0));
	kv_start_cpus(k, cmdline_u64("dirty", 0));
	services_start(l);
	for (struct netloop *c = l; c; c = c->next)
		kv_serve(k, c);
	print("READY\n");
	netloop_run(l, kv_poll, k);
}
