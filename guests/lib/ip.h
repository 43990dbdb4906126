/* IPv4 without options on output and without fragments in either direction. */
#ifndef GUESTS_LIB_IP_H
#define GUESTS_LIB_IP_H

#include <stddef.h>
#include <stdint.h>

#define IP_HDR_LEN 20

struct net_if;

enum ip_proto { IP_ICMP = 1, IP_TCP = 6, IP_UDP = 17 };

/* A received packet after its header was checked; valid during the call only. */
struct ip_packet {
	uint32_t src;
	uint32_t dst;
	const uint8_t *data;
	size_t len;
};

/* Handles an IP packet of at most `len` bytes; eth is the frame's header (for the sender's MAC). */
void ip_input(struct net_if *nif, const uint8_t *eth, const uint8_t *p, size_t len);
/* Where the payload of the next ip_send() is to be built: NET_MTU - IP_HDR_LEN bytes. */
uint8_t *ip_payload(struct net_if *nif);
/* Sends len bytes of ip_payload(). 0 (also when it waits for ARP) or the driver's error. */
int ip_send(struct net_if *nif, uint32_t dst, uint8_t proto, size_t len);
/* Partial checksum of the TCP/UDP pseudo header. */
uint64_t ip_pseudo_sum(uint32_t src, uint32_t dst, uint8_t proto, size_t len);

#endif
