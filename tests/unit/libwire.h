/*
 * Streams written by hand, from the description in vmm/wire/stream.h: every header field can be
 * wrong while the checksum is right. Used by the tests and by the fuzzer.
 */
#ifndef TESTS_LIBWIRE_H
#define TESTS_LIBWIRE_H

#include "vmm/wire/stream.h"

#define WIRE_SESSION 0x1122334455667788ull

struct wire {
	uint8_t *p;
	size_t len, cap;
	uint64_t seq;
};

void wire_free(struct wire *w);
void wire_add(struct wire *w, const void *data, size_t n);
void wire_preface(struct wire *w, uint32_t version, uint32_t link, uint64_t session);
/* Add a frame as h says; its sum is made to fit. */
void wire_signed(struct wire *w, struct frame_hdr h, const void *data, size_t n);
struct frame_hdr wire_header(struct wire *w, uint16_t type, size_t n);
void wire_frame(struct wire *w, uint16_t type, const void *data, size_t n);

#endif
