/* A comparison that writes down what it says. */
#ifndef TESTS_LIBCOMPARING_H
#define TESTS_LIBCOMPARING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/libcompare.h"

#define MS  1000000ull
#define SYN PACKET_SYN
#define FIN PACKET_FIN
#define RST PACKET_RST
#define ACK PACKET_ACK

enum { NET, CONSOLE, ORDERS };

/* A letter each: what was released, in order. */
struct fix {
	struct compare c;
	struct compare_verdict v;
	unsigned differs, mapped;
	struct compare_mapping mapping;
	char out[65536];
	unsigned nout;
	uint64_t now;
	void *mem[512]; /* of ours, until it is released; asan sees it read later */
	unsigned nmem;
};

extern const struct compare_ops comparing_ops;
extern const struct compare_limits comparing_limits;
int setup(void **state);
int teardown(void **state);
void ours(struct fix *f, char letter, int sink, const void *data, uint32_t len);
/* In memory that ends there, and is gone afterwards. */
int theirs(struct fix *f, int sink, const void *data, uint32_t len);
void assert_differs(struct fix *f, enum compare_why why);

#define assert_out(f, s)                                                                           \
	do {                                                                                       \
		(f)->out[(f)->nout] = 0;                                                           \
		assert_string_equal((f)->out, s);                                                  \
	} while (0)

struct seg {
	uint32_t seq;
	uint8_t flags;
	uint32_t ack;
	const char *text;
	uint16_t port;
	bool from_client;
};

/* From the start, so far as is not nothing. */
#define SEG(...) ((struct seg){.seq = __VA_ARGS__})

/* A segment of the primary's guest, of the twin's, and of the client. */
void p(struct fix *f, char letter, struct seg s);
void s(struct fix *f, struct seg s);
void input(struct fix *f, struct seg s);

#endif
