/* Recordings of sessions: reading, changing, writing. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "tests/hostile/hostile.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/chan_io.h"
#include "vmm/base/hash.h"
#include "vmm/base/loop.h"

static uint64_t random_state = 1;

void random_seed(uint64_t seed)
{
	random_state = seed ? seed : 1;
}

uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

uint64_t random_below(uint64_t n)
{
	return n ? random_next() % n : 0;
}

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "hostile: out of memory\n");
		exit(2);
	}
	return p;
}

static uint8_t *copy_data(const void *data, uint32_t n)
{
	uint8_t *p = must(malloc(n ? n : 1));

	if (n)
		memcpy(p, data, n);
	return p;
}

void tape_insert(struct tape *t, unsigned at, const struct shot *s)
{
	struct shot copy = *s;

	copy.data = copy_data(s->data, s->h.length);
	t->f = must(realloc(t->f, (t->n + 1) * sizeof(*t->f)));
	memmove(&t->f[at + 1], &t->f[at], (t->n - at) * sizeof(*t->f));
	t->f[at] = copy;
	t->n++;
}

void tape_load(struct tape *t, const char *path)
{
	int fd = chan_file_open(path, NULL);
	struct stream_preface pf;
	struct frame_hdr h;

	memset(t, 0, sizeof(*t));
	if (fd < 0 || read(fd, &pf, sizeof(pf)) != sizeof(pf) ||
	    memcmp(pf.magic, STREAM_MAGIC, 8)) {
		fprintf(stderr, "hostile: %s is not a recorded session\n", path);
		exit(2);
	}
	t->preface = pf;
	while (read(fd, &h, sizeof(h)) == sizeof(h) && h.length <= STREAM_MAX_FRAME) {
		struct shot s = {.h = h, .data = must(malloc(h.length + 1))};
		bool whole = read(fd, s.data, h.length) == (ssize_t)h.length;

		if (whole)
			tape_insert(t, t->n, &s);
		free(s.data);
		if (!whole)
			break;
	}
	close(fd);
	if (t->n < 4 || t->f[0].h.type != FRAME_HELLO || tape_epochs(t, t->n) < 2) {
		fprintf(stderr, "hostile: %s has fewer than two epochs\n", path);
		exit(2);
	}
}

void tape_copy(struct tape *to, const struct tape *from)
{
	*to = (struct tape){.preface = from->preface, .n = from->n};
	to->f = must(malloc(from->n * sizeof(*to->f)));
	for (unsigned i = 0; i < from->n; i++) {
		to->f[i] = from->f[i];
		to->f[i].data = copy_data(from->f[i].data, from->f[i].h.length);
	}
}

void tape_free(struct tape *t)
{
	for (unsigned i = 0; i < t->n; i++)
		free(t->f[i].data);
	free(t->f);
	memset(t, 0, sizeof(*t));
}

void tape_remove(struct tape *t, unsigned at)
{
	free(t->f[at].data);
	memmove(&t->f[at], &t->f[at + 1], (t->n - at - 1) * sizeof(*t->f));
	t->n--;
}

void tape_swap(struct tape *t, unsigned a, unsigned b)
{
	struct shot s = t->f[a];

	t->f[a] = t->f[b];
	t->f[b] = s;
}

void tape_resize(struct shot *s, uint32_t length)
{
	s->data = must(realloc(s->data, length ? length : 1));
	if (length > s->h.length)
		memset(s->data + s->h.length, 0, length - s->h.length);
	s->h.length = length;
}

unsigned tape_find(const struct tape *t, unsigned from, uint16_t type)
{
	while (from < t->n && t->f[from].h.type != type)
		from++;
	return from;
}

unsigned tape_epochs(const struct tape *t, unsigned before)
{
	unsigned n = 0;

	for (unsigned i = 0; i < before && i < t->n; i++)
		n += t->f[i].h.type == FRAME_EPOCH_END;
	return n;
}

uint64_t tape_first_epoch(const struct tape *t)
{
	return t->f[tape_find(t, 0, FRAME_EPOCH_BEGIN)].h.epoch;
}

void bytes_add(struct bytes *b, const void *data, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = (b->len + n) * 2;
		b->p = must(realloc(b->p, b->cap));
	}
	if (n)
		memcpy(b->p + b->len, data, n);
	b->len += n;
}

void bytes_free(struct bytes *b)
{
	free(b->p);
	memset(b, 0, sizeof(*b));
}

void bytes_preface(struct bytes *b, uint32_t link, uint64_t session)
{
	struct stream_preface p = {.version = STREAM_VERSION, .link = link, .session = session};

	memcpy(p.magic, STREAM_MAGIC, sizeof(p.magic));
	p.sum = XXH3_64bits(&p, offsetof(struct stream_preface, sum));
	bytes_add(b, &p, sizeof(p));
}

void bytes_frame(struct bytes *b, struct frame_hdr h, const void *data, uint32_t n)
{
	size_t at = b->len;

	h.length = n;
	h.sum = 0;
	bytes_add(b, &h, sizeof(h));
	bytes_add(b, data, n);
	h.sum = XXH3_64bits(b->p + at, sizeof(h) + n);
	memcpy(b->p + at, &h, sizeof(h));
}

void tape_write(const struct tape *t, struct bytes *out)
{
	out->len = 0;
	bytes_add(out, &t->preface, sizeof(t->preface));
	for (unsigned i = 0; i < t->n; i++) {
		struct frame_hdr h = t->f[i].h;

		if (!t->f[i].raw)
			h.seq = i;
		bytes_frame(out, h, t->f[i].data, h.length);
	}
}

/* --- recording -----------------------------------------------------------------------------------
 */

#define MAX_LINKS 8

struct link {
	int a, b; /* who connected, and the target; -1: none */
	FILE *out;
};

static void link_open(struct link *l, int lfd, const struct chan_uri *to, FILE *out)
{
	l->a = chan_accept(lfd, NULL);
	if (l->a < 0)
		return;
	l->b = chan_connect(to, 5000, NULL);
	l->out = out;
	if (l->b < 0) {
		close(l->a);
		l->a = -1;
	}
}

static void link_close(struct link *l)
{
	close(l->a);
	close(l->b);
	l->a = l->b = -1;
}

/* One direction; false at its end. */
static bool forward(int from, int to, FILE *out)
{
	static uint8_t buf[1 << 20];
	ssize_t n = read(from, buf, sizeof(buf));
	struct iovec iov = {buf, n > 0 ? (size_t)n : 0};
	struct chan c = chan_of(to);

	if (n < 0 && errno == EAGAIN)
		return true;
	if (n <= 0 || chan_write(&c, &iov, 1, loop_now_ns() + HOSTILE_WAIT_NS))
		return false;
	if (out) {
		fwrite(buf, 1, (size_t)n, out);
		fflush(out); /* the test looks at what there is */
	}
	return true;
}

static int watch_term(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void serve_links(struct link *l, int lfd, int sig, const struct chan_uri *to, FILE *out)
{
	unsigned opened = 0;

	for (;;) {
		struct pollfd p[2 + 2 * MAX_LINKS] = {{.fd = lfd, .events = POLLIN},
						      {.fd = sig, .events = POLLIN}};

		for (unsigned i = 0; i < MAX_LINKS; i++) {
			p[2 + 2 * i] = (struct pollfd){.fd = l[i].a, .events = POLLIN};
			p[3 + 2 * i] = (struct pollfd){.fd = l[i].b, .events = POLLIN};
		}
		if (poll(p, 2 + 2 * MAX_LINKS, -1) < 0 || p[1].revents)
			return;
		for (unsigned i = 0; i < MAX_LINKS; i++) {
			if (l[i].a < 0)
				continue;
			if ((p[2 + 2 * i].revents && !forward(l[i].a, l[i].b, l[i].out)) ||
			    (p[3 + 2 * i].revents && !forward(l[i].b, l[i].a, NULL)))
				link_close(&l[i]);
		}
		for (unsigned i = 0; p[0].revents && i < MAX_LINKS; i++)
			if (l[i].a < 0) {
				link_open(&l[i], lfd, to, opened++ ? NULL : out);
				break;
			}
	}
}

int tape_record(const char *listen, const char *to, const char *path)
{
	struct link l[MAX_LINKS];
	struct chan_uri here, there;
	struct err e = {0};
	int lfd, sig = watch_term();
	FILE *out = fopen(path, "wb");

	memset(l, 0xff, sizeof(l));
	if (!out || sig < 0 || chan_parse(listen, &here, &e) || chan_parse(to, &there, &e) ||
	    (lfd = chan_listen(&here, &e)) < 0) {
		fprintf(stderr, "hostile: %s\n", e.msg[0] ? e.msg : strerror(errno));
		return 2;
	}
	printf("ready\n");
	fflush(stdout);
	serve_links(l, lfd, sig, &there, out);
	return fclose(out) ? 2 : 0;
}
