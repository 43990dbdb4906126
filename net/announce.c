#include "net/announce.h"

#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <string.h>

#include "net/netdev.h"

#define OP_REQUEST	1
#define OP_REPLY	2
#define OP_RARP_REQUEST 3

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* One broadcast frame in which sender and target are both the guest (RFC 826, RFC 903). */
static void send_one(uint16_t type, uint16_t op, const uint8_t mac[6], const uint8_t ipv4[4],
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

unsigned announce_send(const uint8_t mac[6], const uint8_t ipv4[4], announce_fn *send, void *arg)
{
	static const uint8_t unknown[4];
	unsigned n = 1;

	/* Some caches learn from requests only, some from replies only. */
	if (memcmp(ipv4, unknown, 4)) {
		send_one(ETH_P_ARP, OP_REQUEST, mac, ipv4, send, arg);
		send_one(ETH_P_ARP, OP_REPLY, mac, ipv4, send, arg);
		n += 2;
	}
	/* For switches: where the MAC address is. No IP addresses in it. */
	send_one(ETH_P_RARP, OP_RARP_REQUEST, mac, unknown, send, arg);
	return n;
}
