/*
 * The server of chance_proto.h: two machines with the same input give answers that differ in one
 * byte, which each draws by its TSC. Options: ip=, gw=, `same`: nothing is drawn, the byte is 0.
 */
#include "guests/chance_proto.h"
#include "guests/lib/guest.h"
#include "guests/lib/netloop.h"
#include "guests/lib/sys.h"

struct chance {
	struct net_if *nif;
	bool same;
	uint16_t drawn[CHANCE_IDS]; /* CHANCE_NONE: not yet */
};

static uint8_t draw(const struct chance *c)
{
	return c->same ? 0 : (uint8_t)(cpu_tsc() * 0x9e3779b97f4a7c15ull >> 40);
}

/* false: it is no question. */
static bool answer(struct chance *c, const struct chance_ask *ask, struct chance_answer *a)
{
	uint16_t *drawn = &c->drawn[ask->id % CHANCE_IDS];

	if (ask->id >= CHANCE_IDS || ask->op > CHANCE_TELL || ask->where >= CHANCE_DATA)
		return false;
	a->id = ask->id;
	a->drawn = ask->op == CHANCE_TELL ? *drawn : CHANCE_NONE;
	memset(a->data, ask->where, sizeof(a->data));
	if (ask->op == CHANCE_TELL)
		return true;
	if (*drawn == CHANCE_NONE)
		*drawn = draw(c);
	if (ask->op == CHANCE_CONSOLE)
		print("chance %u %u\n", ask->id, *drawn);
	else
		a->data[ask->where] = (uint8_t)*drawn;
	return true;
}

static void by_udp(void *ctx, uint32_t src, uint16_t sport, const void *data, size_t len)
{
	struct chance *c = ctx;
	struct chance_ask ask;
	struct chance_answer a;

	if (len != sizeof(ask))
		return;
	memcpy(&ask, data, sizeof(ask));
	if (answer(c, &ask, &a))
		udp_send(c->nif, src, CHANCE_PORT, sport, &a, sizeof(a), NULL, 0);
}

static void by_tcp(void *ctx, struct tcp_conn *conn)
{
	struct chance_ask ask;
	struct chance_answer a;

	if (conn->state == TCP_FREE)
		return;
	while (tcp_avail(conn) >= sizeof(ask) && tcp_room(conn) >= sizeof(a)) {
		tcp_read(conn, &ask, sizeof(ask));
		if (!answer(ctx, &ask, &a)) {
			tcp_abort(conn);
			return;
		}
		tcp_write(conn, &a, sizeof(a));
	}
	if (tcp_eof(conn))
		tcp_close(conn);
}

int main(void)
{
	struct netloop *l = netloop_open();
	struct chance *c = mem_alloc((sizeof(*c) + PAGE_SIZE - 1) / PAGE_SIZE);
	char text[8];

	c->nif = &l->nif;
	c->same = cmdline_str("same", text, sizeof(text));
	for (unsigned i = 0; i < CHANCE_IDS; i++)
		c->drawn[i] = CHANCE_NONE;
	if (udp_bind(&l->nif, CHANCE_PORT, by_udp, c) || tcp_listen(l->tcp, CHANCE_PORT, by_tcp, c))
		guest_die(1, "chance: cannot listen");
	print("READY\n");
	netloop_run(l, NULL, NULL);
}
