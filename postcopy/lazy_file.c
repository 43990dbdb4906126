#define _GNU_SOURCE
#include "postcopy/lazy_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/hash.h"
#include "vmm/copy/pages.h"

#define FIRST_SEQ 1u /* of the frame behind HELLO */

void lazy_file_init(struct lazy_file *l)
{
	memset(l, 0, sizeof(*l));
	l->fd = -1;
}

void lazy_file_done(struct lazy_file *l)
{
	if (l->fd >= 0)
		stream_done(&l->stream); /* which closes it */
	free(l->where);
	free(l->frames);
	free(l->read);
	free(l->out);
	lazy_file_init(l);
}

/* --- the first time --------------------------------------------------------------------------- */

static int make_room(struct lazy_file *l, uint64_t npages, struct err *e)
{
	struct lazy_frame *more;
	uint32_t cap = l->cap ? l->cap * 2 : 256;

	if (!l->where) {
		l->npages = npages;
		l->where = calloc(npages, sizeof(*l->where));
		if (!l->where)
			return err_set(e, -ENOMEM, "out of memory");
	}
	/* Whoever writes such a file puts many pages into a frame, and each a few times at most. */
	if (l->nframes == npages + 1024)
		return err_set(e, -EBADMSG, "more frames than pages");
	if (l->nframes < l->cap)
		return 0;
	more = realloc(l->frames, cap * sizeof(*more));
	if (!more)
		return err_set(e, -ENOMEM, "out of memory");
	l->frames = more;
	l->cap = cap;
	return 0;
}

int lazy_file_add(struct lazy_file *l, const struct stream *st, uint64_t npages,
		  const struct frame *f, struct err *e)
{
	const uint8_t *pos = f->data, *end = f->data + f->length;
	struct page_entry en;
	int r = make_room(l, npages, e);

	if (r)
		return r;
	l->frames[l->nframes++] =
		(struct lazy_frame){stream_read_bytes(st) - f->length - sizeof(struct frame_hdr),
				    XXH3_64bits(f->data, f->length)};
	while ((r = pages_next(&pos, end, npages, &en)) == 1) {
		if (en.method == PAGE_DELTA)
			return err_set(e, -EBADMSG, "malformed page %llu",
				       (unsigned long long)en.page);
		l->where[en.page] = en.method == PAGE_ZERO ? 0 : l->nframes;
	}
	return r ? err_set(e, r, "malformed page entry") : 0;
}

static ssize_t file_read(struct chan *c, void *buf, size_t len)
{
	struct lazy_file *l = c->self;
	ssize_t n;

	do
		n = pread(c->fd, buf, len, (off_t)l->pos);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	l->pos += (uint64_t)n;
	return n;
}

static void file_close(struct chan *c)
{
	close(c->fd);
}

static const struct chan_ops file_ops = {.read = file_read, .close = file_close};

int lazy_file_taken(struct lazy_file *l, const struct stream *st, uint64_t npages, struct err *e)
{
	struct chan c = {.ops = &file_ops, .blocking = true, .self = l};

	l->npages = npages;
	l->read = calloc(l->nframes + 1ull, sizeof(*l->read));
	l->out = malloc(stream_max_length(FRAME_PAGES));
	if (!l->read || !l->out)
		return err_set(e, -ENOMEM, "out of memory");
	l->fd = c.fd = fcntl(st->fd, F_DUPFD_CLOEXEC, 0);
	if (c.fd < 0)
		return err_sys(e, "file");
	stream_init_on(&l->stream, &c, STREAM_FILE, st->session);
	return 0;
}

/* --- again ------------------------------------------------------------------------------------ */

int64_t lazy_file_frame(const struct lazy_file *l, uint64_t page)
{
	uint32_t frame = page < l->npages && l->where ? l->where[page] : 0;

	return frame && !l->read[frame - 1] ? (int64_t)frame - 1 : -1;
}

int64_t lazy_file_next(struct lazy_file *l)
{
	while (l->next < l->nframes && l->read[l->next])
		l->next++;
	return l->next < l->nframes ? (int64_t)l->next : -1;
}

int lazy_file_read(struct lazy_file *l, uint32_t frame, struct iovec *ret, struct err *e)
{
	const struct lazy_frame *at = &l->frames[frame];
	const uint8_t *pos, *end;
	struct page_entry en;
	struct frame f;
	size_t n = 0;
	int r;

	stream_seek(&l->stream, FIRST_SEQ + frame);
	l->pos = at->offset;
	r = stream_recv(&l->stream, &f);
	if (r == -EBADMSG || r == -EPIPE)
		return err_set(e, -EBADMSG, "the file is not what it was: %s",
			       r == -EPIPE ? "it ends too early" : l->stream.why);
	if (r != 1)
		return err_set(e, r ? r : -EIO, "reading: %s", strerror(r ? -r : EIO));
	if (f.type != FRAME_PAGES || XXH3_64bits(f.data, f.length) != at->digest)
		return err_set(e, -EBADMSG, "the file is not what it was: frame %u is another one",
			       FIRST_SEQ + frame);
	l->read[frame] = true;
	end = f.data + f.length;
	for (pos = f.data;;) {
		const uint8_t *from = pos;

		if (pages_next(&pos, end, l->npages, &en) != 1)
			break;
		if (l->where[en.page] != frame + 1)
			continue;
		memcpy(l->out + n, from, (size_t)(pos - from));
		n += (size_t)(pos - from);
	}
	*ret = (struct iovec){l->out, n};
	return 0;
}
