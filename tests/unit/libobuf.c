#include "tests/unit/libobuf.h"

#include <stdlib.h>
#include <string.h>

int obuf_says(struct fix *f, int sink, const char *s)
{
	struct iovec iov = {(void *)s, strlen(s)};

	return obuf_put(&f->ob, sink, &iov, 1);
}

void obuf_has_room(void *arg)
{
	struct fix *f = arg;

	f->rooms++;
	if (f->put_in_room) {
		f->put_in_room = false;
		assert_int_equal(obuf_says(f, f->sa, "again"), 0);
	}
}

bool obuf_deliver_a(void *arg, const void *data, uint32_t len)
{
	struct fix *f = arg;

	return rig_deliver(&f->a, data, len);
}

int obuf_setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	obuf_init(&f->ob, 1000);
	rig_set_clock(&f->loop, LOOP_BUDGET_NS / 200);
	f->sa = obuf_add_sink(&f->ob, OBUF_NET, rig_deliver, NULL, &f->a);
	f->sb = obuf_add_sink(&f->ob, OBUF_NET, rig_deliver, NULL, &f->b);
	*state = f;
	return 0;
}

int obuf_teardown(void **state)
{
	struct fix *f = *state;

	obuf_done(&f->ob);
	free(f);
	return 0;
}
