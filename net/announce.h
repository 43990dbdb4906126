/*
 * Frames that tell switches and neighbours where a MAC address is now, for after a takeover or a
 * migration: gratuitous ARP (request and reply) when the IPv4 address is known, and RARP always.
 */
#ifndef NET_ANNOUNCE_H
#define NET_ANNOUNCE_H

#include <stdint.h>

/* Called once a frame; frame begins with an all-zero virtio_net_hdr of NET_VNET_HDR bytes. */
typedef void announce_fn(void *arg, const void *frame, uint32_t len);

/* ipv4 in network order, all zero when not known. Returns the number of frames. */
unsigned announce_send(const uint8_t mac[6], const uint8_t ipv4[4], announce_fn *send, void *arg);

#endif
