/* Flow hashes: equal within a flow, spread over flows, and never a byte beyond the frame. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "net/flow.h"

#define IP4_TCP 54
#define IP6_TCP 74

/* A TCP segment between .1 and .2, ports 1000 + port and 80; version 4 or 6. */
static uint32_t make(uint8_t *p, int version, uint16_t port)
{
	uint8_t *ip = p + 14, *tcp = ip + (version == 4 ? 20 : 40);

	memset(p, 0, 128);
	memcpy(p + 12, version == 4 ? "\x08\x00" : "\x86\xdd", 2);
	if (version == 4) {
		ip[0] = 0x45;
		ip[6] = 0x40; /* do not fragment */
		ip[9] = 6;
		memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
	} else {
		ip[0] = 0x60;
		ip[6] = 6;
		ip[23] = 1;
		ip[39] = 2;
	}
	tcp[0] = (uint8_t)((1000 + port) >> 8);
	tcp[1] = (uint8_t)(1000 + port);
	tcp[3] = 80;
	return version == 4 ? IP4_TCP : IP6_TCP;
}

static void one_flow_one_hash(void **state)
{
	for (int v = 4; v <= 6; v += 2) {
		uint8_t p[128];
		uint32_t len = make(p, v, 1), h = flow_hash(p, len);

		memcpy(p, "\1\2\3\4\5\6\7\10\11\12\13\14", 12); /* other MACs */
		for (uint32_t i = 4; i < 20; i++) /* numbers, flags, window, checksum */
			p[len - 20 + i] = (uint8_t)(7 * i);
		p[14 + 1] = 0xff;
		if (v == 4) {
			p[14 + 3] = 0xff; /* length, id, time to live, checksum */
			p[14 + 5] = 0xff;
			p[14 + 8] = 0xff;
			p[14 + 11] = 0xff;
		} else {
			p[14 + 5] = 0xff;
			p[14 + 7] = 0xff;
		}
		assert_int_equal(flow_hash(p, len), h);
		assert_int_equal(flow_hash(p, 128), h);
	}
}

static void flows_are_spread(void **state)
{
	for (int v = 4; v <= 6; v += 2)
		for (unsigned queues = 2; queues <= 8; queues *= 2) {
			unsigned of[8] = {0};

			for (uint16_t port = 0; port < 1000; port++) {
				uint8_t p[128];
				uint32_t len = make(p, v, port);

				of[flow_hash(p, len) % queues]++;
			}
			for (unsigned i = 0; i < queues; i++)
				assert_in_range(of[i], 1000 / queues / 2, 1000 / queues * 2);
		}
}

/* Every address byte counts. */
static void addresses_count(void **state)
{
	for (int v = 4; v <= 6; v += 2) {
		uint8_t p[128];
		uint32_t len = make(p, v, 1), h = flow_hash(p, len);
		unsigned at = v == 4 ? 14 + 12 : 14 + 8, n = v == 4 ? 8 : 32;

		for (unsigned i = 0; i < n + 4; i++) { /* and the ports behind an IPv4 header */
			unsigned where = i < n ? at + i : (unsigned)len - 20 + i - n;

			p[where] ^= 1;
			assert_int_not_equal(flow_hash(p, len), h);
			p[where] ^= 1;
		}
	}
}

/* UDP in fragments: the first has ports, the others have not, and all must go the same way. */
static void fragments_stay_together(void **state)
{
	uint8_t p[128];
	uint32_t len = make(p, 4, 1), whole;

	p[14 + 9] = 17;
	whole = flow_hash(p, len);
	p[14 + 6] = 0x20;
	assert_int_equal(flow_hash(p, len), whole);
	p[14 + 6] = 0;
	p[14 + 7] = 185;
	memset(p + 34, 0x77, 20);
	assert_int_equal(flow_hash(p, len), whole);
}

static void what_is_not_ip(void **state)
{
	uint8_t p[128];

	make(p, 4, 1);
	memcpy(p + 12, "\x08\x06", 2);
	assert_int_equal(flow_hash(p, 60), 0);
	memcpy(p + 12, "\x81\x00", 2);
	assert_int_equal(flow_hash(p, 60), 0);
}

/* Each length, in memory that ends there (for the sanitizers), with every IPv4 header length. */
static void any_length(void **state)
{
	for (int v = 4; v <= 6; v += 2)
		for (unsigned ihl = 0; ihl < 16; ihl++)
			for (uint32_t len = 0; len <= 100; len++) {
				uint8_t full[128], *p = malloc(len ? len : 1);

				make(full, v, 1);
				if (v == 4)
					full[14] = (uint8_t)(0x40 | ihl);
				memcpy(p, full, len);
				flow_hash(p, len);
				if (len < 14 + 20)
					assert_int_equal(flow_hash(p, len), 0);
				free(p);
			}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_flow_one_hash), cmocka_unit_test(flows_are_spread),
		cmocka_unit_test(addresses_count),   cmocka_unit_test(fragments_stay_together),
		cmocka_unit_test(what_is_not_ip),    cmocka_unit_test(any_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
