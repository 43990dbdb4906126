/*
 * The TCP header in an Ethernet frame, or what an ICMP error quotes of one, to be changed in place
 * with the checksum kept right. Frames are those of netdev.h: a virtio_net_hdr, Ethernet, up to two
 * VLAN tags, IPv4 or IPv6 with extension headers. A frame of many segments (gso_type) has one
 * header, whose numbers are those of the first.
 *
 * Pure, of any thread; the frame is the caller's own memory, which nobody else changes. The header
 * is read once, by copy, and every length in it checked.
 */
#ifndef NET_SEGMENT_H
#define NET_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#define SEGMENT_HEADER_MAX 60

/* Where things are in a TCP header (RFC 9293, 3.1), and its flags. */
enum { SEGMENT_SEQ = 4, SEGMENT_ACK = 8, SEGMENT_OPTIONS = 20 };
enum { SEGMENT_FIN = 1, SEGMENT_SYN = 2, SEGMENT_RST = 4, SEGMENT_HAS_ACK = 16 };

struct segment {
	uint8_t version; /* of IP: 4 or 6 */
	bool quoted;	 /* by an ICMP error: ports and SEGMENT_SEQ are all there is of it */
	bool whole;	 /* not the first fragment of more: `payload` is all of it */
	uint8_t src[16], dst[16]; /* IPv4: four bytes, then zeros. Quoted: of the quoted packet */
	uint16_t sport, dport;
	uint8_t flags;	  /* 0: quoted */
	uint16_t vlan[2]; /* numbers of the tags, outer first; 0, and a tag with 0: none */
	uint32_t payload; /* bytes behind the header */
	uint32_t header;  /* bytes of it */
	/* The rest is segment.c's. */
	uint8_t copy[SEGMENT_HEADER_MAX];
	uint8_t *in_frame;
	uint8_t *sum;	 /* the checksum over it, in the frame */
	bool keep_sum;	 /* it is that of the pseudo header only: others complete it */
	uint32_t change; /* one's complement sum of what changed */
};

/*
 * `frame` begins with the virtio_net_hdr; len counts it. False: not TCP, a later fragment, cut off,
 * or not as the RFCs have it.
 */
bool segment_find(struct segment *s, uint8_t *frame, uint32_t len);
uint32_t segment_get(const struct segment *s, unsigned at);
/* Adds to the 32 bits at `at`, modulo 2^32; the frame is not changed before segment_put(). */
void segment_add(struct segment *s, unsigned at, uint32_t by);
/*
 * The option at *at, which is SEGMENT_OPTIONS at first: its kind and all of its bytes; *at goes
 * behind it. 0: no more, or none that can be one.
 */
unsigned segment_option(const struct segment *s, unsigned *at, unsigned *ret_bytes);
void segment_put(struct segment *s);

#endif
