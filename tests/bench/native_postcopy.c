/*
 * Postcopy without a vCPU: two processes over loopback TCP, the real pager, urgent thread, push and
 * streams, and threads that touch pages in random order in place of a guest.
 *
 * The floor of a remote fault is what nobody can do without: a local userfault, and one round trip
 * of as many bytes between two processes. That of bulk is plain TCP. Floors and ours have the same
 * places: the source, and who answers, on the last processor, the destination on the others. Left
 * to the scheduler the floor would be on one, where nobody is woken across processors. Only beside
 * a thread that does not fault, which wants one of its own, all are everywhere.
 */
#define _GNU_SOURCE
#include "tests/bench/native.h"

#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "postcopy/pager.h"
#include "postcopy/push.h"
#include "postcopy/uffd.h"
#include "postcopy/urgent.h"

#define BYTES	  (192ull << 20)
#define HOLE	  (64ull << 20) /* of these, at the end: never touched at the source */
#define DATA	  ((BYTES - HOLE) / MEM_PAGE_SIZE)
#define FAULTS	  2000u /* of a floor, and of remote ones without a push */
#define MAX_TIMES 65536u
#define REQUEST	  48u
#define REPLY	  (40u + 8u + 4096u)

static struct mem source;

/* --- places ---
 */

enum place { ANYWHERE, DESTINATION, SOURCE };

/* This thread, and those that it makes from here on. One processor is for both. */
static void place(enum place where)
{
	static cpu_set_t all; /* that were given to the process */
	cpu_set_t set;
	int last = 0;

	if (!CPU_COUNT(&all) && sched_getaffinity(0, sizeof(all), &all))
		die("processors", errno);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all))
			last = i;
	set = all;
	if (where == SOURCE) {
		CPU_ZERO(&set);
		CPU_SET(last, &set);
	} else if (where == DESTINATION && CPU_COUNT(&all) > 1) {
		CPU_CLR(last, &set);
	}
	if (sched_setaffinity(0, sizeof(set), &set))
		die("processors", errno);
}

/* --- samples ------------------------------------------------------------------------------------
 */

struct times {
	double us[MAX_TIMES];
	unsigned n;
};

static void times_add(struct times *t, uint64_t ns)
{
	if (t->n < MAX_TIMES)
		t->us[t->n++] = (double)ns / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double times_at(struct times *t, unsigned percent)
{
	qsort(t->us, t->n, sizeof(t->us[0]), compare);
	return t->n ? t->us[(uint64_t)(t->n - 1) * percent / 100] : 0;
}

/* --- floors --------------------------------------------------------------------------------------
 */

struct local {
	struct mem mem;
	int uffd, end[2];
	uint8_t *page;
};

static void *local_pager(void *arg)
{
	struct local *l = arg;
	struct pollfd fds[2] = {{.fd = l->uffd, .events = POLLIN},
				{.fd = l->end[0], .events = POLLIN}};

	loop_raise_priority(2); /* as the program's */
	for (;;) {
		struct uffd_fault f;
		uint64_t exist;

		if (poll(fds, 2, -1) > 0 && fds[1].revents)
			return NULL;
		if (uffd_read(l->uffd, &l->mem, &f, 1) == 1)
			check("copy", uffd_copy(l->uffd, &l->mem, f.page, l->page, 1, &exist));
	}
}

/* Faults that a thread of this process resolves. */
static void local_faults(struct times *t)
{
	struct local l = {.page = must(aligned_alloc(4096, 4096))};
	pthread_t thread;

	fill_random(l.page, 4096);
	check("memory", mem_init(&l.mem, MEM_SHARED_FILE, 64ull << 20, NULL));
	l.uffd = uffd_open(NULL);
	check("userfaultfd", l.uffd);
	check("userfaultfd", uffd_register(l.uffd, &l.mem));
	if (pipe(l.end))
		die("pipe", errno);
	check("thread", -pthread_create(&thread, NULL, local_pager, &l));
	for (unsigned i = 0; i < FAULTS; i++) {
		volatile uint64_t *at =
			(volatile uint64_t *)mem_page(&l.mem, i * 7919ull % l.mem.npages);
		uint64_t begin = loop_now_ns();

		(void)*at;
		times_add(t, loop_now_ns() - begin);
	}
	close(l.end[1]);
	pthread_join(thread, NULL);
	uffd_unregister(l.uffd, &l.mem);
	close(l.uffd);
	close(l.end[0]);
	mem_done(&l.mem);
	free(l.page);
}

static void transfer(int fd, uint8_t *buf, size_t len, bool out)
{
	while (len) {
		ssize_t n = out ? send(fd, buf, len, MSG_NOSIGNAL) : recv(fd, buf, len, 0);

		if (n <= 0 && errno == EAGAIN && n < 0) {
			struct pollfd p = {.fd = fd, .events = out ? POLLOUT : POLLIN};

			poll(&p, 1, 30000);
			continue;
		}
		if (n <= 0)
			_exit(0); /* the other side has ended */
		buf += n;
		len -= (size_t)n;
	}
}

/* One request and one page, between two processes. */
static void round_trips(struct times *t)
{
	uint8_t *buf = must(calloc(1, REPLY));
	int fds[2], status;
	pid_t pid;

	tcp_pair(fds);
	pid = fork();
	check("fork", pid);
	if (!pid) {
		close(fds[0]);
		place(SOURCE);
		loop_raise_priority(2);
		for (;;) {
			transfer(fds[1], buf, REQUEST, false);
			transfer(fds[1], buf, REPLY, true);
		}
	}
	close(fds[1]);
	for (unsigned i = 0; i < FAULTS; i++) {
		uint64_t begin = loop_now_ns();

		transfer(fds[0], buf, REQUEST, true);
		transfer(fds[0], buf, REPLY, false);
		times_add(t, loop_now_ns() - begin);
	}
	close(fds[0]);
	waitpid(pid, &status, 0);
	free(buf);
}

static void *write_from_source(void *arg)
{
	place(SOURCE);
	write_plain(*(int *)arg, DATA * MEM_PAGE_SIZE, CHUNK);
	return NULL;
}

/* Plain TCP, from there to here: MiB/s. */
static double plain(void)
{
	pthread_t thread;
	uint64_t begin;
	int fds[2];

	tcp_pair(fds);
	begin = loop_now_ns();
	check("thread", -pthread_create(&thread, NULL, write_from_source, &fds[0]));
	read_away(fds[1], DATA * MEM_PAGE_SIZE);
	begin = loop_now_ns() - begin;
	pthread_join(thread, NULL);
	close(fds[0]);
	close(fds[1]);
	return mib_per_s(DATA * MEM_PAGE_SIZE, begin);
}

/* --- the source
 * ------------------------------------------------------------------------------------ */

static _Noreturn void run_source(int main_fd, int urgent_fd, bool background, int go)
{
	struct stream links[2];
	struct page_out out;
	struct unsent unsent;
	struct urgent urgent = {0};
	struct push push = {.background = background};
	int notify = eventfd(0, 0);
	uint64_t n;
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* A source has had its guest run: no page is touched for the first time by who sends it. */
	check("memory", madvise(source.base, DATA * MEM_PAGE_SIZE, MADV_POPULATE_READ));
	stream_init(&links[0], main_fd, STREAM_MAIN, 9);
	stream_init(&links[1], urgent_fd, STREAM_URGENT, 9);
	check("memory", page_out_init(&out, &links[0], DEADLINE_NS));
	check("memory", unsent_init(&unsent, source.npages, true));
	check("urgent", urgent_start(&urgent, &source, &unsent, &links[1], notify, NULL));
	if (read(go, &c, 1) != 1)
		_exit(0);
	check("push", push_start(&push, &out, &urgent, notify, NULL));
	/* Until the destination has it all, and ends the links. */
	while (!urgent_error(&urgent, NULL))
		if (read(notify, &n, sizeof(n)) < 0)
			break;
	_exit(0);
}

/* --- the destination
 * -------------------------------------------------------------------------------- */

#define THREADS_MAX 16

struct run {
	struct mem mem;
	struct pager pager;
	struct stream main, urgent;
	bool end; /* atomic */
	uint64_t begin_ns, took_ns;
	unsigned faults; /* that each thread makes at most */
	bool spin;	 /* beside a thread that never faults */
	uint64_t spins, wire;
	struct times times;
	pthread_mutex_t lock;
};

struct toucher {
	struct run *r;
	pthread_t thread;
	uint64_t seed;
};

static uint64_t step(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void *touch_pages(void *arg)
{
	struct toucher *t = arg;
	struct run *r = t->r;
	struct times *mine = must(calloc(1, sizeof(*mine)));

	for (unsigned i = 0; i < r->faults;) {
		uint64_t page = step(&t->seed) % DATA, begin;

		if (__atomic_load_n(&r->end, __ATOMIC_ACQUIRE) || !pager_left(&r->pager))
			break;
		if (pager_has(&r->pager, page))
			continue;
		i++;
		begin = loop_now_ns();
		(void)*(volatile uint64_t *)mem_page(&r->mem, page);
		times_add(mine, loop_now_ns() - begin);
	}
	pthread_mutex_lock(&r->lock);
	for (unsigned i = 0; i < mine->n; i++)
		if (r->times.n < MAX_TIMES)
			r->times.us[r->times.n++] = mine->us[i];
	pthread_mutex_unlock(&r->lock);
	free(mine);
	return NULL;
}

static void *spin(void *arg)
{
	struct run *r = arg;
	volatile uint64_t *at = (volatile uint64_t *)mem_page(&r->mem, source.npages - 1);

	while (!__atomic_load_n(&r->end, __ATOMIC_RELAXED)) {
		for (unsigned i = 0; i < 1000; i++)
			*at += i;
		__atomic_fetch_add(&r->spins, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* The loop: frames of the main link. */
static void *read_main(void *arg)
{
	struct run *r = arg;
	struct err e = {0};
	struct frame f;

	while (!pager_complete(&r->pager)) {
		int n = stream_recv(&r->main, &f);

		if (n < 0)
			break; /* the run is over */
		if (!n) {
			wait_readable(r->main.fd);
			continue;
		}
		if (pager_take(&r->pager, &f, &e))
			die(e.msg, EBADMSG);
		if (!pager_left(&r->pager) && !r->took_ns)
			r->took_ns = loop_now_ns() - r->begin_ns;
	}
	return NULL;
}

static void compare_memory(const struct run *r)
{
	for (uint64_t page = 0; page < DATA; page += 997)
		if (pager_has(&r->pager, page) &&
		    memcmp(mem_page(&r->mem, page), mem_page(&source, page), MEM_PAGE_SIZE))
			die("a page is not what was sent", EIO);
}

/* One migration from the switch on, or a part of one. */
static void run(struct run *r, bool background, unsigned threads)
{
	struct toucher t[THREADS_MAX];
	pthread_t reader, spinner;
	int a[2], b[2], go[2], notify = eventfd(0, EFD_NONBLOCK), status;
	struct err e = {0};
	pid_t pid;

	tcp_pair(a);
	tcp_pair(b);
	if (pipe(go))
		die("pipe", errno);
	pid = fork();
	check("fork", pid);
	if (!pid) {
		close(a[0]);
		close(b[0]);
		close(go[1]);
		place(r->spin ? ANYWHERE : SOURCE);
		run_source(a[1], b[1], background, go[0]);
	}
	close(a[1]);
	close(b[1]);
	close(go[0]);
	pthread_mutex_init(&r->lock, NULL);
	stream_init(&r->main, a[0], STREAM_MAIN, 9);
	stream_init(&r->urgent, b[0], STREAM_URGENT, 9);
	stream_shallow(&r->main);
	check("memory", mem_init(&r->mem, MEM_SHARED_FILE, BYTES, NULL));
	if (pager_open(&r->pager, &r->mem, notify, &e) || pager_start(&r->pager, &r->urgent, &e))
		die(e.msg, EIO);
	r->begin_ns = loop_now_ns();
	check("thread", -pthread_create(&reader, NULL, read_main, r));
	if (write(go[1], "g", 1) != 1)
		die("pipe", errno);
	if (r->spin)
		check("thread", -pthread_create(&spinner, NULL, spin, r));
	for (unsigned i = 0; i < threads; i++) {
		t[i] = (struct toucher){.r = r, .seed = next_random()};
		check("thread", -pthread_create(&t[i].thread, NULL, touch_pages, &t[i]));
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(t[i].thread, NULL);
	if (!background)
		chan_shut(&r->main.chan);
	pthread_join(reader, NULL);
	if (!r->took_ns)
		r->took_ns = loop_now_ns() - r->begin_ns;
	__atomic_store_n(&r->end, true, __ATOMIC_RELEASE);
	if (r->spin)
		pthread_join(spinner, NULL);
	r->wire = r->main.recv_bytes + r->urgent.recv_bytes + r->urgent.sent_bytes;
	compare_memory(r);
	pager_drop(&r->pager);
	stream_done(&r->main);
	stream_done(&r->urgent);
	mem_done(&r->mem);
	close(go[1]);
	close(notify);
	waitpid(pid, &status, 0);
}

/* --- figures
 * ----------------------------------------------------------------------------------------- */

static struct run *new_run(void)
{
	return must(calloc(1, sizeof(struct run)));
}

/* Speed of a thread that nothing disturbs, a second. */
static double undisturbed(void)
{
	struct run *r = new_run();
	struct timespec t = {.tv_nsec = 300000000};
	pthread_t thread;
	uint64_t begin;
	double speed;

	check("memory", mem_init(&r->mem, MEM_SHARED_FILE, BYTES, NULL));
	begin = loop_now_ns();
	check("thread", -pthread_create(&thread, NULL, spin, r));
	nanosleep(&t, NULL);
	__atomic_store_n(&r->end, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	speed = (double)r->spins * 1e9 / (double)(loop_now_ns() - begin);
	mem_done(&r->mem);
	free(r);
	return speed;
}

static void faults(unsigned threads)
{
	struct figure p50 = {.name = "remote fault, p50", .unit = "us"};
	struct figure p99 = {.name = "remote fault, p99", .unit = "us"};
	struct figure push50 = {.name = "remote fault beside a push, p50", .unit = "us"};
	struct figure push99 = {.name = "remote fault beside a push, p99", .unit = "us"};
	struct figure push = {.name = "push beside faults", .unit = "MiB/s"};
	struct figure other = {.name = "a thread that does not fault, beside one",
			       .unit = "1000 steps/s"};
	struct times *local = must(calloc(1, sizeof(*local)));
	struct times *trip = must(calloc(1, sizeof(*trip)));

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct run *r = new_run();
		double floor50, floor99, alone = undisturbed();

		place(DESTINATION);
		local->n = trip->n = 0;
		local_faults(local);
		round_trips(trip);
		floor50 = times_at(local, 50) + times_at(trip, 50);
		floor99 = times_at(local, 99) + times_at(trip, 99);
		r->faults = FAULTS / threads;
		run(r, false, threads);
		figure_add(&p50, floor50, times_at(&r->times, 50));
		figure_add(&p99, floor99, times_at(&r->times, 99));
		memset(r, 0, sizeof(*r));
		r->faults = UINT32_MAX;
		run(r, true, threads);
		figure_add(&push50, floor50, times_at(&r->times, 50));
		figure_add(&push99, floor99, times_at(&r->times, 99));
		figure_add(&push, plain(), mib_per_s(DATA * MEM_PAGE_SIZE, r->took_ns));
		memset(r, 0, sizeof(*r));
		place(ANYWHERE);
		r->faults = FAULTS * 4;
		r->spin = true;
		run(r, false, 1);
		figure_add(&other, alone / 1e3, (double)r->spins * 1e6 / (double)r->took_ns);
		free(r);
	}
	figure_print(&p50);
	figure_print(&p99);
	figure_print(&push50);
	figure_print(&push99);
	figure_print(&push);
	figure_print(&other);
	free(local);
	free(trip);
}

static void bulk(void)
{
	struct figure speed = {.name = "push of all memory", .unit = "MiB/s"};
	struct figure bytes = {.name = "bytes on the wire for touched memory", .unit = "MiB"};

	place(DESTINATION);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct run *r = new_run();
		double floor = plain();

		run(r, true, 0);
		figure_add(&speed, floor, mib_per_s(DATA * MEM_PAGE_SIZE, r->took_ns));
		figure_add(&bytes, (double)DATA * MEM_PAGE_SIZE / 1048576,
			   (double)r->wire / 1048576);
		free(r);
	}
	figure_print(&speed);
	figure_print(&bytes);
}

int main(int argc, char **argv)
{
	unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
	struct err e = {0};

	if (argc < 2 || !threads || threads > THREADS_MAX) {
		fprintf(stderr, "usage: native_postcopy faults|bulk [THREADS]\n");
		return 1;
	}
	if (pager_probe(&e))
		die(e.msg, EPERM);
	check("memory", mem_init(&source, MEM_SHARED_FILE, BYTES, NULL));
	fill_random(source.base, DATA * MEM_PAGE_SIZE);
	if (!strcmp(argv[1], "bulk"))
		bulk();
	else
		faults(threads);
	return 0;
}
