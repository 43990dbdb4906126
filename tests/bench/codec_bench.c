/*
 * Speed of the page codec, the stream and the state engine beside what memcpy and memcmp do in the
 * same run. Rounds are interleaved and the median is printed, so that a busy machine slows both.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include "ft/pages.h"
#include "vmm/chan.h"
#include "vmm/loop.h"
#include "vmm/stream.h"

#define PAGES  512u /* 2 MiB, an epoch's worth */
#define LAPS   8u   /* in one measurement */
#define ROUNDS 7u

struct set {
	uint8_t *data, *base, *out;
};

enum fill { FILL_ZERO, FILL_EQUAL, FILL_SPARSE, FILL_EIGHTH, FILL_RANDOM, FILL_TEXT, FILL_MAX };

static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void fill_random(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = next_random();

		memcpy(p + i, &v, 8);
	}
}

static void fill_page(enum fill kind, uint8_t *data, uint8_t *base)
{
	static const char words[] = "the quick brown fox jumps over the lazy dog and runs away; ";

	fill_random(base, MEM_PAGE_SIZE);
	memcpy(data, base, MEM_PAGE_SIZE);
	switch (kind) {
	case FILL_ZERO:
		memset(data, 0, MEM_PAGE_SIZE);
		break;
	case FILL_SPARSE: /* 8 words, anywhere */
		for (int i = 0; i < 8; i++)
			data[next_random() % MEM_PAGE_SIZE] ^= 0x5a;
		break;
	case FILL_EIGHTH: /* one run of 512 bytes */
		fill_random(data + next_random() % 448 * 8, 512);
		break;
	case FILL_RANDOM:
		fill_random(data, MEM_PAGE_SIZE);
		break;
	case FILL_TEXT:
		for (unsigned i = 0; i < MEM_PAGE_SIZE; i++)
			data[i] = (uint8_t)words[(i + (i / 97) * 13) % (sizeof(words) - 1)];
		break;
	default:
		break;
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

static double gib(uint64_t bytes, uint64_t ns)
{
	return (double)bytes / (double)(1u << 30) * 1e9 / (double)(ns ? ns : 1);
}

static uint64_t encode_all(const struct set *s, bool with_base, bool lz4, uint64_t *ret_bytes)
{
	uint64_t start = loop_now_ns(), bytes = 0;

	for (unsigned n = 0; n < LAPS * PAGES; n++) {
		size_t i = n % PAGES;

		bytes += pages_encode(i, s->data + i * MEM_PAGE_SIZE,
				      with_base ? s->base + i * MEM_PAGE_SIZE : NULL, lz4,
				      s->out + i * PAGE_ENTRY_MAX);
	}
	*ret_bytes = bytes / LAPS;
	return (loop_now_ns() - start) / LAPS;
}

static uint64_t decode_all(const struct set *s, uint8_t *to)
{
	uint64_t start = loop_now_ns();
	unsigned bad = 0;

	for (unsigned n = 0; n < LAPS * PAGES; n++) {
		size_t i = n % PAGES;
		const uint8_t *pos = s->out + i * PAGE_ENTRY_MAX;
		struct page_entry en;

		bad += pages_next(&pos, pos + PAGE_ENTRY_MAX, PAGES, &en) != 1 ||
		       pages_decode(&en, s->base + i * MEM_PAGE_SIZE, to);
	}
	if (bad)
		printf("%u pages do not decode\n", bad);
	return (loop_now_ns() - start) / LAPS;
}

static void bench_pages(const struct set *s, enum fill kind, const char *name, bool lz4)
{
	const size_t total = (size_t)PAGES * MEM_PAGE_SIZE;
	double enc[ROUNDS], dec[ROUNDS], cmp[ROUNDS], cpy[ROUNDS];
	uint64_t start, bytes = 0;
	uint8_t page[MEM_PAGE_SIZE];
	volatile int sink = 0;

	for (unsigned i = 0; i < PAGES; i++)
		fill_page(kind, s->data + (size_t)i * MEM_PAGE_SIZE,
			  s->base + (size_t)i * MEM_PAGE_SIZE);
	for (unsigned r = 0; r < ROUNDS; r++) {
		enc[r] = gib(total, encode_all(s, kind != FILL_TEXT, lz4, &bytes));
		dec[r] = gib(total, decode_all(s, page));
		memcpy(s->out, s->data, total);
		start = loop_now_ns();
		for (unsigned i = 0; i < LAPS; i++)
			sink += memcmp(s->data, s->out, total);
		cmp[r] = gib(LAPS * total, loop_now_ns() - start);
		start = loop_now_ns();
		for (unsigned i = 0; i < LAPS; i++)
			memcpy(s->out, s->data, total);
		cpy[r] = gib(LAPS * total, loop_now_ns() - start);
	}
	printf("pages %-8s %-4s encode %6.2f GiB/s  decode %6.2f  memcmp %6.2f  memcpy %6.2f  "
	       "bytes/page %7.1f\n",
	       name, lz4 ? "lz4" : "", median(enc, ROUNDS), median(dec, ROUNDS),
	       median(cmp, ROUNDS), median(cpy, ROUNDS), (double)bytes / PAGES);
}

struct job {
	struct stream s;
	uint64_t frames;
	uint32_t length;
	int error;
};

static void *send_frames(void *arg)
{
	struct job *j = arg;
	uint8_t *buf = calloc(1, j->length + 1u);
	struct iovec iov = {buf, j->length};

	j->error = buf ? stream_send_preface(&j->s, loop_now_ns() + 30000000000ull) : -ENOMEM;
	for (uint64_t i = 0; i < j->frames && !j->error; i++)
		j->error = stream_send(&j->s, j->length > 64 ? FRAME_PAGES : FRAME_ACK, i, &iov, 1,
				       loop_now_ns() + 30000000000ull);
	free(buf);
	return NULL;
}

/* A connected pair over loopback TCP. */
static int tcp_pair(int fds[2])
{
	struct chan_uri u;
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);
	int lfd, r = chan_parse("tcp:127.0.0.1:0", &u, NULL);

	lfd = r ? r : chan_listen(&u, NULL);
	if (lfd < 0)
		return lfd;
	getsockname(lfd, (struct sockaddr *)&sa, &len);
	snprintf(u.port, sizeof(u.port), "%u", ntohs(sa.sin_port));
	fds[0] = chan_connect(&u, 5000, NULL);
	fds[1] = fds[0] < 0 ? -1 : chan_accept(lfd, NULL);
	close(lfd);
	return fds[1] < 0 ? -EIO : 0;
}

static int receive_frames(struct stream *s, uint64_t frames)
{
	struct frame f;
	int r = 0;

	while (frames && r >= 0) {
		struct pollfd p = {.fd = s->fd, .events = POLLIN};

		r = stream_recv(s, &f);
		if (r > 0)
			frames--;
		else if (!r)
			poll(&p, 1, 30000);
	}
	return r < 0 ? r : 0;
}

static double run_stream(uint64_t frames, uint32_t length)
{
	struct job j = {.frames = frames, .length = length};
	struct stream in;
	pthread_t thread;
	uint64_t start;
	int fds[2], r;

	if (tcp_pair(fds))
		return 0;
	stream_init(&j.s, fds[0], STREAM_MAIN, 42);
	stream_init(&in, fds[1], STREAM_ANY, 0);
	start = loop_now_ns();
	pthread_create(&thread, NULL, send_frames, &j);
	r = receive_frames(&in, frames);
	start = loop_now_ns() - start;
	pthread_join(thread, NULL);
	if (r || j.error)
		printf("stream failed: %d %d %s\n", r, j.error, in.why);
	stream_done(&j.s);
	stream_done(&in);
	return (double)start;
}

struct raw_job {
	int fd;
	uint64_t bytes;
};

static void *send_raw_bytes(void *arg)
{
	struct raw_job *j = arg;
	uint8_t *buf = calloc(1, 256u << 10);
	struct iovec iov = {buf, 256u << 10};

	for (uint64_t n = 0; buf && n < j->bytes; n += iov.iov_len)
		chan_write(j->fd, &iov, 1, loop_now_ns() + 30000000000ull);
	free(buf);
	return NULL;
}

/* The floor: the same bytes without frames. */
static double run_raw(uint64_t bytes)
{
	uint8_t *buf = malloc(256u << 10);
	struct raw_job j = {.bytes = bytes};
	pthread_t thread;
	uint64_t start, have = 0;
	int fds[2];

	if (!buf || tcp_pair(fds))
		return 0;
	j.fd = fds[0];
	start = loop_now_ns();
	pthread_create(&thread, NULL, send_raw_bytes, &j);
	while (have < bytes) {
		struct pollfd p = {.fd = fds[1], .events = POLLIN};
		ssize_t n = read(fds[1], buf, 256u << 10);

		if (n > 0)
			have += (uint64_t)n;
		else
			poll(&p, 1, 30000);
	}
	start = loop_now_ns() - start;
	pthread_join(thread, NULL);
	close(fds[0]);
	close(fds[1]);
	free(buf);
	return (double)start;
}

static void bench_stream(void)
{
	double big[ROUNDS], raw[ROUNDS], small[ROUNDS];

	for (unsigned r = 0; r < ROUNDS; r++) {
		big[r] = gib(4096ull * (256u << 10), (uint64_t)run_stream(4096, 256u << 10));
		raw[r] = gib(4096ull * (256u << 10), (uint64_t)run_raw(4096ull * (256u << 10)));
		small[r] = 1e3 * 100000 / run_stream(100000, 16);
	}
	printf("stream 256 KiB frames %6.2f GiB/s  plain TCP %6.2f  16-byte frames %6.3f M/s\n",
	       median(big, ROUNDS), median(raw, ROUNDS), median(small, ROUNDS));
}

int main(void)
{
	static const struct {
		enum fill kind;
		const char *name;
		bool lz4;
	} runs[] = {
		{FILL_ZERO, "zero", false},	{FILL_EQUAL, "equal", false},
		{FILL_SPARSE, "sparse", false}, {FILL_EIGHTH, "eighth", false},
		{FILL_RANDOM, "random", false}, {FILL_RANDOM, "random", true},
		{FILL_TEXT, "text", true},
	};
	struct set s = {aligned_alloc(4096, (size_t)PAGES * MEM_PAGE_SIZE),
			aligned_alloc(4096, (size_t)PAGES * MEM_PAGE_SIZE),
			aligned_alloc(4096, (size_t)PAGES * (PAGE_ENTRY_MAX + 8))};

	if (!s.data || !s.base || !s.out)
		return 1;
	for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		bench_pages(&s, runs[i].kind, runs[i].name, runs[i].lz4);
	bench_stream();
	free(s.data);
	free(s.base);
	free(s.out);
	return 0;
}
