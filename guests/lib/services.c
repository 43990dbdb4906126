#include "guests/lib/services.h"
#include "guests/kv_proto.h"
#include "guests/lib/guest.h"
#include "guests/stream_proto.h"

#define SERVICES_CHUNK 4096u

struct services {
	struct net_if *nif;
	struct {
		uint64_t serial; /* of the connection that pos belongs to */
		uint32_t pos;	 /* of the next byte in the block */
	} stream[TCP_CONNS];
	uint8_t block[STREAM_PERIOD];
};

static void services_echo_udp(void *ctx, uint32_t src, uint16_t sport, const void *data, size_t len)
{
	struct services *s = ctx;

	udp_send(s->nif, src, KV_ECHO_PORT, sport, data, len, NULL, 0);
}

static void services_echo_tcp(void *ctx, struct tcp_conn *c)
{
	uint8_t buf[SERVICES_CHUNK];
	size_t n;

	if (c->state == TCP_FREE)
		return;
	do {
		n = tcp_room(c) < sizeof(buf) ? tcp_room(c) : sizeof(buf);
		n = tcp_read(c, buf, n);
		tcp_write(c, buf, n);
	} while (n);
	if (tcp_eof(c))
		tcp_close(c);
}

static void services_stream(void *ctx, struct tcp_conn *c)
{
	struct services *s = ctx;
	uint8_t trash[512];
	uint32_t *pos = &s->stream[c->index].pos;

	if (c->state == TCP_FREE)
		return;
	if (s->stream[c->index].serial != c->serial) {
		s->stream[c->index].serial = c->serial;
		*pos = 0;
		c->nodelay = false;
	}
	while (tcp_read(c, trash, sizeof(trash)))
		;
	if (tcp_eof(c)) {
		tcp_close(c);
		return;
	}
	while (tcp_room(c))
		*pos = (*pos + (uint32_t)tcp_write(c, s->block + *pos, STREAM_PERIOD - *pos)) %
		       STREAM_PERIOD;
}

static void services_sink(void *ctx, struct tcp_conn *c)
{
	uint8_t trash[SERVICES_CHUNK];

	if (c->state == TCP_FREE)
		return;
	while (tcp_read(c, trash, sizeof(trash)))
		;
	if (tcp_eof(c))
		tcp_close(c);
}

static void services_start_card(struct netloop *l)
{
	struct services *s = mem_alloc((sizeof(*s) + PAGE_SIZE - 1) / PAGE_SIZE);

	memset(s, 0, sizeof(*s));
	s->nif = &l->nif;
	for (uint32_t i = 0; i < STREAM_PERIOD; i++)
		s->block[i] = stream_byte(i);
	if (udp_bind(&l->nif, KV_ECHO_PORT, services_echo_udp, s) ||
	    tcp_listen(l->tcp, KV_ECHO_PORT, services_echo_tcp, s) ||
	    tcp_listen(l->tcp, STREAM_PORT, services_stream, s) ||
	    tcp_listen(l->tcp, SINK_PORT, services_sink, s))
		guest_die(1, "cannot start the services");
}

void services_start(struct netloop *l)
{
	for (; l; l = l->next)
		services_start_card(l);
}
