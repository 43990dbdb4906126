/* What frames say: tags, extension headers, and never a byte beyond the frame. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/libcompare.h"

static uint32_t make(uint8_t *buf, int version, bool udp, uint16_t vlan)
{
	struct libcompare_segment s = {.version = version,
				       .port = 4242,
				       .vlan = vlan,
				       .flags = PACKET_ACK,
				       .seq = 0x01020304,
				       .ack = 0x05060708,
				       .data = "payload",
				       .len = 7,
				       .noise = 3};

	return udp ? libcompare_udp(buf, &s) : libcompare_tcp(buf, &s);
}

static void what_it_says(void **state)
{
	for (int i = 0; i < 8; i++) {
		uint8_t buf[300];
		uint32_t len = make(buf, i & 1 ? 6 : 4, i & 2, i & 4 ? 7 : 0);
		char text[100];
		struct packet p;

		memset(buf + len, 0, 9); /* as a frame that is short is filled */
		packet_parse(buf, len + 9, &p);
		assert_int_equal(p.key.kind, i & 2 ? PACKET_UDP : PACKET_TCP);
		assert_int_equal(p.key.sport, 80);
		assert_int_equal(p.key.dport, 4242);
		assert_int_equal(p.key.vlan[0], i & 4 ? 0x8007 : 0);
		assert_int_equal(p.len, 7);
		assert_memory_equal(p.data, "payload", 7);
		if (!(i & 2)) {
			assert_int_equal(p.seq, 0x01020304);
			assert_int_equal(p.ack, 0x05060708);
			assert_int_equal(p.flags, PACKET_ACK);
		}
		packet_describe(&p.key, text, sizeof(text));
		assert_non_null(strstr(text, i & 1 ? "[fd00::2]:80 > [fd00::63]:4242"
						   : "10.0.0.2:80 > 10.0.0.99:4242"));
	}
}

/* Every byte of the flow's name is in its key, and a turned key is that of the way back. */
static void keys(void **state)
{
	struct libcompare_segment s = {.version = 6, .port = 9, .flags = PACKET_ACK};
	struct packet there, back;
	uint8_t buf[300];
	uint32_t len = libcompare_tcp(buf, &s);

	packet_parse(buf, len, &there);
	for (uint32_t i = 12 + 14 + 8; i < 12 + 14 + 44; i++) { /* addresses and ports */
		struct packet p;

		buf[i] ^= 1;
		packet_parse(buf, len, &p);
		assert_memory_not_equal(&p.key, &there.key, sizeof(p.key));
		buf[i] ^= 1;
	}
	s.from_client = true;
	packet_parse(buf, libcompare_tcp(buf, &s), &back);
	packet_turn(&back.key);
	assert_memory_equal(&back.key, &there.key, sizeof(back.key));
}

/* What is known to bear other numbers; all else is not known to. */
static void options_that_fix_the_numbers(void **state)
{
	for (unsigned kind = 2; kind < 256; kind++) {
		char options[] = {(char)kind, 4, 0, 0};
		struct libcompare_segment s = {
			.version = 4, .flags = PACKET_SYN, .options = options, .option_words = 1};
		bool plain = kind <= 5 || kind == 8 || kind == 34;
		struct packet p;
		uint8_t buf[300];

		packet_parse(buf, libcompare_tcp(buf, &s), &p);
		assert_int_equal(p.options, plain ? 0 : PACKET_FIXED);
		s.flags = PACKET_ACK; /* the connection has what its SYN says */
		packet_parse(buf, libcompare_tcp(buf, &s), &p);
		assert_int_equal(p.options, 0);
	}
}

/* Puts a header of 8 bytes behind that of IPv6. */
static uint32_t insert(uint8_t *buf, uint32_t len, uint8_t type, const uint8_t header[8])
{
	uint8_t *ip = buf + 12 + 14;

	memmove(ip + 48, ip + 40, len - 66);
	memcpy(ip + 40, header, 8);
	ip[40] = ip[6];
	ip[6] = type;
	ip[5] = (uint8_t)(ip[5] + 8);
	return len + 8;
}

static void extension_headers(void **state)
{
	static const uint8_t none[8], last[8] = {0, 0, 0x10, 0x08}, first[8] = {0, 0, 0, 1};
	uint8_t buf[500];
	uint32_t len = make(buf, 6, false, 0);
	struct packet p;

	len = insert(buf, len, 60, none);
	len = insert(buf, len, 44, none); /* a fragment that is the whole */
	len = insert(buf, len, 0, none);
	packet_parse(buf, len, &p);
	assert_int_equal(p.key.kind, PACKET_TCP);
	assert_memory_equal(p.data, "payload", 7);
	for (int i = 0; i < 6; i++)
		len = insert(buf, len, 60, none);
	packet_parse(buf, len, &p); /* more than are looked behind */
	assert_int_equal(p.key.kind, PACKET_RAW);
	assert_int_equal(p.len, len - 12);
	len = insert(buf, make(buf, 6, false, 0), 44, last);
	packet_parse(buf, len, &p);
	assert_int_equal(p.key.kind, PACKET_FRAGMENT);
	assert_int_equal(p.key.proto, 6);
	assert_int_equal(p.tag, 0x1008);
	len = insert(buf, make(buf, 6, false, 0), 44, first);
	packet_parse(buf, len, &p);
	assert_int_equal(p.key.kind, PACKET_FRAGMENT);
	assert_int_equal(p.tag, 1);
}

/* Each length, in memory that ends there (for the sanitizers), with each byte of it wrong. */
static void any_length(void **state)
{
	for (int i = 0; i < 8; i++) {
		uint8_t full[300];
		uint32_t whole = make(full, i & 1 ? 6 : 4, i & 2, i & 4 ? 7 : 0);

		for (uint32_t len = 0; len <= whole; len++)
			for (uint32_t at = 24; at < len + 1; at++) {
				uint8_t *copy = malloc(len ? len : 1);
				struct packet p;

				memcpy(copy, full, len);
				if (at < len)
					copy[at] ^= 0xff;
				packet_parse(copy, len, &p);
				assert_true(p.data >= copy && p.data + p.len <= copy + len);
				if (len < whole && at == len)
					assert_int_equal(p.key.kind, PACKET_RAW);
				free(copy);
			}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_it_says),
		cmocka_unit_test(keys),
		cmocka_unit_test(options_that_fix_the_numbers),
		cmocka_unit_test(extension_headers),
		cmocka_unit_test(any_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
