#include <stdbool.h>
#include <string.h>

#include "guests/lib/arp.h"
#include "guests/lib/net.h"

#define ARP_LEN	   28
#define ARP_STALE  (30 * NET_NS_PER_S) /* then ask again, while still using it */
#define ARP_REPEAT (200 * NET_NS_PER_MS)

enum arp_op { ARP_REQUEST = 1, ARP_REPLY = 2 };

static const uint8_t arp_all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static void arp_send(struct net_if *nif, unsigned op, const uint8_t dst[6], const uint8_t tha[6],
		     uint32_t tpa)
{
	static const uint8_t head[6] = {0, 1, 8, 0, 6, 4}; /* Ethernet, IPv4, lengths */
	uint8_t *p = nif->tx + NET_ETH_LEN;

	memcpy(p, head, 6);
	net_put16(p + 6, (uint16_t)op);
	memcpy(p + 8, nif->mac, 6);
	net_put32(p + 14, nif->ip);
	memcpy(p + 18, tha, 6);
	net_put32(p + 24, tpa);
	memset(p + ARP_LEN, 0, 60 - NET_ETH_LEN - ARP_LEN);
	net_send(nif, dst, NET_TYPE_ARP, 60 - NET_ETH_LEN);
}

static struct arp_entry *arp_find(struct arp_table *t, uint32_t ip)
{
	for (int i = 0; i < ARP_ENTRIES; i++)
		if (t->entry[i].ip == ip)
			return &t->entry[i];
	return NULL;
}

/* The entry of `ip`, or the one that was confirmed longest ago. */
static struct arp_entry *arp_take(struct arp_table *t, uint32_t ip)
{
	struct arp_entry *e = arp_find(t, ip);

	if (e)
		return e;
	e = &t->entry[0];
	for (int i = 0; i < ARP_ENTRIES; i++) {
		if (!t->entry[i].ip) {
			e = &t->entry[i];
			break;
		}
		if (t->entry[i].fresh_at < e->fresh_at)
			e = &t->entry[i];
	}
	memset(e, 0, sizeof(*e));
	e->ip = ip;
	return e;
}

static void arp_send_held(struct net_if *nif, struct arp_entry *e)
{
	struct arp_table *t = &nif->arp;
	uint32_t len = t->held_len;

	if (t->held_ip != e->ip)
		return;
	t->held_ip = 0;
	memcpy(nif->tx + NET_ETH_LEN, t->held, len);
	net_send(nif, e->mac, NET_TYPE_IP, len);
}

static void arp_set(struct net_if *nif, struct arp_entry *e, const uint8_t mac[6])
{
	memcpy(e->mac, mac, 6);
	e->known = 1;
	e->fresh_at = nif->now;
	arp_send_held(nif, e);
}

static bool arp_is_neighbour(const struct net_if *nif, uint32_t ip)
{
	return ip && ip != nif->ip && ((ip ^ nif->ip) & nif->mask) == 0;
}

void arp_input(struct net_if *nif, const uint8_t *p, size_t len)
{
	static const uint8_t head[6] = {0, 1, 8, 0, 6, 4};
	struct arp_entry *e;
	uint32_t spa, tpa;
	uint8_t sha[6];

	if (len < ARP_LEN || memcmp(p, head, 6)) {
		nif->stats.rx_bad++;
		return;
	}
	memcpy(sha, p + 8, 6);
	spa = net_get32(p + 14);
	tpa = net_get32(p + 24);
	if (!arp_is_neighbour(nif, spa) || (sha[0] & 1))
		return;
	/* RFC 826: update what is known; add only who talks to us. */
	e = tpa == nif->ip ? arp_take(&nif->arp, spa) : arp_find(&nif->arp, spa);
	if (e)
		arp_set(nif, e, sha);
	if (tpa == nif->ip && net_get16(p + 6) == ARP_REQUEST)
		arp_send(nif, ARP_REPLY, sha, sha, spa);
}

void arp_announce(struct net_if *nif)
{
	static const uint8_t none[6];

	arp_send(nif, ARP_REQUEST, arp_all, none, nif->ip);
}

static void arp_ask(struct net_if *nif, struct arp_entry *e)
{
	static const uint8_t none[6];

	if (e->asked_at && nif->now - e->asked_at < ARP_REPEAT)
		return;
	e->asked_at = nif->now ? nif->now : 1;
	arp_send(nif, ARP_REQUEST, arp_all, none, e->ip);
}

const uint8_t *arp_resolve(const struct net_if *nif, uint32_t ip)
{
	for (int i = 0; i < ARP_ENTRIES; i++)
		if (nif->arp.entry[i].ip == ip && nif->arp.entry[i].known)
			return nif->arp.entry[i].mac;
	return NULL;
}

void arp_hold(struct net_if *nif, uint32_t ip, size_t len)
{
	struct arp_table *t = &nif->arp;

	if (len > ARP_HELD)
		return;
	memcpy(t->held, nif->tx + NET_ETH_LEN, len);
	t->held_ip = ip;
	t->held_len = (uint32_t)len;
	arp_ask(nif, arp_take(t, ip));
}

void arp_refresh(struct net_if *nif, uint32_t ip)
{
	struct arp_entry *e = arp_find(&nif->arp, ip);

	if (e && nif->now - e->fresh_at > ARP_STALE)
		arp_ask(nif, e);
}

void arp_learn(struct net_if *nif, uint32_t ip, const uint8_t mac[6])
{
	struct arp_entry *e;

	if (!arp_is_neighbour(nif, ip) || (mac[0] & 1))
		return;
	e = arp_find(&nif->arp, ip);
	if (e && e->known) {
		if (memcmp(e->mac, mac, 6))
			arp_ask(nif, e);
		return;
	}
	arp_set(nif, arp_take(&nif->arp, ip), mac);
}
