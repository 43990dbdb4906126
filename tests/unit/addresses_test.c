/* Addresses that a guest has by its own word, and the frames that tell neighbours so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "net/addresses.h"
#include "net/announce.h"
#include "net/netdev.h"

static const uint8_t own[6] = {0x52, 0x54, 0, 1, 2, 3}, other[6] = {2, 0, 0, 0, 0, 9};

/* The last frame announced, without its header. */
struct heard {
	unsigned n;
	uint32_t len;
	uint8_t eth[128];
};

static void hear(void *arg, const void *frame, uint32_t len)
{
	struct heard *h = arg;

	assert_in_range(len, NET_VNET_HDR + 60, NET_VNET_HDR + sizeof(h->eth));
	h->n++;
	h->len = len - NET_VNET_HDR;
	memcpy(h->eth, (const uint8_t *)frame + NET_VNET_HDR, h->len);
}

static struct address ip(uint8_t version, uint8_t last)
{
	struct address a = {.version = version, .ip = {10, 1, 2, last}};

	if (version == 6) {
		memcpy(a.ip, "\xfd\0\0\1", 4);
		a.ip[15] = last;
	}
	return a;
}

/* What says "mac has a", in h. */
static void say(struct heard *h, const uint8_t *mac, struct address a)
{
	*h = (struct heard){0};
	announce_address(mac, &a, hear, h);
	assert_int_equal(h->n, a.version == 4 ? 2 : 1);
}

static void one_that_the_guest_has(void **state)
{
	struct addresses l = {0};
	struct heard h;

	for (uint8_t v = 4; v <= 6; v += 2) {
		struct address a = ip(v, 1);

		a.router = v == 6;
		say(&h, own, a);
		addresses_said(&l, own, h.eth, h.len);
		assert_memory_equal(&l.a[0], &a, sizeof(a));
		addresses_said(&l, own, h.eth, h.len); /* once more */
	}
	assert_int_equal(l.n, 2);
	say(&h, other, ip(4, 2)); /* behind a bridge of the guest's */
	addresses_said(&l, own, h.eth, h.len);
	say(&h, own, ip(4, 2)); /* one MAC in the frame's head, another in what it says */
	memcpy(h.eth + 6, other, 6);
	addresses_said(&l, own, h.eth, h.len);
	say(&h, other, ip(6, 2));
	memcpy(h.eth + 6, own, 6);
	addresses_said(&l, own, h.eth, h.len);
	assert_int_equal(l.n, 2);
}

static void one_that_went_to_another(void **state)
{
	struct addresses l = {0}, none = {0};
	struct heard h;

	for (uint8_t v = 4; v <= 6; v += 2) {
		say(&h, own, ip(v, 1));
		addresses_said(&l, own, h.eth, h.len);
		addresses_heard(&l, own, h.eth, h.len); /* its own word, come back */
		say(&h, other, ip(v, 2));
		addresses_heard(&l, own, h.eth, h.len);
		assert_int_equal(l.n, 1);
		say(&h, other, ip(v, 1));
		addresses_heard(&l, own, h.eth, h.len);
		assert_memory_equal(&l, &none, sizeof(l));
	}
}

static void the_latest_are_kept(void **state)
{
	struct addresses l = {0};
	struct heard h;

	for (uint8_t i = 1; i <= 2 * ADDRESSES_MAX; i++) {
		say(&h, own, ip(4, i));
		addresses_said(&l, own, h.eth, h.len);
		assert_int_equal(l.n, i < ADDRESSES_MAX ? i : ADDRESSES_MAX);
		for (uint32_t k = 0; k < l.n; k++)
			assert_int_equal(l.a[k].ip[3], i - k);
	}
	say(&h, own, ip(4, ADDRESSES_MAX + 1)); /* the last in the list */
	addresses_said(&l, own, h.eth, h.len);
	assert_int_equal(l.a[0].ip[3], ADDRESSES_MAX + 1);
	assert_int_equal(l.a[ADDRESSES_MAX - 1].ip[3], ADDRESSES_MAX + 2);
}

/* Frames that say nothing of the kind: a byte changed, and each length that is too short. */
static void nothing_else_counts(void **state)
{
	static const struct {
		uint8_t version, at, is;
	} rows[] = {
		{4, 13, 0x00}, /* an IPv4 packet */ {4, 15, 6},	      /* another hardware */
		{4, 18, 8},    /* length of an address */ {4, 28, 0}, /* a probe */
		{4, 28, 127},  {4, 28, 224},
		{6, 20, 17},   /* UDP */
		{6, 21, 64},   /* it came over a router */
		{6, 54, 135},  /* a solicitation */
		{6, 58, 0},    /* it does not override: a proxy */
		{6, 62, 0xff}, /* a group */
		{6, 78, 1},    /* another option */
		{6, 79, 2},    /* and one of another length */
	};
	struct addresses l = {0};
	struct heard h;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		say(&h, own, ip(rows[i].version, 1));
		h.eth[rows[i].at] = rows[i].is;
		addresses_said(&l, own, h.eth, h.len);
		assert_int_equal(l.n, 0);
	}
	for (uint8_t v = 4; v <= 6; v += 2) {
		uint32_t whole = v == 4 ? 14 + 28 : 14 + 72;

		say(&h, own, ip(v, 1));
		for (uint32_t len = 0; len < whole; len++) {
			uint8_t *part = malloc(len ? len : 1); /* asan knows its end */

			memcpy(part, h.eth, len);
			addresses_said(&l, own, part, len);
			addresses_heard(&l, other, part, len);
			free(part);
			assert_int_equal(l.n, 0);
		}
		addresses_said(&l, own, h.eth, whole);
		assert_int_equal(l.n, 1);
		l = (struct addresses){0};
	}
}

/* RFC 4861, 7.1.2: what a neighbour checks. */
static void advertisement_is_valid(void **state)
{
	struct address a = ip(6, 7);
	struct heard h;
	uint32_t sum = 32 + 58;

	say(&h, own, a);
	assert_int_equal(h.len, 14 + 40 + 32);
	assert_memory_equal(h.eth, "\x33\x33\0\0\0\1", 6);
	for (unsigned i = 14 + 8; i < h.len; i += 2)
		sum += (uint32_t)(h.eth[i] << 8 | h.eth[i + 1]);
	assert_int_equal((sum & 0xffff) + (sum >> 16), 0xffff);
	assert_memory_equal(h.eth + 14 + 8, a.ip, 16);
	assert_memory_equal(h.eth + 14 + 24, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
	assert_int_equal(h.eth[58], 0x20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_that_the_guest_has),
		cmocka_unit_test(one_that_went_to_another),
		cmocka_unit_test(the_latest_are_kept),
		cmocka_unit_test(nothing_else_counts),
		cmocka_unit_test(advertisement_is_valid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
