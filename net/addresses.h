/*
 * The IP addresses that a guest has, by its own word: senders of its ARP (RFC 826) and targets of
 * its neighbour advertisements (RFC 4861), both with its NIC's MAC address. Not sources of its
 * packets: a router's are others', and so is the virtual address of a server that answers directly.
 * Pure, no locks; whoever has the list guards it. eth: a frame, of len bytes, any bytes.
 */
#ifndef NET_ADDRESSES_H
#define NET_ADDRESSES_H

#include <stdint.h>

#define ADDRESSES_MAX 8

struct address {
	uint8_t version; /* of IP: 4 or 6 */
	uint8_t router;	 /* it said so (version 6) */
	uint8_t ip[16];	 /* in network order; an IPv4 address is the first four bytes */
};

/* The one that it spoke of last is the first; of more than fit the last ones are forgotten. */
struct addresses {
	uint32_t n;
	struct address a[ADDRESSES_MAX];
};

/* A frame that the guest sends. */
void addresses_said(struct addresses *l, const uint8_t mac[6], const uint8_t *eth, uint32_t len);
/* One that it gets: an address that another has now is not the guest's any more. */
void addresses_heard(struct addresses *l, const uint8_t mac[6], const uint8_t *eth, uint32_t len);

#endif
