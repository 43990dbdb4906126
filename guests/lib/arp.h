/* ARP: answers for our address, resolves neighbours, keeps a small cache. */
#ifndef GUESTS_LIB_ARP_H
#define GUESTS_LIB_ARP_H

#include <stddef.h>
#include <stdint.h>

#define ARP_ENTRIES 16
#define ARP_HELD    1514

struct net_if;

struct arp_entry {
	uint32_t ip; /* 0: free */
	uint8_t mac[6];
	uint8_t known;	   /* mac is valid */
	uint64_t fresh_at; /* when it was last confirmed */
	uint64_t asked_at; /* when it was last asked for; 0: never */
};

struct arp_table {
	struct arp_entry entry[ARP_ENTRIES];
	/* The last frame that had to wait for an answer: saves the sender's first timeout. */
	uint32_t held_ip; /* 0: none */
	uint32_t held_len;
	uint8_t held[ARP_HELD];
};

/* Handles an ARP packet (after the Ethernet header). */
void arp_input(struct net_if *nif, const uint8_t *p, size_t len);
/* Tells the link who and where we are. */
void arp_announce(struct net_if *nif);
/* MAC of an on-link address, or NULL if it is not known. */
const uint8_t *arp_resolve(const struct net_if *nif, uint32_t ip);
/* Keeps the packet in nif->tx (len bytes after the Ethernet header) until `ip` answers, and asks.
 */
void arp_hold(struct net_if *nif, uint32_t ip, size_t len);
/* Asks again if the answer is old. Overwrites nif->tx: call it after sending. */
void arp_refresh(struct net_if *nif, uint32_t ip);
/* Notes that an IP packet from an on-link address came from this MAC. Never overrides ARP,
 * but asks if they differ. */
void arp_learn(struct net_if *nif, uint32_t ip, const uint8_t mac[6]);

#endif
