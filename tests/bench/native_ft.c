/*
 * What fault tolerance does with memory, without a vCPU: capture and commit beside memcpy of as
 * many pages, whole epochs and the first sync over loopback TCP beside as many plain bytes. The
 * guest is a thread that writes; KVM's dirty log is a bitmap that says what it wrote.
 */
#include "tests/bench/native.h"
#include "tests/unit/libstage.h"

#include <semaphore.h>
#include <sys/mman.h>

#include "ft/epoch/capture.h"
#include "ft/epoch/send.h"
#include "ft/epoch/sync.h"
#include "vmm/copy/pages.h"
#include "vmm/wire/tls.h"

#define MEM_BYTES   (128ull << 20)
#define PAGES	    (MEM_BYTES / MEM_PAGE_SIZE)
#define FAR	    7919u /* prime: neighbours are far apart, all pages come by */
#define MANY	    1024u /* pages in the largest epoch */
#define STAGING	    (32ull << 20)
#define WORDS	    8u /* of each page that the guest changes */
#define FRAME_BYTES (256u << 10)

static struct kvm kvm = {.manual_protect = true}; /* without slots */

/* --- a guest ---------------------------------------------------------------------------------- */

struct guest {
	struct mem mem;
	struct capture capture;
	struct capture_batch batch;
	uint64_t set[MANY]; /* what it writes next */
	unsigned n;
	bool scattered;	 /* other pages each time */
	uint64_t serial; /* of pages, and of writes */
	uint8_t *staging;
	sem_t asked, done;
	bool stop;
	pthread_t thread;
};

static void write_set(struct guest *g)
{
	uint64_t at = g->serial * WORDS % (MEM_PAGE_SIZE / 8);

	for (unsigned i = 0; i < g->n; i++)
		for (unsigned w = 0; w < WORDS; w++)
			((uint64_t *)mem_page(&g->mem, g->set[i]))[at + w] += i + w + 1;
}

static void *guest_main(void *arg)
{
	struct guest *g = arg;

	for (;;) {
		while (sem_wait(&g->asked))
			;
		if (g->stop)
			return NULL;
		write_set(g);
		sem_post(&g->done);
	}
}

/* Another thread writes: to whoever copies then, the pages are another CPU's. */
static void guest_writes(struct guest *g)
{
	g->serial++;
	for (unsigned i = 0; i < g->n && g->scattered; i++)
		g->set[i] = (g->set[i] + g->n * (uint64_t)FAR) % g->mem.npages;
	sem_post(&g->asked);
	while (sem_wait(&g->done))
		;
}

static void guest_choose(struct guest *g, unsigned n, bool scattered)
{
	g->n = n;
	g->scattered = scattered;
	for (unsigned i = 0; i < n; i++)
		g->set[i] = scattered ? (uint64_t)i * FAR % g->mem.npages : i;
}

static void guest_start(struct guest *g)
{
	memset(g, 0, sizeof(*g));
	check("guest memory", mem_init(&g->mem, MEM_SHARED_FILE, MEM_BYTES, NULL));
	check("capture", capture_init(&g->capture, &kvm, &g->mem, STAGING, NULL));
	g->batch.cap = g->capture.nbufs;
	g->batch.pages = must(calloc(g->batch.cap, sizeof(*g->batch.pages)));
	g->staging = must(aligned_alloc(4096, MANY * MEM_PAGE_SIZE));
	memset(g->staging, 1, MANY * MEM_PAGE_SIZE);
	memset(g->mem.base, 1, g->mem.bytes);
	sem_init(&g->asked, 0, 0);
	sem_init(&g->done, 0, 0);
	check("thread", -pthread_create(&g->thread, NULL, guest_main, g));
}

static void guest_end(struct guest *g)
{
	g->stop = true;
	sem_post(&g->asked);
	pthread_join(g->thread, NULL);
	capture_done(&g->capture);
	mem_done(&g->mem);
	free(g->batch.pages);
	free(g->staging);
}

/* --- capture ---------------------------------------------------------------------------------- */

/* As the log of a guest that wrote its set since the last capture. */
static void mock_dirty_log(struct guest *g)
{
	struct dirty *d = &g->capture.dirty;

	memset(d->bits, 0, d->nwords * sizeof(uint64_t));
	memset(d->clear, 0, d->nwords * sizeof(uint64_t));
	for (unsigned i = 0; i < g->n; i++)
		dirty_set(d->bits, g->set[i]);
}

/* One batch takes all. How many pages, or -1. */
static int64_t capture_all(struct capture *c, struct capture_batch *b)
{
	int r = capture_begin(c) ? -1 : CAPTURE_MORE;

	while (r == CAPTURE_MORE)
		r = capture_fill(c, b);
	return r == CAPTURE_ALL ? c->count : -1;
}

static double capture_once(struct guest *g)
{
	struct capture_batch *b = &g->batch;
	uint64_t start;
	int64_t n;

	mock_dirty_log(g);
	start = loop_now_ns();
	n = capture_all(&g->capture, b);
	start = loop_now_ns() - start;
	if (n != g->n)
		die("capture: not the pages that were written", n < 0 ? (int)n : EBADMSG);
	for (uint32_t i = 0; i < b->n; i++)
		if (memcmp(b->pages[i].now, mem_page(&g->mem, b->pages[i].page), MEM_PAGE_SIZE))
			die("capture: a copy is not the page", EBADMSG);
	capture_put(&g->capture, b->pages, b->n);
	b->n = 0;
	return (double)start / g->n;
}

static double copy_out(const struct guest *g)
{
	uint64_t start = loop_now_ns();

	for (unsigned i = 0; i < g->n; i++)
		memcpy(g->staging + (size_t)i * MEM_PAGE_SIZE, mem_page(&g->mem, g->set[i]),
		       MEM_PAGE_SIZE);
	__asm__ volatile("" : : "r"(g->staging) : "memory");
	return (double)(loop_now_ns() - start) / g->n;
}

static void bench_capture(struct guest *g, unsigned pages, bool scattered)
{
	char name[64];
	struct figure f = {.name = name, .unit = "ns/page"};

	snprintf(name, sizeof(name), "capture of %u %s pages", pages, scattered ? "new" : "hot");
	guest_choose(g, pages, scattered);
	/* Until the pages are hot, and staging memory is not touched for the first time. */
	for (unsigned i = 0; i < 4 + (scattered ? g->capture.nbufs / 4 / pages : 0); i++) {
		guest_writes(g);
		capture_once(g);
	}
	for (unsigned r = 0; r < 3 * ROUNDS; r++) {
		double floor;

		guest_writes(g);
		floor = copy_out(g);
		if (scattered)
			guest_writes(g);
		figure_add(&f, floor, capture_once(g));
	}
	figure_print(&f);
}

static void capture(void)
{
	static const unsigned sizes[] = {64, 256, MANY};
	struct guest *g = must(calloc(1, sizeof(*g)));

	for (unsigned i = 0; i < 3; i++)
		for (unsigned scattered = 0; scattered < 2; scattered++) {
			guest_start(g);
			bench_capture(g, sizes[i], scattered);
			guest_end(g);
		}
	free(g);
}

/* --- commit ----------------------------------------------------------------------------------- */

struct epoch {
	uint8_t *data;	/* contents of pages */
	uint8_t *frame; /* encoded */
	uint8_t *state;
	size_t state_len;
	uint64_t number, serial;
	uint64_t set[MANY];
	unsigned n;
	uint8_t *slots; /* the floor's */
};

static void next_set(struct epoch *ep)
{
	for (unsigned i = 0; i < ep->n; i++)
		ep->set[i] = (ep->serial++ * FAR) % (MEM_BYTES / MEM_PAGE_SIZE);
}

static void take(struct srig *r, const struct epoch *ep, uint16_t type, const void *data,
		 uint32_t len)
{
	struct frame f = {.type = type, .epoch = ep->number, .length = len, .data = data};
	struct err e = {0};
	int res = stage_frame(&r->stage, &f, &e);

	if (res != (type == FRAME_EPOCH_END))
		die(e.msg, res ? res : EBADMSG);
}

/* The frames of an epoch of raw pages go in; ns for all but their encoding. */
static uint64_t stage_epoch(struct srig *r, struct epoch *ep)
{
	struct wire_end end = {.pages = ep->n};
	uint64_t ns = loop_now_ns();

	ep->number++;
	take(r, ep, FRAME_EPOCH_BEGIN, NULL, 0);
	ns = loop_now_ns() - ns;
	for (unsigned i = 0; i < ep->n;) {
		uint64_t start;
		size_t len = 0;

		for (; i < ep->n && len < FRAME_BYTES; i++)
			len += pages_encode(ep->set[i], ep->data + (size_t)i * MEM_PAGE_SIZE, NULL,
					    false, ep->frame + len);
		start = loop_now_ns();
		take(r, ep, FRAME_PAGES, ep->frame, len);
		ns += loop_now_ns() - start;
	}
	ns -= loop_now_ns();
	take(r, ep, FRAME_STATE, ep->state, ep->state_len);
	take(r, ep, FRAME_EPOCH_END, &end, sizeof(end));
	return ns + loop_now_ns();
}

static uint64_t copy_in(struct srig *r, const struct epoch *ep)
{
	uint64_t start = loop_now_ns();

	for (unsigned i = 0; i < ep->n; i++)
		memcpy(mem_page(&r->vm.mem, ep->set[i]), ep->slots + (size_t)i * MEM_PAGE_SIZE,
		       MEM_PAGE_SIZE);
	__asm__ volatile("" : : "r"(r->vm.mem.base) : "memory");
	return loop_now_ns() - start;
}

static uint64_t copy_slots(const struct epoch *ep)
{
	uint64_t start = loop_now_ns();

	for (unsigned i = 0; i < ep->n; i++)
		memcpy(ep->slots + (size_t)i * MEM_PAGE_SIZE, ep->data + (size_t)i * MEM_PAGE_SIZE,
		       MEM_PAGE_SIZE);
	__asm__ volatile("" : : "r"(ep->slots) : "memory");
	return loop_now_ns() - start;
}

static uint64_t commit_once(struct srig *r, const struct epoch *ep)
{
	uint64_t start = loop_now_ns();

	stage_commit(&r->stage);
	start = loop_now_ns() - start;
	for (unsigned i = 0; i < ep->n; i++)
		if (memcmp(mem_page(&r->vm.mem, ep->set[i]), ep->data + (size_t)i * MEM_PAGE_SIZE,
			   MEM_PAGE_SIZE))
			die("commit: a page is not what was sent", EBADMSG);
	return start;
}

static void bench_commit(struct srig *r, struct epoch *ep, unsigned pages)
{
	char stage_name[64], commit_name[64];
	struct figure staged = {.name = stage_name, .unit = "ns/page"};
	struct figure committed = {.name = commit_name, .unit = "ns/page"};

	snprintf(stage_name, sizeof(stage_name), "staging of %u raw pages", pages);
	snprintf(commit_name, sizeof(commit_name), "commit of %u pages", pages);
	ep->n = pages;
	for (unsigned i = 0; i < 3 * ROUNDS + 1; i++) {
		double floor[2], ours[2];

		next_set(ep);
		floor[0] = (double)copy_slots(ep) / pages;
		floor[1] = (double)copy_in(r, ep) / pages;
		next_set(ep);
		ours[0] = (double)stage_epoch(r, ep) / pages;
		ours[1] = (double)commit_once(r, ep) / pages;
		if (!i)
			continue; /* memory is touched for the first time */
		figure_add(&staged, floor[0], ours[0]);
		figure_add(&committed, floor[1], ours[1]);
	}
	figure_print(&staged);
	figure_print(&committed);
}

/* Each page has come before: the first time the memory for it is asked for. */
static void all_pages_once(struct srig *r, struct epoch *ep)
{
	ep->n = MANY;
	for (uint64_t i = 0; i < PAGES / MANY; i++) {
		next_set(ep);
		stage_epoch(r, ep);
		commit_once(r, ep);
	}
}

static void epoch_init(struct epoch *ep, struct srig *r)
{
	struct golden g = {.seed = 12};
	size_t cap = vm_state_bound(&r->vm);

	memset(ep, 0, sizeof(*ep));
	ep->data = must(aligned_alloc(4096, MANY * MEM_PAGE_SIZE));
	ep->slots = must(aligned_alloc(4096, MANY * MEM_PAGE_SIZE));
	ep->frame = must(malloc(FRAME_BYTES + PAGE_ENTRY_MAX));
	ep->state = must(malloc(cap));
	ep->state_len = golden_state(r, &g, ep->state, cap);
	fill_random(ep->data, MANY * MEM_PAGE_SIZE);
}

static void epoch_done(struct epoch *ep)
{
	free(ep->data);
	free(ep->slots);
	free(ep->frame);
	free(ep->state);
}

static void commit(void)
{
	static const unsigned sizes[] = {64, 256, MANY};
	struct srig *r = must(calloc(1, sizeof(*r)));
	struct epoch *ep = must(calloc(1, sizeof(*ep)));

	rig_start_with(r, MEM_BYTES);
	epoch_init(ep, r);
	all_pages_once(r, ep);
	for (unsigned i = 0; i < 3; i++)
		bench_commit(r, ep, sizes[i]);
	epoch_done(ep);
	rig_end(r);
	free(ep);
	free(r);
}

/* --- whole epochs, and the first sync --------------------------------------------------------- */

/* Two hosts in one process, without a guest that runs: sender thread here, receiver thread there.
 */
struct pair {
	struct guest *guest;
	struct srig *rig; /* the other side's machine */
	struct stream out, in;
	struct sync sync;
	struct disklog disklog;
	struct send send;
	uint64_t epoch;
	uint8_t *state;
	size_t state_len;
	int notify_fd;
	pthread_t peer;
};

/* The next whole frame of the other side: 1, or 0 at the end of the stream. */
static int next_frame(struct stream *st, struct frame *f)
{
	int r;

	while (!(r = stream_recv(st, f)))
		wait_readable(st->fd);
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		die(st->why, r);
	return r > 0;
}

/* As the secondary: take, answer, commit. */
static void *peer_main(void *arg)
{
	struct pair *p = arg;
	struct err e = {0};
	struct frame f;

	while (next_frame(&p->in, &f)) {
		uint64_t epoch = f.epoch;
		int r = stage_frame(&p->rig->stage, &f, &e);

		if (r < 0)
			die(e.msg, r);
		if (!r)
			continue;
		check("ack",
		      stream_send(&p->in, FRAME_ACK, epoch, NULL, 0, loop_now_ns() + DEADLINE_NS));
		stage_commit(&p->rig->stage);
	}
	return NULL;
}

/* Both ends agree on their keys; without credentials they have nothing to agree on. */
static void make_channels(const struct tls *t, const int fds[2], struct chan c[2])
{
	struct err e = {0};
	int r[2] = {-EAGAIN, -EAGAIN};

	for (int i = 0; i < 2; i++) {
		if (!t)
			c[i] = chan_of(fds[i]);
		else
			check("TLS",
			      tls_chan(t, i ? TLS_SECONDARY : TLS_PRIMARY, fds[i], &c[i], &e));
	}
	for (int i = 0; r[0] || r[1]; i = !i) {
		r[i] = chan_ready(&c[i], &e);
		if (r[i] && r[i] != -EAGAIN)
			die(e.msg, r[i]);
	}
}

static void pair_start(struct pair *p, struct guest *g, const struct tls *t)
{
	struct chan chans[2];
	struct golden golden = {.seed = 12};
	size_t cap;
	int fds[2];

	memset(p, 0, sizeof(*p));
	p->guest = g;
	p->rig = must(calloc(1, sizeof(*p->rig)));
	rig_start_with(p->rig, MEM_BYTES);
	cap = vm_state_bound(&p->rig->vm);
	p->state = must(malloc(cap));
	p->state_len = golden_state(p->rig, &golden, p->state, cap);
	tcp_pair(fds);
	make_channels(t, fds, chans);
	stream_init_on(&p->out, &chans[0], STREAM_MAIN, 42);
	stream_init_on(&p->in, &chans[1], STREAM_MAIN, 0);
	check("preface", stream_send_preface(&p->out, loop_now_ns() + DEADLINE_NS));
	/* No disks: those have figures of their own. */
	check("sync", sync_init(&p->sync, &p->rig->loop, &g->capture.dirty, &p->disklog, NULL));
}

static void pair_end(struct pair *p)
{
	stream_done(&p->out);
	stream_done(&p->in);
	sync_done(&p->sync);
	free(p->state);
	rig_end(p->rig);
	free(p->rig);
}

/* A capture of what the guest wrote, on its way, acknowledged. ns; *ret_bytes that went out. */
static uint64_t epoch_once(struct pair *p, uint64_t *ret_bytes)
{
	struct capture *c = &p->guest->capture;
	uint64_t start, before = p->out.sent_bytes;
	struct capture_batch *b;
	struct send_job *job;
	struct frame f;
	int64_t n;

	mock_dirty_log(p->guest);
	start = loop_now_ns();
	job = must(send_get_job(&p->send));
	job->first = job->last = true;
	job->epoch = ++p->epoch;
	b = &job->batch;
	n = capture_all(c, b);
	if (n != p->guest->n)
		die("epoch: not the pages that were written", n < 0 ? (int)n : EBADMSG);
	memcpy(job->state, p->state, p->state_len);
	job->state_len = p->state_len;
	job->end = (struct wire_end){.pages = (uint64_t)n};
	send_push(&p->send, job);
	if (!next_frame(&p->out, &f) || f.type != FRAME_ACK || f.epoch != p->epoch)
		die("epoch: this is no ack", EBADMSG);
	start = loop_now_ns() - start;
	send_drain(&p->send);
	*ret_bytes = p->out.sent_bytes - before;
	return start;
}

struct echo {
	int fd;
	uint64_t bytes;
};

static void *echo_main(void *arg)
{
	struct echo *e = arg;
	uint8_t ack[40] = {0}; /* a frame without payload has as many */
	struct iovec iov = {ack, sizeof(ack)};
	struct chan c = chan_of(e->fd);

	read_away(e->fd, e->bytes);
	check("echo", chan_write(&c, &iov, 1, loop_now_ns() + DEADLINE_NS));
	return NULL;
}

/* The floor: as many bytes there, 40 back. */
static uint64_t echo_once(const int fds[2], uint64_t bytes)
{
	struct echo e = {fds[1], bytes};
	pthread_t thread;
	uint64_t start;

	check("thread", -pthread_create(&thread, NULL, echo_main, &e));
	usleep(1000); /* it waits, as the peer does */
	start = loop_now_ns();
	write_plain(fds[0], bytes, CHUNK);
	read_away(fds[0], 40);
	start = loop_now_ns() - start;
	pthread_join(thread, NULL);
	return start;
}

static void bench_epochs(struct pair *p, unsigned pages, const int plain[2])
{
	char name[64];
	struct figure f = {.name = name, .unit = "us"};
	uint64_t bytes;

	snprintf(name, sizeof(name), "epoch of %u pages, to its ack", pages);
	guest_choose(p->guest, pages, false);
	for (unsigned i = 0; i < 4; i++) {
		guest_writes(p->guest);
		epoch_once(p, &bytes);
	}
	for (unsigned r = 0; r < 3 * ROUNDS; r++) {
		double ours;

		guest_writes(p->guest);
		usleep(1000);
		ours = (double)epoch_once(p, &bytes) / 1e3;
		figure_add(&f, (double)echo_once(plain, bytes) / 1e3, ours);
	}
	figure_print(&f);
}

static void epochs(void)
{
	static const unsigned sizes[] = {0, 64, 256, MANY};
	struct guest *g = must(calloc(1, sizeof(*g)));
	struct pair *p = must(calloc(1, sizeof(*p)));
	int plain[2];

	tcp_pair(plain);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		guest_start(g);
		pair_start(p, g, NULL);
		p->notify_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
		check("thread", -pthread_create(&p->peer, NULL, peer_main, p));
		p->send = (struct send){.stream = &p->out,
					.capture = &g->capture,
					.sync = &p->sync,
					.state_cap = vm_state_bound(&p->rig->vm),
					.notify_fd = p->notify_fd};
		check("sender", send_start(&p->send, NULL));
		while (!__atomic_load_n(&p->send.synced, __ATOMIC_ACQUIRE) && !p->send.error)
			usleep(1000);
		bench_epochs(p, sizes[i], plain);
		shutdown(p->out.fd, SHUT_RDWR);
		send_stop(&p->send);
		pthread_join(p->peer, NULL);
		close(p->notify_fd);
		pair_end(p);
		guest_end(g);
	}
	close(plain[0]);
	close(plain[1]);
	free(p);
	free(g);
}

static void *sync_main(void *arg)
{
	struct pair *p = arg;
	struct page_out out;

	check("page writer", page_out_init(&out, &p->out, DEADLINE_NS));
	check("first sync", sync_run(&p->sync, &out));
	page_out_done(&out);
	check("end",
	      stream_send(&p->out, FRAME_EPOCH_BEGIN, 1, NULL, 0, loop_now_ns() + DEADLINE_NS));
	return NULL;
}

/* Until the other side has all of the memory. ns. */
static uint64_t sync_once(struct pair *p)
{
	struct err e = {0};
	pthread_t thread;
	struct frame f;
	uint64_t start = loop_now_ns();

	check("thread", -pthread_create(&thread, NULL, sync_main, p));
	while (next_frame(&p->in, &f) && f.type != FRAME_EPOCH_BEGIN)
		if (stage_frame(&p->rig->stage, &f, &e))
			die(e.msg, EBADMSG);
	start = loop_now_ns() - start;
	pthread_join(thread, NULL);
	if (memcmp(p->guest->mem.base, p->rig->vm.mem.base, MEM_BYTES))
		die("first sync: the memories differ", EBADMSG);
	return start;
}

static double sync_speed(struct guest *g, const struct tls *t)
{
	struct pair *p = must(calloc(1, sizeof(*p)));
	double speed;

	pair_start(p, g, t);
	speed = mib_per_s(MEM_BYTES, sync_once(p));
	pair_end(p);
	free(p);
	return speed;
}

static struct tls *new_credentials(void)
{
	char path[] = "/tmp/native_ft.XXXXXX";
	struct tls_from from = {.psk = path, .name = "vm"};
	struct err e = {0};
	struct tls *t;

	if (mkstemp(path) < 0 || unlink(path) || tls_make_key(path, &e) || tls_open(&t, &from, &e))
		die(e.msg, errno);
	unlink(path);
	return t;
}

/* The second line: what TLS leaves of it. */
static void first_sync(void)
{
	struct figure f = {.name = "first sync of 128 MiB", .unit = "MiB/s"};
	struct figure over_tls = {.name = "the same over TLS, against it", .unit = "MiB/s"};
	struct guest *g = must(calloc(1, sizeof(*g)));
	struct tls *t = new_credentials();

	guest_start(g);
	fill_random(g->mem.base, g->mem.bytes);
	for (unsigned r = 0; r < ROUNDS; r++) {
		double floor = mib_per_s(MEM_BYTES, run_plain_tcp(MEM_BYTES, CHUNK));
		double plain = sync_speed(g, NULL);

		figure_add(&f, floor, plain);
		figure_add(&over_tls, plain, sync_speed(g, t));
	}
	figure_print(&f);
	figure_print(&over_tls);
	guest_end(g);
	tls_close(t);
	free(g);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {
		{"capture", capture}, {"commit", commit}, {"epochs", epochs}, {"sync", first_sync}};

	for (unsigned i = 0; i < 4 && argc == 2; i++)
		if (!strcmp(argv[1], all[i].name)) {
			all[i].run();
			return 0;
		}
	fprintf(stderr, "usage: native_ft capture|commit|epochs|sync\n");
	return 2;
}
