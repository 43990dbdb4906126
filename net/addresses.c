#include "net/addresses.h"

#include <linux/if_ether.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#define ARP_BYTES 28
#define IP6_BYTES 40
/* An advertisement and its one option that matters, the link layer's address (RFC 4861, 4.4). */
#define NA_BYTES 32

/* Who says to have it: address and MAC. */
struct claim {
	struct address addr;
	const uint8_t *mac;
};

static bool claim_arp(const uint8_t *arp, uint32_t len, struct claim *c)
{
	static const uint8_t ethernet_ip[] = {0, 1, 8, 0, 6, 4};
	const uint8_t *ip = arp + 14;

	if (len < ARP_BYTES || memcmp(arp, ethernet_ip, sizeof(ethernet_ip)))
		return false;
	/* Of a probe (RFC 5227) it is 0. */
	if (!ip[0] || ip[0] == 127 || ip[0] >= 224)
		return false;
	c->addr.version = 4;
	memcpy(c->addr.ip, ip, 4);
	c->mac = arp + 8;
	return true;
}

/* One that does not override (proxies, anycast) speaks of an address that others have as well. */
static bool claim_na(const uint8_t *ip, uint32_t len, struct claim *c)
{
	const uint8_t *na = ip + IP6_BYTES, *target = na + 8, *option = na + 24;
	static const uint8_t none[16];

	if (len < IP6_BYTES + NA_BYTES || ip[6] != IPPROTO_ICMPV6 || ip[7] != 255 ||
	    na[0] != ND_NEIGHBOR_ADVERT || !(na[4] & 0x20))
		return false;
	if (option[0] != ND_OPT_TARGET_LINKADDR || option[1] != 1 || target[0] == 0xff ||
	    !memcmp(target, none, sizeof(none)))
		return false;
	c->addr.version = 6;
	c->addr.router = na[4] >> 7;
	memcpy(c->addr.ip, target, 16);
	c->mac = option + 2;
	return true;
}

static bool claim_of(const uint8_t *eth, uint32_t len, struct claim *c)
{
	uint16_t type = len < ETH_HLEN ? 0 : (uint16_t)(eth[12] << 8 | eth[13]);

	memset(c, 0, sizeof(*c));
	if (type == ETH_P_ARP)
		return claim_arp(eth + ETH_HLEN, len - ETH_HLEN, c);
	return type == ETH_P_IPV6 && claim_na(eth + ETH_HLEN, len - ETH_HLEN, c);
}

/* Index of it, or of the end. */
static uint32_t find(const struct addresses *l, const struct address *a)
{
	uint32_t i = 0;

	while (i < l->n && (l->a[i].version != a->version || memcmp(l->a[i].ip, a->ip, 16)))
		i++;
	return i;
}

void addresses_said(struct addresses *l, const uint8_t mac[6], const uint8_t *eth, uint32_t len)
{
	struct claim c;
	uint32_t i;

	if (!claim_of(eth, len, &c) || memcmp(c.mac, mac, 6) || memcmp(eth + 6, mac, 6))
		return;
	i = find(l, &c.addr);
	if (i == l->n && l->n < ADDRESSES_MAX)
		l->n++;
	else if (i == l->n)
		i--;
	memmove(&l->a[1], &l->a[0], i * sizeof(l->a[0]));
	l->a[0] = c.addr;
}

void addresses_heard(struct addresses *l, const uint8_t mac[6], const uint8_t *eth, uint32_t len)
{
	struct claim c;
	uint32_t i;

	if (!claim_of(eth, len, &c) || !memcmp(c.mac, mac, 6))
		return;
	i = find(l, &c.addr);
	if (i == l->n)
		return;
	memmove(&l->a[i], &l->a[i + 1], (l->n - i - 1) * sizeof(l->a[0]));
	l->n--;
	memset(&l->a[l->n], 0, sizeof(l->a[0])); /* equal lists are equal bytes */
}
