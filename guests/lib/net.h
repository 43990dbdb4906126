/*
 * Ethernet interface of the guests' network stack. The stack is single-threaded, keeps all state
 * in structs of its caller, and knows nothing of the driver below, so it also runs on a host.
 *
 * Event loop: net_set_time(); net_input() for every received frame; application; net_poll().
 */
#ifndef GUESTS_LIB_NET_H
#define GUESTS_LIB_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guests/lib/arp.h"
#include "guests/lib/udp.h"

#define NET_MTU	    1500
#define NET_ETH_LEN 14
#define NET_ETH_MAX (NET_ETH_LEN + NET_MTU)

#define NET_NS_PER_MS 1000000ull
#define NET_NS_PER_S  1000000000ull

enum net_ethertype { NET_TYPE_IP = 0x0800, NET_TYPE_ARP = 0x0806 };

struct net_stats {
	uint64_t rx_frames;
	uint64_t rx_bad;     /* malformed, wrong checksum, or a fragment */
	uint64_t rx_ignored; /* well-formed, but not for us */
	uint64_t tx_frames;
	uint64_t tx_dropped; /* refused by the driver, or no ARP answer yet */
};

struct tcp_stack;

struct net_if {
	uint8_t mac[6];
	uint32_t ip; /* all addresses are in host byte order */
	uint32_t mask;
	uint32_t gw;					       /* 0: none */
	uint64_t now;					       /* ns, never goes back */
	int (*send)(void *ctx, const void *frame, size_t len); /* copies; 0 or negative errno */
	void *send_ctx;
	struct arp_table arp;
	struct udp_table udp;
	struct tcp_stack *tcp; /* NULL: no TCP */
	struct net_stats stats;
	uint8_t tx[NET_ETH_MAX]; /* the frame being built */
};

/* Big-endian fields of a packet, at any alignment. */
static inline uint16_t net_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t net_get32(const uint8_t *p)
{
	return (uint32_t)net_get16(p) << 16 | net_get16(p + 2);
}

static inline void net_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void net_put32(uint8_t *p, uint32_t v)
{
	net_put16(p, (uint16_t)(v >> 16));
	net_put16(p + 2, (uint16_t)v);
}

/* Sets up an interface without listeners; the caller then sets nif->tcp if it wants TCP. */
void net_init(struct net_if *nif, const uint8_t mac[6], uint32_t ip, unsigned prefix, uint32_t gw,
	      int (*send)(void *ctx, const void *frame, size_t len), void *ctx);
/* The time that everything until the next call happens at. */
void net_set_time(struct net_if *nif, uint64_t now_ns);
/* Handles one received frame (without a vnet header). Reads frame[0..len) only. */
void net_input(struct net_if *nif, const void *frame, size_t len);
/* Runs timers and sends what is due. Call it last before waiting. */
void net_poll(struct net_if *nif, uint64_t now_ns);
/* Sends nif->tx with `len` bytes after the Ethernet header, which this fills in. */
int net_send(struct net_if *nif, const uint8_t dst[6], uint16_t type, size_t len);

/* Internet checksum: partial sums can be chained, net_sum_fold() ends them. */
uint64_t net_sum(uint64_t sum, const void *data, size_t len);
uint16_t net_sum_fold(uint64_t sum);

/* Parses "a.b.c.d" or "a.b.c.d/prefix" (prefix NULL: not allowed). 0 or -EINVAL. */
int net_parse_addr(const char *s, uint32_t *ip, unsigned *prefix);

#endif
