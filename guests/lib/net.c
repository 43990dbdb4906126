#include <errno.h>
#include <string.h>

#include "guests/lib/net.h"
#include "guests/lib/ip.h"
#include "guests/lib/tcp.h"

void net_init(struct net_if *nif, const uint8_t mac[6], uint32_t ip, unsigned prefix, uint32_t gw,
	      int (*send)(void *ctx, const void *frame, size_t len), void *ctx)
{
	memset(nif, 0, sizeof(*nif));
	memcpy(nif->mac, mac, 6);
	nif->ip = ip;
	nif->mask = prefix ? ~0u << (32 - prefix) : 0;
	nif->gw = gw;
	nif->send = send;
	nif->send_ctx = ctx;
}

void net_set_time(struct net_if *nif, uint64_t now_ns)
{
	if (now_ns > nif->now)
		nif->now = now_ns;
}

static bool net_frame_is_ours(const struct net_if *nif, const uint8_t *dst)
{
	static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	return !memcmp(dst, nif->mac, 6) || !memcmp(dst, all, 6);
}

void net_input(struct net_if *nif, const void *frame, size_t len)
{
	const uint8_t *p = frame;

	nif->stats.rx_frames++;
	if (len < NET_ETH_LEN) {
		nif->stats.rx_bad++;
		return;
	}
	if (!net_frame_is_ours(nif, p)) {
		nif->stats.rx_ignored++;
		return;
	}
	switch (net_get16(p + 12)) {
	case NET_TYPE_ARP:
		arp_input(nif, p + NET_ETH_LEN, len - NET_ETH_LEN);
		break;
	case NET_TYPE_IP:
		ip_input(nif, p, p + NET_ETH_LEN, len - NET_ETH_LEN);
		break;
	default:
		nif->stats.rx_ignored++;
	}
}

void net_poll(struct net_if *nif, uint64_t now_ns)
{
	net_set_time(nif, now_ns);
	if (nif->tcp)
		tcp_poll(nif->tcp);
}

int net_send(struct net_if *nif, const uint8_t dst[6], uint16_t type, size_t len)
{
	int r;

	memcpy(nif->tx, dst, 6);
	memcpy(nif->tx + 6, nif->mac, 6);
	net_put16(nif->tx + 12, type);
	r = nif->send(nif->send_ctx, nif->tx, NET_ETH_LEN + len);
	if (r < 0)
		nif->stats.tx_dropped++;
	else
		nif->stats.tx_frames++;
	return r < 0 ? r : 0;
}

/* Sums little-endian words: the one's complement sum may be swapped at the end (RFC 1071). */
uint64_t net_sum(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t w = 0;

	for (; len >= 4; p += 4, len -= 4) {
		memcpy(&w, p, 4);
		sum += w;
	}
	if (len) {
		w = 0;
		memcpy(&w, p, len);
		sum += w;
	}
	return sum;
}

uint16_t net_sum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return __builtin_bswap16((uint16_t)~sum);
}

static int net_parse_num(const char **s, unsigned max, unsigned *out)
{
	const char *p = *s;
	unsigned v = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (unsigned)(*p - '0');
		if (v > max)
			return -EINVAL;
	}
	*s = p;
	*out = v;
	return 0;
}

int net_parse_addr(const char *s, uint32_t *ip, unsigned *prefix)
{
	uint32_t addr = 0;
	unsigned n;

	for (int i = 0; i < 4; i++) {
		if (i && *s++ != '.')
			return -EINVAL;
		if (net_parse_num(&s, 255, &n))
			return -EINVAL;
		addr = addr << 8 | n;
	}
	if (*s == '/' && prefix) {
		s++;
		if (net_parse_num(&s, 32, prefix))
			return -EINVAL;
	}
	if (*s)
		return -EINVAL;
	*ip = addr;
	return 0;
}
