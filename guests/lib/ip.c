#include <string.h>

#include "guests/lib/ip.h"
#include "guests/lib/icmp.h"
#include "guests/lib/net.h"
#include "guests/lib/tcp.h"

#define IP_DF	   0x4000
#define IP_MF_OFFS 0x3fff
#define IP_TTL	   64

uint64_t ip_pseudo_sum(uint32_t src, uint32_t dst, uint8_t proto, size_t len)
{
	uint8_t h[12];

	net_put32(h, src);
	net_put32(h + 4, dst);
	h[8] = 0;
	h[9] = proto;
	net_put16(h + 10, (uint16_t)len);
	return net_sum(0, h, sizeof(h));
}

void ip_input(struct net_if *nif, const uint8_t *eth, const uint8_t *p, size_t len)
{
	struct ip_packet pkt;
	size_t hlen, total;

	if (len < IP_HDR_LEN || p[0] >> 4 != 4)
		goto bad;
	hlen = (p[0] & 15u) * 4;
	total = net_get16(p + 2);
	/* Short frames are padded: the header says where the packet ends. */
	if (hlen < IP_HDR_LEN || total < hlen || total > len)
		goto bad;
	if (net_sum_fold(net_sum(0, p, hlen)) || (net_get16(p + 6) & IP_MF_OFFS))
		goto bad;
	pkt.src = net_get32(p + 12);
	pkt.dst = net_get32(p + 16);
	pkt.data = p + hlen;
	pkt.len = total - hlen;
	/* Nothing here answers to broadcasts, and a source that is not a host is a forgery. */
	if (pkt.dst != nif->ip || pkt.src == nif->ip || !pkt.src || pkt.src >> 28 >= 14) {
		nif->stats.rx_ignored++;
		return;
	}
	arp_learn(nif, pkt.src, eth + 6);
	if (p[9] == IP_TCP && nif->tcp)
		tcp_input(nif->tcp, &pkt);
	else if (p[9] == IP_UDP)
		udp_input(nif, &pkt);
	else if (p[9] == IP_ICMP)
		icmp_input(nif, &pkt);
	else
		nif->stats.rx_ignored++;
	return;
bad:
	nif->stats.rx_bad++;
}

uint8_t *ip_payload(struct net_if *nif)
{
	return nif->tx + NET_ETH_LEN + IP_HDR_LEN;
}

int ip_send(struct net_if *nif, uint32_t dst, uint8_t proto, size_t len)
{
	uint8_t *p = nif->tx + NET_ETH_LEN;
	uint32_t hop = dst;
	const uint8_t *mac;
	int r;

	p[0] = 0x45;
	p[1] = 0;
	net_put16(p + 2, (uint16_t)(IP_HDR_LEN + len));
	/* RFC 6864: the id of a packet that is never fragmented means nothing; 0 is reproducible.
	 */
	net_put16(p + 4, 0);
	net_put16(p + 6, IP_DF);
	p[8] = IP_TTL;
	p[9] = proto;
	net_put16(p + 10, 0);
	net_put32(p + 12, nif->ip);
	net_put32(p + 16, dst);
	net_put16(p + 10, net_sum_fold(net_sum(0, p, IP_HDR_LEN)));

	if (((dst ^ nif->ip) & nif->mask) && nif->gw)
		hop = nif->gw;
	mac = arp_resolve(nif, hop);
	if (!mac) {
		arp_hold(nif, hop, IP_HDR_LEN + len);
		return 0;
	}
	r = net_send(nif, mac, NET_TYPE_IP, IP_HDR_LEN + len);
	arp_refresh(nif, hop);
	return r;
}
