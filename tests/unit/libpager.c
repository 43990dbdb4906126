#define _GNU_SOURCE
#include "tests/unit/libpager.h"

static void *rig_toucher(void *arg)
{
	struct toucher *t = arg;

	t->tid = (uint32_t)gettid();
	t->value = *t->at;
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
	return NULL;
}

void touch(struct rig *r, struct toucher *t, uint64_t page)
{
	*t = (struct toucher){.at = (volatile uint64_t *)mem_page(&r->mem, page)};
	assert_int_equal(pthread_create(&t->thread, NULL, rig_toucher, t), 0);
}

uint64_t touch_end(struct toucher *t)
{
	RIG_UNTIL(touched(t));
	pthread_join(t->thread, NULL);
	return t->value;
}

void rig_page(uint64_t page, uint64_t seed, uint64_t *out)
{
	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
		out[i] = (page + 1) * 0x9e3779b97f4a7c15ull + seed + i;
}

uint64_t rig_word(uint64_t page, uint64_t seed)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull + seed;
}

uint8_t *rig_pages(uint64_t page, unsigned n, uint64_t seed, uint32_t *ret_len)
{
	uint8_t *out = malloc(n * PAGE_ENTRY_MAX);
	uint64_t data[MEM_PAGE_SIZE / 8];

	*ret_len = 0;
	for (unsigned i = 0; i < n; i++) {
		rig_page(page + i, seed, data);
		if (!seed)
			memset(data, 0, sizeof(data));
		*ret_len += pages_encode(page + i, (uint8_t *)data, NULL, false, out + *ret_len);
	}
	return out;
}

int rig_send(struct rig *r, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	return stream_send(&r->peer, type, 0, &iov, 1, rig_soon());
}

void rig_send_pages(struct rig *r, uint64_t page, unsigned n, uint64_t seed)
{
	uint32_t len;
	uint8_t *data = rig_pages(page, n, seed, &len);

	assert_int_equal(rig_send(r, FRAME_PAGES, data, len), 0);
	free(data);
}

int rig_take(struct rig *r, enum frame_type type, const void *data, size_t len)
{
	struct frame f = {.type = (uint16_t)type, .length = (uint32_t)len, .data = data};

	r->e = (struct err){0};
	return pager_take(&r->p, &f, &r->e);
}

int rig_take_pages(struct rig *r, uint64_t page, unsigned n, uint64_t seed)
{
	uint32_t len;
	uint8_t *data = rig_pages(page, n, seed, &len);
	int ret = rig_take(r, FRAME_PAGES, data, len);

	free(data);
	return ret;
}

int rig_take_map(struct rig *r, uint64_t page, uint64_t count, uint32_t kind)
{
	struct wire_map map = {.page = page, .count = count, .kind = kind};

	return rig_take(r, FRAME_MAP, &map, sizeof(map));
}

void rig_next(struct rig *r, struct frame *f)
{
	uint64_t until = rig_soon();
	int n;

	while (!(n = stream_recv(&r->peer, f)))
		if (chan_wait_fd(r->peer.fd, POLLIN, until))
			fail_msg("nothing on the urgent link");
	if (n < 0)
		fail_msg("urgent link: %s", n == -EBADMSG ? r->peer.why : strerror(-n));
}

void rig_want(struct rig *r, const uint64_t *pages, size_t n)
{
	struct frame f;

	rig_next(r, &f);
	assert_int_equal(f.type, FRAME_WANT);
	assert_int_equal(f.length, n * sizeof(*pages));
	assert_memory_equal(f.data, pages, f.length);
}

void rig_event(struct rig *r, unsigned event)
{
	uint64_t until = rig_soon(), n;

	while (!((r->events |= pager_events(&r->p)) & event)) {
		if (chan_wait_fd(r->notify, POLLIN, until))
			fail_msg("event %u never came", event);
		assert_int_equal(read(r->notify, &n, sizeof(n)), sizeof(n));
	}
	r->events &= ~event;
}

struct fill_counts rig_counts(struct rig *r)
{
	struct pager_stats s;

	pager_get_stats(&r->p, &s);
	return s.counts;
}

void rig_link(struct rig *r)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	stream_init(&r->urgent, fd[0], STREAM_URGENT, 9);
	stream_init(&r->peer, fd[1], STREAM_URGENT, 9);
}

void rig_open(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(mem_init(&r->mem, MEM_SHARED_FILE, RIG_BYTES, NULL), 0);
	assert_int_equal(pager_open(&r->p, &r->mem, r->notify, &r->e), 0);
	rig_link(r);
}

void rig_start(struct rig *r)
{
	assert_int_equal(pager_start(&r->p, &r->urgent, &r->e), 0);
}

void rig_cut(struct rig *r)
{
	stream_done(&r->peer);
	pager_cut(&r->p);
	stream_done(&r->urgent);
}

void rig_again(struct rig *r)
{
	rig_link(r);
	pager_again(&r->p, &r->urgent);
}

void rig_done(struct rig *r)
{
	pager_drop(&r->p);
	stream_done(&r->urgent);
	stream_done(&r->peer);
	mem_done(&r->mem);
	close(r->notify);
}

int rig_skip(void **state)
{
	struct err e = {0};

	if (pager_probe(&e)) {
		print_message("[  SKIPPED ] all: %s\n", e.msg);
		exit(0);
	}
	return 0;
}
