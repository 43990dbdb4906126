#include <errno.h>
#include <string.h>

#include "guests/lib/udp.h"
#include "guests/lib/ip.h"
#include "guests/lib/net.h"

int udp_bind(struct net_if *nif, uint16_t port, udp_recv_fn *recv, void *ctx)
{
	struct udp_bind *slot = NULL;

	for (int i = UDP_PORTS - 1; i >= 0; i--) {
		struct udp_bind *b = &nif->udp.bind[i];

		if (b->port == port)
			return -EADDRINUSE;
		if (!b->port)
			slot = b;
	}
	if (!slot)
		return -ENOSPC;
	*slot = (struct udp_bind){port, recv, ctx};
	return 0;
}

void udp_input(struct net_if *nif, const struct ip_packet *pkt)
{
	const uint8_t *p = pkt->data;
	uint16_t dport;
	size_t len;

	if (pkt->len < UDP_HDR_LEN)
		goto bad;
	len = net_get16(p + 4);
	if (len < UDP_HDR_LEN || len > pkt->len)
		goto bad;
	if (net_get16(p + 6) &&
	    net_sum_fold(net_sum(ip_pseudo_sum(pkt->src, pkt->dst, IP_UDP, len), p, len)))
		goto bad;
	dport = net_get16(p + 2);
	for (int i = 0; i < UDP_PORTS; i++) {
		struct udp_bind *b = &nif->udp.bind[i];

		if (dport && b->port == dport) {
			b->recv(b->ctx, pkt->src, net_get16(p), p + UDP_HDR_LEN, len - UDP_HDR_LEN);
			return;
		}
	}
	nif->stats.rx_ignored++;
	return;
bad:
	nif->stats.rx_bad++;
}

int udp_send(struct net_if *nif, uint32_t dst, uint16_t sport, uint16_t dport, const void *data,
	     size_t len, const void *data2, size_t len2)
{
	uint8_t *p = ip_payload(nif);
	size_t total = UDP_HDR_LEN + len + len2;
	uint16_t sum;

	if (len > UDP_DATA_MAX || len2 > UDP_DATA_MAX - len)
		return -EMSGSIZE;
	net_put16(p, sport);
	net_put16(p + 2, dport);
	net_put16(p + 4, (uint16_t)total);
	net_put16(p + 6, 0);
	memcpy(p + UDP_HDR_LEN, data, len);
	if (len2)
		memcpy(p + UDP_HDR_LEN + len, data2, len2);
	sum = net_sum_fold(net_sum(ip_pseudo_sum(nif->ip, dst, IP_UDP, total), p, total));
	net_put16(p + 6, sum ? sum : 0xffff); /* 0 would mean: not computed */
	return ip_send(nif, dst, IP_UDP, total);
}
