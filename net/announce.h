/*
 * Frames that tell switches and neighbours where a MAC address is now, for after a takeover or a
 * migration: RARP for the MAC address, and for an IP address gratuitous ARP (request and reply) or
 * an unsolicited neighbour advertisement.
 */
#ifndef NET_ANNOUNCE_H
#define NET_ANNOUNCE_H

#include <stdint.h>

#include "net/addresses.h"

/* Called once a frame; frame begins with an all-zero virtio_net_hdr of NET_VNET_HDR bytes. */
typedef void announce_fn(void *arg, const void *frame, uint32_t len);

void announce_mac(const uint8_t mac[6], announce_fn *send, void *arg);
void announce_address(const uint8_t mac[6], const struct address *a, announce_fn *send, void *arg);

#endif
