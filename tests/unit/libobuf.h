/* An output buffer with two sinks that keep what they get. Include before it: libvirtio.h. */
#ifndef TESTS_LIBOBUF_H
#define TESTS_LIBOBUF_H

#include "net/obuf.h"
#include "tests/unit/libvirtio.h"

struct fix {
	struct obuf ob;
	struct loop loop; /* only its budget: each look takes some of it */
	struct rig_out a, b;
	int sa, sb;
	unsigned rooms;
	bool put_in_room;
};

int obuf_setup(void **state);
int obuf_teardown(void **state);
int obuf_says(struct fix *f, int sink, const char *s);
/* For sinks of a test's own; arg is the fix. */
bool obuf_deliver_a(void *arg, const void *data, uint32_t len);
void obuf_has_room(void *arg);

#define assert_out(o, s)                                                                           \
	do {                                                                                       \
		assert_int_equal((o).bytes, strlen(s));                                            \
		assert_memory_equal((o).data, s, strlen(s));                                       \
	} while (0)

#endif
