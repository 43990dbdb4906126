#include "guests/lib/netloop.h"
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"

#define NETLOOP_BATCH	64 /* frames handled before answers leave */
#define NETLOOP_LINGER	(200 * NET_NS_PER_MS)
#define NETLOOP_DEFAULT "10.0.0.2/24"

/* By the TSC: two machines with the same input cut the same bytes in different ways. */
static uint32_t netloop_cut(uint32_t mss)
{
	return 1 + (uint32_t)(cpu_tsc() * 0x9e3779b97f4a7c15ull >> 40) % mss;
}

static int netloop_send(void *ctx, const void *frame, size_t len)
{
	return net_dev_send(ctx, frame, (uint32_t)len);
}

static void netloop_configure(const char *key, uint32_t *ip, unsigned *prefix, uint32_t *gw)
{
	char text[32];

	*prefix = 24;
	*gw = 0;
	if (!cmdline_str(key, text, sizeof(text)))
		memcpy(text, NETLOOP_DEFAULT, sizeof(NETLOOP_DEFAULT));
	if (net_parse_addr(text, ip, prefix))
		guest_die(1, "%s=%s: not an address like " NETLOOP_DEFAULT, key, text);
	if (cmdline_str("gw", text, sizeof(text)) && net_parse_addr(text, gw, NULL))
		guest_die(1, "gw=%s: not an address like 10.0.0.1", text);
}

static void *netloop_alloc(size_t size)
{
	return mem_alloc((size + PAGE_SIZE - 1) / PAGE_SIZE);
}

static struct netloop *netloop_open_card(unsigned n, const char *key)
{
	struct netloop *l = netloop_alloc(sizeof(*l));
	uint32_t ip = 0, gw;
	unsigned prefix;
	uint8_t mac[6];
	char word[8];

	netloop_configure(key, &ip, &prefix, &gw);
	l->dev = net_dev_open(n);
	if (!l->dev)
		guest_die(1, "no network card for %s=", key);
	net_dev_mac(l->dev, mac);
	net_init(&l->nif, mac, ip, prefix, gw, netloop_send, l->dev);
	net_set_time(&l->nif, clock_ns());
	l->tcp = netloop_alloc(sizeof(*l->tcp));
	tcp_init(l->tcp, &l->nif, clock_ns() * 0x9e3779b97f4a7c15ull ^ ip);
	l->tcp->isn_clock = cmdline_str("isn", word, sizeof(word)) && !strcmp(word, "clock");
	if (cmdline_str("cut", word, sizeof(word)) && !strcmp(word, "clock"))
		l->tcp->cut = netloop_cut;
	l->tick_until = 0;
	l->next = NULL;
	arp_announce(&l->nif);
	return l;
}

struct netloop *netloop_open(void)
{
	struct netloop *l = netloop_open_card(0, "ip");
	char text[32];

	if (cmdline_str("ip2", text, sizeof(text)))
		l->next = netloop_open_card(1, "ip2");
	return l;
}

/* The timer runs while something is due and a little longer: switching it costs an exit. */
static void netloop_tick(struct netloop *l, uint64_t now, bool needed)
{
	if (needed) {
		if (!l->tick_until)
			timer_periodic(NETLOOP_HZ);
		l->tick_until = now + NETLOOP_LINGER;
	} else if (l->tick_until && now >= l->tick_until) {
		timer_periodic(0);
		l->tick_until = 0;
	}
}

/* Whether there may be more. */
static bool netloop_take(struct netloop *l)
{
	for (int n = 0; n < NETLOOP_BATCH; n++) {
		int len = net_dev_recv(l->dev, l->rx, sizeof(l->rx));

		if (len <= 0)
			return false;
		net_input(&l->nif, l->rx, (size_t)len);
	}
	return true;
}

void netloop_run(struct netloop *l, bool (*app)(void *ctx, uint64_t now), void *ctx)
{
	for (;;) {
		uint64_t seen = guest_events(), now = clock_ns();
		bool needed = false, more = false;

		for (struct netloop *c = l; c; c = c->next) {
			net_set_time(&c->nif, now);
			more |= netloop_take(c);
		}
		if (app)
			needed = app(ctx, now);
		for (struct netloop *c = l; c; c = c->next) {
			net_poll(&c->nif, now);
			needed |= tcp_is_busy(c->tcp);
			if (more)
				net_dev_kick(c->dev);
		}
		netloop_tick(l, now, needed);
		if (!more)
			guest_wait(seen);
	}
}
