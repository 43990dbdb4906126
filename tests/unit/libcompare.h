/* Frames for net/compare.c: a guest at 10.0.0.2 or fd00::2 and its clients. No cmocka in here. */
#ifndef TESTS_LIBCOMPARE_H
#define TESTS_LIBCOMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "net/compare.h"
#include "net/packet.h"

#define LIBCOMPARE_ROOM 200u /* beyond the payload */

struct libcompare_segment {
	int version;   /* 4 or 6 */
	uint16_t port; /* the client's: which flow */
	uint16_t vlan; /* 0: none */
	bool from_client;
	uint8_t flags;
	uint32_t seq, ack;
	const void *data;
	uint32_t len;
	const void *options; /* of the header, in place of noise */
	uint8_t option_words;
	uint32_t noise; /* window, options, id, time to live, checksums: what does not count */
};

/* buf: len + LIBCOMPARE_ROOM bytes. Return the frame's length. */
uint32_t libcompare_tcp(uint8_t *buf, const struct libcompare_segment *s);
uint32_t libcompare_udp(uint8_t *buf, const struct libcompare_segment *s);
/* proto with a header of none. where: the field of fragments. */
uint32_t libcompare_ip4(uint8_t *buf, uint8_t proto, uint16_t where, const void *data, uint32_t len,
			uint32_t noise);

/* Numbers from a seed. */
uint64_t libcompare_random(uint64_t *seed);

#endif
