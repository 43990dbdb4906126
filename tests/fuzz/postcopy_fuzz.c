/*
 * Both ends of a migration's links. The first byte picks: from 0xc0 on, parts of images at the
 * destination; else even, a destination's requests at the source; odd, pages, maps and ends at the
 * destination. A model follows its memory and its image.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "postcopy/pager.h"
#include "postcopy/uffd.h"
#include "postcopy/urgent.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/copy/diskapply.h"
#include "vmm/copy/pages.h"

#define BYTES	(2u << 20)
#define PAGES	(BYTES / MEM_PAGE_SIZE)
#define FULL	16u	    /* pages of the source that are not zero: replies fit into a socket */
#define FULL_NS 50000000ull /* whoever was lost does not read any more */

static void pair(struct stream *a, struct stream *b)
{
	int fd[2];

	require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd));
	stream_init(a, fd[0], STREAM_URGENT, 9);
	stream_init(b, fd[1], STREAM_URGENT, 9);
}

static void fill_page(uint64_t page, uint64_t seed, uint64_t *out)
{
	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
		out[i] = seed ? (page + seed) * 0x9e3779b97f4a7c15ull + i : 0;
}

/* A frame with what the input says; false: there is no more, or nobody reads. */
static bool send_some(struct input *in, struct stream *s, const uint16_t *types, unsigned ntypes)
{
	uint8_t pick = (uint8_t)take(in, 1);
	uint16_t type = types[pick % ntypes];
	size_t len = pick & 0x80 ? take(in, 2) : (pick >> 3 & 15) * 8;
	struct iovec iov = {(void *)take_bytes(in, &len), len};

	if (iov.iov_len > stream_max_length(type))
		iov.iov_len = stream_max_length(type);
	return in->left && !stream_send(s, type, 0, &iov, 1, loop_now_ns() + FULL_NS);
}

/* --- the source ------------------------------------------------------------------------------- */

static void check_replies(struct stream *peer, const struct mem *m, uint8_t came[PAGES])
{
	struct frame f;

	while (stream_recv(peer, &f) == 1) {
		const uint8_t *pos = f.data, *end = pos + f.length;
		uint8_t page[MEM_PAGE_SIZE];
		struct page_entry en;

		require(f.type == FRAME_PAGES);
		while (pages_next(&pos, end, PAGES, &en) == 1) {
			require(!came[en.page]++ && !pages_decode(&en, NULL, page));
			require(!memcmp(page, mem_page(m, en.page), MEM_PAGE_SIZE));
		}
	}
}

static void source(struct input *in)
{
	static const uint16_t types[] = {FRAME_WANT, FRAME_REMOVED, FRAME_WANT, FRAME_PAGES,
					 FRAME_EOS};
	struct mem m;
	struct unsent u;
	struct urgent urgent = {0};
	struct stream ours, peer;
	uint8_t came[PAGES] = {0};
	int notify = eventfd(0, EFD_CLOEXEC);
	uint64_t n, sent = 0;

	require(!mem_init(&m, MEM_SHARED_FILE, BYTES, NULL));
	for (uint64_t page = 0; page < FULL; page++)
		fill_page(page * 3, 5, (uint64_t *)(void *)mem_page(&m, page * 3));
	require(!unsent_init(&u, PAGES, true));
	pair(&ours, &peer);
	require(!urgent_start(&urgent, &m, &u, &ours, notify, NULL));
	while (send_some(in, &peer, types, 5))
		check_replies(&peer, &m, came);
	shutdown(peer.fd, SHUT_WR);
	require(read(notify, &n, sizeof(n)) == sizeof(n)); /* the end, or nonsense before it */
	require(urgent_error(&urgent, NULL) < 0);
	urgent_stop(&urgent);
	check_replies(&peer, &m, came);
	for (unsigned i = 0; i < PAGES; i++)
		sent += came[i];
	require(sent == urgent.pages && u.left + sent + urgent.removed + u.flying == PAGES);
	stream_done(&ours);
	stream_done(&peer);
	unsent_done(&u);
	mem_done(&m);
	close(notify);
}

/* --- the destination ---------------------------------------------------------------------------
 */

struct dest {
	struct mem m;
	struct pager p;
	struct stream ours, peer;
	bool started, over; /* over: a frame was refused */
	uint8_t have[PAGES];
	uint64_t word[PAGES]; /* the first of each page that is here */
};

static void model_page(struct dest *d, uint64_t page, uint64_t word)
{
	if (d->started && d->have[page])
		return;
	d->have[page] = 1;
	d->word[page] = word;
}

static void model_pages(struct dest *d, const uint8_t *pos, const uint8_t *end, bool good)
{
	uint64_t page[MEM_PAGE_SIZE / 8];
	struct page_entry en;

	while (pages_next(&pos, end, PAGES, &en) == 1) {
		/* One that is here already is not unpacked. */
		if (pages_decode(&en, NULL, (uint8_t *)page)) {
			if (d->started && d->have[en.page])
				continue;
			require(!good);
			return;
		}
		model_page(d, en.page, page[0]);
	}
	require(!good || pos == end);
}

static void feed(struct dest *d, enum frame_type type, const void *data, size_t len)
{
	struct frame f = {.type = (uint16_t)type, .length = (uint32_t)len, .data = data};
	struct err e = {0};
	int r = pager_take(&d->p, &f, &e);

	require(!r || (r == -EBADMSG && e.msg[0]));
	if (type == FRAME_PAGES)
		model_pages(d, data, (const uint8_t *)data + len, !r);
	for (size_t at = 0; type == FRAME_MAP && !r && at < len; at += sizeof(struct wire_map)) {
		struct wire_map w;

		memcpy(&w, (const uint8_t *)data + at, sizeof(w));
		require(w.page < PAGES && w.count <= PAGES - w.page);
		for (uint64_t i = w.page; i < w.page + w.count; i++) {
			if (w.kind == WIRE_MAP_ZERO)
				model_page(d, i, 0);
			else
				d->have[i] = 0;
		}
	}
	d->over |= r != 0;
}

static void feed_pages(struct dest *d, struct input *in)
{
	uint64_t first = take(in, 2) % PAGES, n = take(in, 1) % 40, seed = take(in, 1);
	uint8_t *buf = malloc(40 * PAGE_ENTRY_MAX);
	uint64_t page[MEM_PAGE_SIZE / 8];
	size_t len = 0;

	for (uint64_t i = 0; i < n && first + i < PAGES; i++) {
		fill_page(first + i, seed & 0x7f, page);
		len += pages_encode(first + i, (uint8_t *)page, NULL, seed & 0x80, buf + len);
	}
	feed(d, FRAME_PAGES, buf, len);
	free(buf);
}

static void feed_raw(struct dest *d, struct input *in, enum frame_type type)
{
	size_t n = take(in, 1);
	const uint8_t *p = take_bytes(in, &n);
	uint8_t *copy = malloc(n + 1); /* exactly so much, for the sanitizer */

	memcpy(copy, p, n);
	feed(d, type, copy, n);
	free(copy);
}

static void feed_map(struct dest *d, struct input *in)
{
	struct wire_map w = {.page = take(in, 2) % (PAGES + 8)};

	w.count = take(in, 2) % (PAGES + 8);
	w.kind = take(in, 1) % 4;
	feed(d, FRAME_MAP, &w, sizeof(w));
}

static void give_back(struct dest *d, struct input *in)
{
	uint64_t page = take(in, 2) % PAGES, n = 1 + take(in, 1) % (PAGES - page);

	n = n < PAGES - page ? n : PAGES - page;
	if (!d->started) /* no guest that could */
		return;
	require(!mem_discard(&d->m, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE));
	for (uint64_t i = page; i < page + n; i++) {
		d->have[i] = 1;
		d->word[i] = 0;
	}
}

static void look(struct dest *d, struct input *in)
{
	uint64_t page = take(in, 2) % PAGES, n = 1 + take(in, 1) % 20, all = 1;

	n = n < PAGES - page ? n : PAGES - page;
	for (uint64_t i = page; i < page + n; i++)
		all &= d->have[i];
	if (!d->started)
		return;
	require(mem_ready(&d->m, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE) == (bool)all);
	for (uint64_t i = page; all && i < page + n; i++) /* and no fault */
		require(*(uint64_t *)(void *)mem_page(&d->m, i) == d->word[i]);
	require(!d->p.faults.stats.all.count);
}

static void step(struct dest *d, struct input *in)
{
	struct wire_eos eos = {.urgent = take(in, 1)};

	switch (take(in, 1) % 9) {
	case 0:
		feed_raw(d, in, FRAME_PAGES);
		break;
	case 1:
		feed_raw(d, in, FRAME_MAP);
		break;
	case 2:
		feed(d, FRAME_EOS, &eos, sizeof(eos));
		break;
	case 3:
		if (!d->started)
			require(!pager_start(&d->p, &d->ours, NULL));
		d->started = true;
		break;
	case 4:
		give_back(d, in);
		break;
	case 5:
		look(d, in);
		break;
	case 6:
		feed_map(d, in);
		break;
	default:
		feed_pages(d, in);
		break;
	}
}

static void check(struct dest *d)
{
	uint64_t left = 0;

	for (uint64_t page = 0; page < PAGES; page++) {
		left += !d->have[page];
		require(pager_has(&d->p, page) == d->have[page]);
	}
	require(left == pager_left(&d->p));
}

/* Then what comes on the urgent link: only that it ends as it should. */
static void urgent_bytes(struct dest *d, struct input *in)
{
	static const uint16_t types[] = {FRAME_PAGES, FRAME_PAGES, FRAME_PAGES, FRAME_WANT,
					 FRAME_MAP};
	unsigned events = 0;
	uint64_t n;

	while (send_some(in, &d->peer, types, 5))
		;
	shutdown(d->peer.fd, SHUT_WR);
	while (!((events |= pager_events(&d->p)) & PAGER_LOST))
		require(read(d->p.notify_fd, &n, sizeof(n)) == sizeof(n));
	require(!(events & PAGER_FAILED));
}

static void destination(struct input *in)
{
	struct dest *d = calloc(1, sizeof(*d));
	int notify = eventfd(0, EFD_CLOEXEC);

	require(!mem_init(&d->m, MEM_SHARED_FILE, BYTES, NULL));
	require(!pager_open(&d->p, &d->m, notify, NULL));
	pair(&d->ours, &d->peer);
	while (in->left > 4 && !d->over && take(in, 1) != 0xff)
		step(d, in);
	if (!d->over || d->started)
		check(d);
	if (d->started)
		urgent_bytes(d, in);
	pager_drop(&d->p);
	for (uint64_t page = 0; page < PAGES && (!d->over || d->started); page++)
		if (d->have[page])
			require(*(uint64_t *)(void *)mem_page(&d->m, page) == d->word[page]);
	stream_done(&d->ours);
	stream_done(&d->peer);
	mem_done(&d->m);
	close(notify);
	free(d);
}

/* --- images ----------------------------------------------------------------------------------- */

#define IMAGE (5u * 65536 + 512)

struct images {
	struct loop loop;
	struct machine machine;
	struct disk disks[MACHINE_MAX_DEVS]; /* 0 is not copied, 1 is */
	struct diskapply apply;
	uint8_t model[IMAGE];
};

static void ignore(void *arg)
{
}

static void open_images(struct images *im)
{
	require(!loop_init(&im->loop, NULL));
	im->machine.ndevs = 2;
	for (unsigned i = 0; i < 2; i++) {
		char path[] = "/tmp/postcopy-fuzz-XXXXXX";
		int fd = mkstemp(path);

		require(fd >= 0 && !ftruncate(fd, IMAGE));
		close(fd);
		im->machine.devs[i] = (struct mdev){.kind = MDEV_BLK, .bytes = IMAGE};
		require(!disk_open(&im->disks[i], &im->loop, "d", path, 0, NULL));
		unlink(path);
	}
	require(!diskapply_init(&im->apply, &im->machine, im->disks, ignore, NULL));
	im->apply.which = 2;
	im->apply.sparse = true;
}

/* What is refused changes nothing. */
static void feed_image(struct images *im, const uint8_t *frame, uint32_t len)
{
	struct disk_writes list = {0};
	struct wire_disk w;
	struct err e = {0};

	if (diskapply_parse(&im->apply, frame, len, &list, &e)) {
		require(e.msg[0] && !list.head);
		return;
	}
	memcpy(&w, frame, sizeof(w));
	require(w.disk == 1 && w.off <= IMAGE && w.len <= IMAGE - w.off);
	if (w.kind == DISK_WRITE)
		memcpy(im->model + w.off, frame + sizeof(w), w.len);
	else if (w.kind == DISK_ZERO || w.kind == DISK_DISCARD)
		memset(im->model + w.off, 0, w.len);
	diskapply_push(&im->apply, &list);
}

static void take_image(struct images *im, struct input *in)
{
	static uint8_t frame[sizeof(struct wire_disk) + 65536];
	uint8_t how = (uint8_t)take(in, 1);
	struct wire_disk w = {.disk = how & 1, .kind = how >> 1 & 7};
	size_t n = sizeof(w);
	const uint8_t *p;

	if (how & 0x80) { /* as it comes */
		p = take_bytes(in, &n);
		memcpy(frame, p, n);
		feed_image(im, frame, (uint32_t)n);
		return;
	}
	w.off = take(in, 2) * (how & 0x40 ? 1 : 512);
	w.len = (uint32_t)take(in, 2) * 512;
	w.data = w.kind == DISK_WRITE ? w.len : 0;
	memcpy(frame, &w, sizeof(w));
	memset(frame + sizeof(w), (int)take(in, 1), sizeof(frame) - sizeof(w));
	n += w.data;
	feed_image(im, frame, n < sizeof(frame) ? (uint32_t)n : sizeof(frame));
}

static void images(struct input *in)
{
	struct images *im = calloc(1, sizeof(*im));
	uint8_t *image = malloc(IMAGE);

	open_images(im);
	while (in->left)
		take_image(im, in);
	diskapply_drain(&im->apply);
	require(!im->apply.error);
	require(pread(im->disks[1].fd, image, IMAGE, 0) == IMAGE);
	require(!memcmp(image, im->model, IMAGE));
	require(pread(im->disks[0].fd, image, IMAGE, 0) == IMAGE);
	for (unsigned i = 0; i < IMAGE; i++)
		require(!image[i]);
	diskapply_done(&im->apply);
	for (unsigned i = 0; i < 2; i++)
		disk_close(&im->disks[i]);
	loop_done(&im->loop);
	free(image);
	free(im);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int refused = -1;
	uint8_t pick;
	struct input in = {data, size};
	struct err e = {0};

	if (refused < 0) {
		refused = pager_probe(&e) != 0;
		if (refused)
			fprintf(stderr, "only the source: %s\n", e.msg);
	}
	pick = (uint8_t)take(&in, 1);
	if (pick >= 0xc0)
		images(&in);
	else if (pick % 2 && !refused)
		destination(&in);
	else
		source(&in);
	return 0;
}
