/*
 * What reaches the source of a migration: a destination that says any frame at any time, on the
 * main link and on the urgent one, with edits, and hangs up when it likes; a user who cancels;
 * timers. The VM runs here exactly in the states in which it may; from GO on it never does again,
 * unless the destination says that it never ran there, or the user does.
 *
 * Input: commands, a byte each with what it needs behind it (see step()).
 */
#define _GNU_SOURCE /* accept4, OFD locks */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/libtime.h"

#include "postcopy/source_do.h"
#include "vmm/base/log.h"

#define PAGES	512u
#define WORDS	(PAGES / 64)
#define MORE	4  /* words than there are */
#define FULL	24 /* pages that are not zero: fit into a socket */
#define FULL_NS 1  /* a link that is full is not waited for */
#define TURN_NS 200000

static struct loop loop;
static struct vm vm;
static struct machine machine;
static struct config cfg;
static struct ft ft;
static struct source src;
static struct sockaddr_un addr;
static char image[96];
static int listener;
static struct stream main_link, pair;
static unsigned came[FRAME_TYPE_MAX];
static uint64_t had[WORDS];
static bool exited, forced, never;

/* --- set-up ----------------------------------------------------------------------------------- */

static void on_exit_code(void *arg, int code)
{
	require(code == 3 || code == 5);
	exited = true;
}

static void on_news(void *arg)
{
}

static void listens(bool on)
{
	if (listener >= 0)
		close(listener);
	listener = -1;
	unlink(addr.sun_path);
	if (!on)
		return;
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	require(!bind(listener, (struct sockaddr *)&addr, sizeof(addr)) && !listen(listener, 4));
}

static void start(void)
{
	log_init(LOG_ERROR, "fuzz");
	snprintf(image, sizeof(image), "%s/image", fuzz_make_folder());
	require(!loop_init(&loop, NULL));
	loop.clock = loop_now_ns;
	fake_machine(&machine, &cfg, image);
	addr.sun_family = AF_UNIX;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/in", fuzz_folder);
	listener = -1;
}

/* A request that was abandoned holds the file, and with it the lock, until it ends. */
static void wait_for_image(void)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(image, O_RDWR | O_CLOEXEC);

	while (fcntl(fd, F_OFD_SETLK, &fl))
		loop_run_once(&loop, TURN_NS);
	close(fd);
}

static void begin(void)
{
	time_reset();
	fake_vm_reset();
	ft = (struct ft){.cfg = &cfg, .loop = &loop, .life = FT_HERE, .on_exit = on_exit_code};
	memset(came, 0, sizeof(came));
	memset(had, 0, sizeof(had));
	exited = forced = never = false;
	main_link = pair = (struct stream){.fd = -1};
	listens(true);
	wait_for_image();
	fake_vm_create(&vm, &loop, &machine, &cfg);
	kvm_model_start(&vm.mem);
	vm.kvm = kvm_model.kvm;
	for (unsigned page = 0; page < FULL; page++)
		guest_writes(&vm.mem, page * 20, 3, page + 1);
	vm_start(&vm);
	source_init(&src, &ft, &vm, on_news, NULL);
}

static void end(void)
{
	source_done(&src);
	stream_done(&main_link);
	stream_done(&pair);
	listens(false);
	vm.devices.disks[0].inflight = 0;
	vm.running = false;
	vm_destroy(&vm);
	kvm_model_end();
	loop_turns(&loop);
	require(fake_vm.created == fake_vm.destroyed);
}

/* --- the destination -------------------------------------------------------------------------- */

static void hear(struct stream *st)
{
	struct frame f;

	while (st->fd >= 0 && stream_recv(st, &f) == 1)
		came[f.type]++;
}

/* Whose news are worth a moment. */
static bool threads_run(void)
{
	return passes_running(&src.passes) || src.urgent.running || src.fsm.state == SRC_DRAIN;
}

static void rounds(unsigned n)
{
	while (n--) {
		loop_run_once(&loop, threads_run() ? TURN_NS : 0);
		hear(&main_link);
		hear(&pair);
	}
}

/* Of a connection that is there; the urgent one is the second. */
static void accept_one(struct stream *st, enum stream_link link)
{
	int fd = listener < 0 ? -1 : accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	stream_done(st);
	stream_init(st, fd, link, 0);
	hear(st);
}

static void say(struct stream *st, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	if (st->fd < 0 || !st->session)
		return;
	never |= type == FRAME_BYE && came[FRAME_ASK];
	stream_send(st, type, 0, &iov, len ? 1 : 0, loop_now_ns() + FULL_NS);
}

/* With edits {u16 place, u8 value}; bit 7 of how: cut. */
static void say_edited(struct stream *st, struct input *in, enum frame_type type, const void *data,
		       size_t n)
{
	unsigned how = (unsigned)take(in, 1);
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

/* All of it, or what the input says. */
static void say_have(struct input *in)
{
	struct wire_have w = {0, WORDS, 1};
	uint8_t buf[sizeof(w) + sizeof(had) + MORE * 8] = {0};
	unsigned how = (unsigned)take(in, 1);

	for (unsigned i = 0; i < WORDS; i++)
		had[i] = how & 1 ? UINT64_MAX : how & 2 ? take(in, 2) : 0;
	if (how & 4) {
		w.word = take(in, 1);
		w.nwords = (uint32_t)take(in, 1) % (WORDS + MORE + 1);
		w.last = (uint32_t)take(in, 1) & 1;
	}
	memcpy(buf, &w, sizeof(w));
	memcpy(buf + sizeof(w), had, sizeof(had));
	say_edited(&main_link, in, FRAME_HAVE, buf, sizeof(w) + w.nwords * 8);
}

static void say_word(struct input *in)
{
	static const enum frame_type words[] = {FRAME_WELCOME, FRAME_READY, FRAME_RUNS,
						FRAME_EOC,     FRAME_BYE,   FRAME_REFUSE};
	unsigned which = (unsigned)take(in, 1) % 6;
	struct wire_ready ready = {1, 2};
	struct wire_runs runs = {3};

	if (words[which] == FRAME_READY)
		say_edited(&main_link, in, FRAME_READY, &ready, sizeof(ready));
	else if (words[which] == FRAME_RUNS)
		say_edited(&main_link, in, FRAME_RUNS, &runs, sizeof(runs));
	else
		say(&main_link, words[which], "tired", words[which] == FRAME_REFUSE ? 5 : 0);
}

static void say_urgently(struct input *in)
{
	unsigned how = (unsigned)take(in, 1);
	uint64_t words[16];
	size_t n = how & 15;

	for (size_t i = 0; i < n; i++)
		words[i] = take(in, 2) % (PAGES + 4);
	if (how & 0x40)
		say_edited(&pair, in, FRAME_WANT, words, n * 8);
	else
		say(&pair, how & 0x80 ? FRAME_REMOVED : FRAME_WANT, words, n * 8);
}

static void say_anything(struct input *in)
{
	uint16_t type = (uint16_t)take(in, 1);
	size_t n = take(in, 2) % 5000;
	const uint8_t *p = take_bytes(in, &n);

	if (n <= stream_max_length(type % FRAME_TYPE_MAX))
		say(type & 0x80 ? &pair : &main_link, type % FRAME_TYPE_MAX, p, n);
}

/* --- what happens here --------------------------------------------------------------------------
 */

static void migrate(struct input *in)
{
	unsigned how = (unsigned)take(in, 1);
	struct migrate_conf conf = {.downtime_ns = 3600 * S,
				    .timeout_ns = 60 * S,
				    .how = (enum migrate_how)(how % 3),
				    .no_background = how >> 4 & 1};

	conf.passes = conf.how == MIGRATE_HOW_POSTCOPY ? how >> 5 & 1 : MIGRATE_PASSES_ANY;
	snprintf(conf.uri, sizeof(conf.uri), "unix:%s", addr.sun_path);
	vm.devices.disks[0].inflight = how >> 3 & 1;
	source_start(&src, &conf, NULL);
}

static void user(struct input *in)
{
	unsigned how = (unsigned)take(in, 1) % 4;

	if (how == 0)
		source_cancel(&src, false, "cancelled", NULL);
	else if (how == 1)
		forced |= !source_cancel(&src, true, "forced", NULL);
	else if (how == 2)
		source_may_end(&src, "stop");
}

static void disks_end(void)
{
	struct disk *d = &vm.devices.disks[0];
	void (*fn)(void *arg) = d->drained;

	d->inflight = 0;
	d->drained = NULL;
	if (fn)
		fn(d->drained_arg);
}

static void late(struct input *in)
{
	struct loop_op *op = take(in, 1) & 1 ? &src.late_op : &src.timer_op;

	if (time_left(op) >= 0)
		time_fire(op);
}

/* Bits 0-3 the command, 5-7 turns of the loop. */
static void step(struct input *in)
{
	static void (*const does[])(struct input * in) = {
		migrate, say_word, say_have, say_urgently, say_anything, user, late};
	unsigned cmd = (unsigned)take(in, 1), what = cmd & 15;

	if (what < 7)
		does[what](in);
	else if (what == 7)
		accept_one(&main_link, STREAM_MIGRATE);
	else if (what == 8)
		accept_one(&pair, STREAM_URGENT);
	else if (what == 9)
		stream_done(&main_link);
	else if (what == 10)
		stream_done(&pair);
	else if (what == 11)
		listens(take(in, 1) & 1);
	else if (what == 12)
		disks_end();
	rounds(cmd >> 5);
}

static bool may_run(enum source_state s)
{
	return s <= SRC_PASSES || s == SRC_QUIT;
}

static void check(void)
{
	require(vm.running == may_run((enum source_state)src.fsm.state));
	require(!vm.running || !came[FRAME_GO] || never || forced);
	require(exited == (src.fsm.state == SRC_LEFT));
	require(exited || src.unsent.left <= PAGES);
}

static void play(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned n = 0;

	begin();
	while (in.left && n++ < 80 && !exited) {
		step(&in);
		check();
	}
	rounds(2);
	check();
}

/* Postcopy, a page that is wanted, a cut, HAVE, the rest. */
static const struct {
	uint8_t cmd[6], n;
	enum source_state then;
} good[] = {
	{{0x00, 0x01}, 2, SRC_OFFERED},	    /* --postcopy */
	{{0x07}, 1, SRC_OFFERED},	    /* the link */
	{{0x01, 0}, 2, SRC_PAIRING},	    /* WELCOME */
	{{0x28}, 1, SRC_PAIRING},	    /* the urgent one */
	{{0x01, 0}, 2, SRC_SWITCH},	    /* WELCOME */
	{{0x01, 1, 0}, 3, SRC_GO},	    /* READY */
	{{0x01, 2, 0}, 3, SRC_SERVE},	    /* RUNS */
	{{0x03, 1, 20, 0}, 4, SRC_SERVE},   /* WANT 20 */
	{{0x09}, 1, SRC_CUT},		    /* the link is lost */
	{{0x06, 0}, 2, SRC_CUT_ASKED},	    /* again */
	{{0x07}, 1, SRC_CUT_ASKED},	    /* the link */
	{{0x02, 0, 0}, 3, SRC_CUT_PAIRING}, /* HAVE: nothing */
	{{0x28}, 1, SRC_CUT_PAIRING},	    /* the urgent one */
	{{0x01, 0}, 2, SRC_ENDING},	    /* WELCOME */
	{{0x01, 3}, 2, SRC_LEFT},	    /* EOC */
};

/* What was accepted has said who it is. */
static bool is_known(const struct stream *st)
{
	return st->fd < 0 || st->session;
}

/* All of it may have gone out already. */
static bool has_reached(enum source_state s)
{
	return src.fsm.state == s || (s == SRC_SERVE && src.fsm.state == SRC_ENDING);
}

static void try_good(void)
{
	begin();
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct input in = {good[i].cmd, good[i].n};
		unsigned turns = 0;

		step(&in);
		while (!has_reached(good[i].then) || !is_known(&main_link) || !is_known(&pair)) {
			require(turns++ < 50000);
			loop_run_once(&loop, TURN_NS);
			rounds(1);
		}
		check();
	}
	require(exited && came[FRAME_GO] == 1 && came[FRAME_ASK] == 1 && came[FRAME_EOS]);
	end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!addr.sun_family) {
		start();
		try_good();
	}
	play(data, size);
	end();
	return 0;
}
