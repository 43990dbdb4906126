#include "vmm/copy/page_out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/loop.h"
#include "vmm/copy/pages.h"

#define FRAME_FILL (256u << 10) /* a frame is full when it holds this much */

int page_out_init(struct page_out *o, struct stream *st, uint64_t frame_ns)
{
	memset(o, 0, sizeof(*o));
	o->stream = st;
	o->frame_ns = frame_ns;
	squeeze_init(&o->squeeze, &st->chan);
	o->enc = malloc(FRAME_FILL + PAGE_ENTRY_MAX);
	return o->enc ? 0 : -ENOMEM;
}

void page_out_done(struct page_out *o)
{
	free(o->enc);
	memset(o, 0, sizeof(*o));
}

bool page_out_add(struct page_out *o, uint64_t page, const uint8_t *data, const uint8_t *base)
{
	uint8_t *to = o->enc + o->fill;

	if (o->stream->link == STREAM_FILE) {
		o->fill += pages_encode(page, data, base, true, to);
	} else {
		if (!o->fill)
			squeeze_look(&o->squeeze);
		o->fill += squeeze_encode(&o->squeeze, page, data, base, to);
	}
	return o->fill >= FRAME_FILL;
}

int page_out_flush(struct page_out *o)
{
	struct iovec iov = {o->enc, o->fill};

	if (!o->fill)
		return 0;
	if (o->sent)
		__atomic_fetch_add(o->sent, o->fill, __ATOMIC_RELAXED);
	o->fill = 0;
	return stream_send(o->stream, FRAME_PAGES, o->epoch, &iov, 1,
			   o->until_ns ? o->until_ns : loop_now_ns() + o->frame_ns);
}
