/*
 * What reaches the destination of a migration: offers, urgent links, memory, states, switches,
 * questions, in any order and with edits, over links that end when they like; and a guest that uses
 * its memory while it comes in. The VM runs only after GO was said, once, and from then on it is
 * there until the end; what is dropped before leaves nothing.
 *
 * Input: commands, a byte each with what it needs behind it (see step()).
 */
#define _GNU_SOURCE /* OFD locks */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libtime.h"

#include "postcopy/dest_do.h"
#include "vmm/base/log.h"
#include "vmm/copy/pages.h"
#include "vmm/machine/fdt.h"

#define SESSION 77ull
#define PAGES	512u
#define CLOCK	7u /* the page of the second state's clock */
#define FULL_NS 1  /* a link that is full is not waited for */
#define LINKS	4
#define TURN_NS 200000 /* real time for the pager's thread */

static struct loop loop;
static struct vm vm;
static struct machine machine;
static struct config cfg;
static struct ft ft;
static struct dest dest;
static struct sockaddr_un addr;
static char image[96];

static uint8_t *offer;
static size_t offer_len;
static struct {
	uint8_t *data;
	size_t len;
} states[2];

static struct stream links[LINKS];
static int holder; /* the source's lock, or -1 */
static unsigned welcomes, readies, gos, runs;

/* --- set-up ----------------------------------------------------------------------------------- */

static void on_runs(void *arg)
{
	runs++;
}

static void on_exit_code(void *arg, int code)
{
	require(false); /* a destination has no such end */
}

static void source_locks(bool locks)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (holder >= 0)
		close(holder);
	holder = -1;
	if (!locks)
		return;
	holder = open(image, O_RDWR | O_CLOEXEC);
	if (fcntl(holder, F_OFD_SETLK, &fl)) /* the destination has it */
		source_locks(false);
}

static void make_offer(void)
{
	int n;

	offer = malloc(sizeof(struct wire_offer) + FDT_MAX_BYTES);
	require(offer != NULL);
	n = fdt_build(&machine, offer + sizeof(struct wire_offer), FDT_MAX_BYTES, NULL);
	require(n > 0);
	memcpy(offer, &(struct wire_offer){MIGRATE_POSTCOPY, (uint32_t)n},
	       sizeof(struct wire_offer));
	offer_len = sizeof(struct wire_offer) + (size_t)n;
}

static void make_state(unsigned clock)
{
	size_t cap;
	int64_t n;

	fake_vm_create(&vm, &loop, &machine, &cfg);
	if (clock)
		vm.vcpus[0].state.msrs[0] =
			(struct kvm_msr_entry){.index = 0x4b564d01, .data = CLOCK << 12 | 1};
	cap = vm_state_bound(&vm);
	states[clock].data = malloc(cap);
	require(states[clock].data != NULL);
	n = vm_save(&vm, states[clock].data, cap);
	require(n > 0);
	states[clock].len = (size_t)n;
	vm_destroy(&vm);
}

static void start(void)
{
	log_init(LOG_ERROR, "fuzz");
	snprintf(image, sizeof(image), "%s/image", fuzz_make_folder());
	require(!loop_init(&loop, NULL));
	loop.clock = loop_now_ns;
	fake_machine(&machine, &cfg, image);
	snprintf(cfg.incoming, sizeof(cfg.incoming), "unix:%s/in", fuzz_folder);
	addr.sun_family = AF_UNIX;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/in", fuzz_folder);
	holder = -1;
	make_offer();
	make_state(0);
	make_state(1);
}

static void begin(void)
{
	time_reset();
	fake_vm_reset();
	ft = (struct ft){.cfg = &cfg, .loop = &loop, .on_exit = on_exit_code};
	welcomes = readies = gos = runs = 0;
	for (unsigned i = 0; i < LINKS; i++)
		links[i] = (struct stream){.fd = -1};
	source_locks(true);
	require(!dest_start(&dest, &ft, &vm, on_runs, NULL, NULL));
}

static void end(void)
{
	dest_stop(&dest);
	vm.running = false;
	vm_destroy(&vm);
	for (unsigned i = 0; i < LINKS; i++)
		stream_done(&links[i]);
	loop_turns(&loop);
	require(fake_vm.created == fake_vm.destroyed);
}

/* --- the source ------------------------------------------------------------------------------- */

static void hear(void)
{
	struct frame f;

	for (unsigned i = 0; i < LINKS; i++)
		while (links[i].fd >= 0 && stream_recv(&links[i], &f) == 1) {
			welcomes += f.type == FRAME_WELCOME;
			readies += f.type == FRAME_READY;
			require(f.type != FRAME_RUNS || runs);
		}
}

static void rounds(unsigned n)
{
	while (n--) {
		if (dest.pager.started)
			loop_run_once(&loop, TURN_NS);
		else
			fuzz_turn(&loop);
		hear();
	}
}

static void say(struct stream *st, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	if (st->fd < 0)
		return;
	gos += type == FRAME_GO;
	stream_send(st, type, 0, &iov, len ? 1 : 0, loop_now_ns() + FULL_NS);
}

/* With edits {u16 place, u8 value}; bit 7 of how: cut. */
static void say_edited(struct stream *st, struct input *in, unsigned how, enum frame_type type,
		       const void *data, size_t n)
{
	uint8_t *copy = malloc(n + 1);

	require(copy != NULL);
	memcpy(copy, data, n);
	for (unsigned k = how & 7; k && n; k--) {
		size_t place = take(in, 2) % n;

		copy[place] = (uint8_t)take(in, 1);
	}
	if (how & 0x80 && n)
		n = take(in, 2) % n;
	say(st, type, copy, n);
	free(copy);
}

/* Bits 0-1: which link; 2: another session; 3: says nothing. */
static void dial(struct stream *st, unsigned how)
{
	static const enum stream_link kinds[] = {STREAM_MIGRATE, STREAM_URGENT, STREAM_MIGRATE,
						 STREAM_MAIN};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	stream_done(st);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return;
	}
	stream_init(st, fd, kinds[how & 3], SESSION + (how >> 2 & 1));
	if (!(how & 8))
		stream_send_preface(st, loop_now_ns() + FULL_NS);
}

static void say_pages(struct stream *st, struct input *in)
{
	uint64_t first = take(in, 2) % PAGES, n = take(in, 1) % 40;
	uint8_t *buf = malloc(40 * PAGE_ENTRY_MAX), page[MEM_PAGE_SIZE];
	unsigned how = (unsigned)take(in, 1);
	size_t len = 0;

	require(buf != NULL);
	for (uint64_t i = 0; i < n && first + i < PAGES; i++) {
		memset(page, (int)(how & 0x40 ? i : 0), sizeof(page));
		len += pages_encode(first + i, page, NULL, how & 0x20, buf + len);
	}
	say_edited(st, in, how & 0x87, FRAME_PAGES, buf, len);
	free(buf);
}

static void say_switch(struct stream *st, struct input *in)
{
	unsigned how = (unsigned)take(in, 1);
	struct wire_switch w = {.mode = how & 8 ? MIGRATE_PRECOPY : MIGRATE_POSTCOPY,
				.paused = how >> 4 & 1,
				.stopped_ns = 5};

	source_locks(how & 0x20);
	say_edited(st, in, how & 0x87, FRAME_SWITCH, &w, sizeof(w));
}

static void say_map(struct stream *st, struct input *in)
{
	struct wire_map w = {.page = take(in, 2) % (PAGES + 8), .count = take(in, 2) % (PAGES + 8)};

	w.kind = take(in, 1) % 4;
	say(st, FRAME_MAP, &w, sizeof(w));
}

static void say_eos(struct stream *st, struct input *in)
{
	struct wire_eos w = {.urgent = take(in, 1), .pushed = take(in, 1), .zero = take(in, 2)};

	say(st, FRAME_EOS, &w, sizeof(w));
}

static void say_offer(struct stream *st, struct input *in)
{
	unsigned how = (unsigned)take(in, 1);

	offer[0] = how & 8 ? MIGRATE_PRECOPY : MIGRATE_POSTCOPY;
	say_edited(st, in, how & 0x87, FRAME_OFFER, offer, offer_len);
}

static void say_state(struct stream *st, struct input *in)
{
	unsigned how = (unsigned)take(in, 1), clock = how >> 3 & 1;

	say_edited(st, in, how & 0x87, FRAME_STATE, states[clock].data, states[clock].len);
}

static void say_anything(struct stream *st, struct input *in)
{
	uint16_t type = (uint16_t)take(in, 1) % FRAME_TYPE_MAX;
	size_t n = take(in, 2) % 5000;
	const uint8_t *p = take_bytes(in, &n);

	if (n <= stream_max_length(type))
		say(st, type, p, n);
}

static void say_word(struct stream *st, struct input *in)
{
	static const enum frame_type words[] = {FRAME_GO,    FRAME_GONE, FRAME_ASK, FRAME_BYE,
						FRAME_PAGES, FRAME_EOS,	 FRAME_GO,  FRAME_MAP};

	say(st, words[take(in, 1) & 7], NULL, 0);
}

/* --- the guest, and the rest --------------------------------------------------------------------
 */

static void use_memory(struct input *in)
{
	uint64_t page = take(in, 2) % PAGES, n = 1 + take(in, 1) % 40;

	n = n < PAGES - page ? n : PAGES - page;
	if (!vm.loop)
		return;
	if (!runs)
		mem_ready(&vm.mem, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE);
	else if (take(in, 1) & 1)
		require(!mem_discard(&vm.mem, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE));
	else if (mem_ready(&vm.mem, page * MEM_PAGE_SIZE, n * MEM_PAGE_SIZE))
		memset(mem_page(&vm.mem, page), 1, n * MEM_PAGE_SIZE); /* and no fault */
}

static void late(void)
{
	if (time_left(&dest.timer_op) >= 0)
		time_fire(&dest.timer_op);
}

/* Bits 0-3 the command, 4-5 the link, 6-7 turns of the loop. */
static void step(struct input *in)
{
	unsigned cmd = (unsigned)take(in, 1);
	struct stream *st = &links[cmd >> 4 & 3];
	static void (*const says[])(struct stream * st, struct input * in) = {
		say_offer, say_state, say_switch, say_pages,
		say_map,   say_eos,   say_word,	  say_anything};

	if ((cmd & 15) < 8)
		says[cmd & 7](st, in);
	else if ((cmd & 15) == 8)
		dial(st, (unsigned)take(in, 1));
	else if ((cmd & 15) == 9)
		stream_done(st);
	else if ((cmd & 15) == 10)
		use_memory(in);
	else if ((cmd & 15) == 11)
		late();
	else if ((cmd & 15) == 12)
		fake_vm.refuses = take(in, 1) & 1;
	rounds(cmd >> 6);
}

static void check(void)
{
	require(!runs || gos);
	require(runs <= 1);
	require(!runs || (vm.loop && dest.fsm.state >= DST_FILL));
	require(runs || (dest.fsm.state < DST_FILL && !vm.running));
	require(vm.loop || dest.fsm.state == DST_LISTEN);
}

static void play(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned n = 0;

	begin();
	while (in.left && n++ < 80) {
		step(&in);
		check();
	}
	rounds(2);
	check();
}

/* A postcopy with a clock that is asked for, a cut, HAVE, and all of the rest. */
static const struct {
	uint8_t cmd[6], n;
	enum dest_state then;
	unsigned welcomes;
} good[] = {
	{{0x08, 0}, 2, DST_LISTEN, 0},		      /* the link */
	{{0x00, 0}, 2, DST_RECEIVING, 0},	      /* OFFER */
	{{0x18, 1}, 2, DST_RECEIVING, 0},	      /* the urgent one, */
	{{0xd6, 4}, 2, DST_RECEIVING, 2},	      /* and its frame without pages */
	{{0x03, 9, 0, 3, 0x40}, 5, DST_RECEIVING, 0}, /* PAGES */
	{{0x01, 8}, 2, DST_RECEIVING, 0},	      /* STATE, with a clock */
	{{0x02, 0}, 2, DST_LOADING, 0},		      /* SWITCH */
	{{0x13, CLOCK, 0, 1, 0x40}, 5, DST_READY, 0}, /* what it wants, urgently */
	{{0x06, 0}, 2, DST_FILL, 0},		      /* GO */
	{{0x0a, 20, 0, 1, 0}, 5, DST_FILL, 0},	      /* the guest wants a page */
	{{0x09}, 1, DST_CUT, 0},		      /* the link is lost */
	{{0x28, 0}, 2, DST_CUT, 0},		      /* a new one, */
	{{0x26, 2}, 2, DST_MENDING, 0},		      /* ASK */
	{{0x38, 1}, 2, DST_MENDING, 0},		      /* the urgent one */
	{{0x36, 4}, 2, DST_FILL, 0},		      /* and its frame */
	{{0x24, 0, 0, 0, 2, 2}, 6, DST_FILL, 0},      /* MAP: the rest is zero */
	{{0x25, 0, 0, 0, 2}, 5, DST_RUNS, 0},	      /* EOS */
	{{0x26, 1}, 2, DST_HERE, 0},		      /* GONE */
};

static void try_good(void)
{
	struct err e = {0};

	if (pager_probe(&e)) {
		fprintf(stderr, "only precopy: %s\n", e.msg);
		return;
	}
	begin();
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct input in = {good[i].cmd, good[i].n};
		unsigned turns = 0;

		step(&in);
		while (dest.fsm.state != good[i].then || welcomes < good[i].welcomes) {
			require(turns++ < 50000);
			loop_run_once(&loop, TURN_NS);
			rounds(1);
		}
		check();
	}
	require(runs == 1 && readies == 1);
	end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!offer) {
		start();
		try_good();
	}
	play(data, size);
	end();
	return 0;
}
