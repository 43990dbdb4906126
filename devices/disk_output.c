#include "devices/disk_output.h"

#include <errno.h>
#include <string.h>

static bool is_change(const struct disk_req *r)
{
	return r->kind == DISK_WRITE || r->kind == DISK_ZERO || r->kind == DISK_DISCARD;
}

static struct disk_req *take(struct disk_output *o, unsigned at)
{
	struct disk_req *r = o->held[at];

	if (r)
		o->count--;
	o->held[at] = NULL;
	return r;
}

static bool deliver(void *arg, const void *data, uint32_t len)
{
	struct disk_output *o = arg;
	struct disk_req *r;

	if (o->asked) {
		o->asked = NULL;
		return true;
	}
	r = take(o, *(const uint8_t *)data);
	if (r && r->canceled)
		disk_end(r, -ECANCELED);
	else if (r)
		disk_below(r);
	return true;
}

static void room(void *arg)
{
	struct disk_output *o = arg;

	if (o->disk)
		disk_go_on(o->disk);
}

static bool may(void *arg, const struct disk_req *r)
{
	struct disk_output *o = arg;

	if (!is_change(r))
		return true;
	return o->disk && o->count < DISK_OUTPUT_MAX && obuf_takes(o->obuf, o->sink, 1);
}

static bool begin(void *arg, struct disk_req *r)
{
	struct disk_output *o = arg;
	uint8_t at;
	struct iovec mark = {&at, sizeof(at)};
	int code;

#ifdef BUG_SHARED_EARLY /* planted: the tests must notice */
	return false;
#endif
	if (!is_change(r))
		return false;
	while (o->held[o->next])
		o->next = (o->next + 1) % DISK_OUTPUT_MAX;
	at = (uint8_t)o->next;
	o->asked = r;
	code = obuf_put(o->obuf, o->sink, &mark, 1);
	if (!o->asked)
		return false; /* the image does it now */
	o->asked = NULL;
	if (code) {
		disk_end_later(r, code);
		return true;
	}
	o->held[at] = r;
	o->count++;
	return true;
}

static bool more(void *arg, struct disk_req *r, int res)
{
	return false;
}

static void ended(void *arg)
{
}

int disk_output_begin(struct disk_output *o, struct disk *d, struct obuf *ob)
{
	memset(o, 0, sizeof(*o));
	o->obuf = ob;
	o->sink = obuf_add_sink(ob, OBUF_DISK, deliver, room, o);
	if (o->sink < 0)
		return o->sink;
	o->disk = d;
	o->layer = (struct disk_layer){may, begin, more, ended, o};
	d->layer = &o->layer;
	return 0;
}

void disk_output_end(struct disk_output *o)
{
	o->disk = NULL;
	for (unsigned i = 0; i < DISK_OUTPUT_MAX; i++)
		if (o->held[i])
			disk_end(take(o, i), -ECANCELED);
}
