/*
 * TCP frames from a description, with checksums computed in full: what a frame must be after its
 * numbers were changed is the frame of the changed description.
 */
#ifndef TESTS_UNIT_LIBSEGMENT_H
#define TESTS_UNIT_LIBSEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "net/seqmap.h"

#define SEGMENT_FRAME_MAX (65536 + 64)

enum { EXT_HOP = 1, EXT_DEST = 2, EXT_ROUTING = 4, EXT_FRAGMENT = 8 }; /* of IPv6, in this order */

struct made_segment {
	uint8_t version;    /* 4 or 6 */
	uint8_t vlans;	    /* tags: 0 to 2 */
	uint16_t vlan[2];   /* their numbers, inner first; 0 is none */
	bool from_guest;    /* 10.0.0.1, fd00::1, port 80; the peer is .2, port 40000 */
	uint8_t ip_options; /* IPv4: words of them */
	uint8_t extensions; /* IPv6 */
	bool first_of_more; /* a fragment; IPv6 needs EXT_FRAGMENT */
	uint16_t where;	    /* a later one: its offset in 8 bytes */
	bool partial;	    /* NEEDS_CSUM */
	uint16_t gso_size;  /* 0: not TSO */
	uint8_t flags;
	uint32_t seq, ack;
	uint8_t nops; /* in front of the options: 0 to 3 */
	bool timestamps;
	uint32_t ts_val, ts_ecr;
	uint8_t nedges; /* of SACK: 0, 2, 4, 6, 8 */
	uint32_t edges[8];
	uint32_t payload;
	uint8_t padding; /* behind the packet, as of short Ethernet frames */
	uint16_t port;	 /* of the peer, besides 40000 */
};

/* frame: SEGMENT_FRAME_MAX. Returns its length, the virtio_net_hdr included. */
uint32_t segment_make(const struct made_segment *d, uint8_t *frame);
/* An ICMP error to the guest which quotes `bytes` of that packet behind its IP header. */
uint32_t segment_make_error(const struct made_segment *d, uint32_t bytes, uint8_t *frame);
/* The connection of such segments, without VLANs. */
struct seqmap_flow segment_flow(uint8_t version, uint16_t port);
/* Any but the things that make it no TCP segment of its own (where), by a seed as rand_r() has it.
 */
struct made_segment segment_random(unsigned *seed);
uint32_t random32(unsigned *seed);

#endif
