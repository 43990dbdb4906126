#include "tests/unit/libwire.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void wire_free(struct wire *w)
{
	free(w->p);
	memset(w, 0, sizeof(*w));
}

void wire_add(struct wire *w, const void *data, size_t n)
{
	if (w->len + n > w->cap) {
		w->cap = (w->len + n) * 2;
		w->p = realloc(w->p, w->cap);
		if (!w->p)
			abort();
	}
	if (n)
		memcpy(w->p + w->len, data, n);
	w->len += n;
}

void wire_preface(struct wire *w, uint32_t version, uint32_t link, uint64_t session)
{
	struct stream_preface p = {.version = version, .link = link, .session = session};

	memcpy(p.magic, STREAM_MAGIC, 8);
	p.sum = XXH3_64bits(&p, 24);
	wire_add(w, &p, sizeof(p));
}

void wire_signed(struct wire *w, struct frame_hdr h, const void *data, size_t n)
{
	size_t at = w->len;

	h.sum = 0;
	wire_add(w, &h, sizeof(h));
	wire_add(w, data, n);
	h.sum = XXH3_64bits(w->p + at, sizeof(h) + n);
	memcpy(w->p + at, &h, sizeof(h));
}

struct frame_hdr wire_header(struct wire *w, uint16_t type, size_t n)
{
	return (struct frame_hdr){.type = type,
				  .length = (uint32_t)n,
				  .seq = w->seq++,
				  .epoch = 1000 + type,
				  .session = WIRE_SESSION};
}

void wire_frame(struct wire *w, uint16_t type, const void *data, size_t n)
{
	wire_signed(w, wire_header(w, type, n), data, n);
}
