#include "net/announce.h"

#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>

#include "net/netdev.h"

#define OP_REQUEST	1
#define OP_REPLY	2
#define OP_RARP_REQUEST 3

#define IP6_BYTES 40
#define NA_BYTES  32

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* One broadcast frame in which sender and target are both the guest (RFC 826, RFC 903). */
static void send_arp(uint16_t type, uint16_t op, const uint8_t mac[6], const uint8_t ipv4[4],
		     announce_fn *send, void *arg)
{
	uint8_t frame[NET_VNET_HDR + ETH_ZLEN] = {0};
	uint8_t *eth = frame + NET_VNET_HDR, *arp = eth + ETH_HLEN;

	memset(eth, 0xff, 6);
	memcpy(eth + 6, mac, 6);
	put16(eth + 12, type);
	put16(arp, ARPHRD_ETHER);
	put16(arp + 2, ETH_P_IP);
	arp[4] = 6;
	arp[5] = 4;
	put16(arp + 6, op);
	memcpy(arp + 8, mac, 6);
	memcpy(arp + 14, ipv4, 4);
	memcpy(arp + 18, mac, 6);
	memcpy(arp + 24, ipv4, 4);
	send(arg, frame, sizeof(frame));
}

/* RFC 4443, 2.3: over addresses, length and protocol of ip, and the NA_BYTES behind it. */
static uint16_t na_sum(const uint8_t *ip)
{
	uint32_t sum = NA_BYTES + IPPROTO_ICMPV6;

	for (unsigned i = 8; i < IP6_BYTES + NA_BYTES; i += 2)
		sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/*
 * RFC 4861, 7.2.6: to all nodes, from the address itself, and it overrides. Whether it is a router
 * is said as the guest did: hosts forget one that says no.
 */
static void send_na(const uint8_t mac[6], const struct address *a, announce_fn *send, void *arg)
{
	static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
	uint8_t frame[NET_VNET_HDR + ETH_HLEN + IP6_BYTES + NA_BYTES] = {0};
	uint8_t *eth = frame + NET_VNET_HDR, *ip = eth + ETH_HLEN, *na = ip + IP6_BYTES;

	memcpy(eth, "\x33\x33\0\0\0\1", 6);
	memcpy(eth + 6, mac, 6);
	put16(eth + 12, ETH_P_IPV6);
	ip[0] = 0x60;
	put16(ip + 4, NA_BYTES);
	ip[6] = IPPROTO_ICMPV6;
	ip[7] = 255;
	memcpy(ip + 8, a->ip, 16);
	memcpy(ip + 24, all_nodes, 16);
	na[0] = ND_NEIGHBOR_ADVERT;
	na[4] = (uint8_t)((a->router ? 0x80 : 0) | 0x20);
	memcpy(na + 8, a->ip, 16);
	na[24] = ND_OPT_TARGET_LINKADDR;
	na[25] = 1;
	memcpy(na + 26, mac, 6);
	put16(na + 2, na_sum(ip));
	send(arg, frame, sizeof(frame));
}

void announce_mac(const uint8_t mac[6], announce_fn *send, void *arg)
{
	static const uint8_t none[4];

	send_arp(ETH_P_RARP, OP_RARP_REQUEST, mac, none, send, arg);
}

void announce_address(const uint8_t mac[6], const struct address *a, announce_fn *send, void *arg)
{
	if (a->version == 6) {
		send_na(mac, a, send, arg);
		return;
	}
	/* Some caches learn from requests only, some from replies only. */
	send_arp(ETH_P_ARP, OP_REQUEST, mac, a->ip, send, arg);
	send_arp(ETH_P_ARP, OP_REPLY, mac, a->ip, send, arg);
}
