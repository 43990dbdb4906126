/*
 * What reaches a secondary: connections of all kinds, hellos with edits, heartbeats, epochs, in any
 * order, from up to six sides at once. It lives, lets nobody in who is not a primary, and starts
 * the VM only after an epoch that was whole.
 *
 * Input: commands, a byte each with what it needs behind it (see step()).
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libwire.h"

#include "vmm/copy/pages.h"
#include "ft/role/secondary.h"
#include "vmm/machine/fdt.h"
#include "vmm/base/log.h"

#define CONNS 6

struct conn {
	int fd; /* -1: none */
	uint64_t session;
	struct wire out; /* counts the frames */
};

static struct loop loop;
static struct vm vm;
static struct machine machine;
static struct config cfg;
static struct ft ft;
static struct secondary sec;
static struct sockaddr_un addr;
static struct conn conns[CONNS];
static unsigned ends; /* frames sent that end an epoch */
static bool exited, taken;

static uint8_t *hello, *state, *pages;
static size_t hello_len, state_len, pages_len;

static void on_state(void *arg, const char *from, const char *to)
{
	require(to[0]);
}

static void on_exit_code(void *arg, int code)
{
	exited = true;
}

static void on_taken(void *arg)
{
	taken = true;
}

static void make_hello(void)
{
	struct wire_hello h = {.generation = 1,
			       .sums = 1,
			       .heartbeat_ns = 10000000000ull,
			       .peer_timeout_ns = 60000000000ull,
			       .disklog_bytes = 1 << 20};
	int n;

	hello = malloc(sizeof(h) + FDT_MAX_BYTES);
	require(hello != NULL);
	n = fdt_build(&machine, hello + sizeof(h), FDT_MAX_BYTES, NULL);
	require(n > 0);
	h.fdt_bytes = (uint32_t)n;
	memcpy(hello, &h, sizeof(h));
	hello_len = sizeof(h) + (size_t)n;
}

/* What a primary of that machine would send. */
static void make_epoch(void)
{
	uint8_t page[MEM_PAGE_SIZE];
	size_t cap;
	int64_t n;

	fake_vm_create(&vm, &loop, &machine, &cfg);
	cap = vm_state_bound(&vm);
	state = malloc(cap);
	pages = malloc(4 * PAGE_ENTRY_MAX);
	require(state && pages);
	n = vm_save(&vm, state, cap);
	require(n > 0);
	state_len = (size_t)n;
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned b = 0; b < sizeof(page); b++)
			page[b] = (uint8_t)(i ? b / (8 * i) + i : 0);
		pages_len += pages_encode(i * 3, page, NULL, i & 1, pages + pages_len);
	}
	vm_destroy(&vm);
}

static void start(void)
{
	char image[96];

	log_init(LOG_ERROR, "fuzz");
	snprintf(image, sizeof(image), "%s/image", fuzz_make_folder());
	require(!loop_init(&loop, NULL));
	fake_machine(&machine, &cfg, image);
	cfg.role = ROLE_SECONDARY;
	cfg.disklog_bytes = 1 << 20;
	snprintf(cfg.listen, sizeof(cfg.listen), "unix:%s/s", fuzz_folder);
	addr.sun_family = AF_UNIX;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/s", fuzz_folder);
	make_hello();
	make_epoch();
}

static void begin(void)
{
	memset(&ft, 0, sizeof(ft));
	ft.cfg = &cfg;
	ft.loop = &loop;
	ft.on_state = on_state;
	ft.on_exit = on_exit_code;
	require(!arbiter_open(&ft.arbiter, &loop, "none", "vm", "me", NULL));
	require(!secondary_start(&sec, &ft, &vm, on_taken, NULL, NULL));
	fake_vm_reset();
	ends = 0;
	exited = taken = false;
	for (unsigned i = 0; i < CONNS; i++)
		conns[i].fd = -1;
}

int __wrap_marks_ask_first(struct marks *m, const struct vm *of, enum mark_word word,
			   uint64_t generation, void (*told)(void *arg, const struct err *e),
			   void *arg);
void __wrap_marks_ask(struct marks *m, const struct vm *of, enum mark_word word,
		      uint64_t generation);

/* On a thread otherwise, which no seed decides about. */
int __wrap_marks_ask_first(struct marks *m, const struct vm *of, enum mark_word word,
			   uint64_t generation, void (*told)(void *arg, const struct err *e),
			   void *arg)
{
	static const struct err none;

	told(arg, &none);
	return 0;
}

void __wrap_marks_ask(struct marks *m, const struct vm *of, enum mark_word word,
		      uint64_t generation)
{
}

static void hang_up(struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	wire_free(&c->out);
}

static void end(void)
{
	for (unsigned i = 0; i < CONNS; i++)
		hang_up(&conns[i]);
	secondary_stop(&sec);
	vm_destroy(&vm);
	arbiter_close(ft.arbiter);
	for (unsigned i = 0; i < 3; i++)
		fuzz_turn(&loop);
	require(fake_vm.created == fake_vm.destroyed);
}

/* Send what is in c->out; an answer is thrown away. */
static void push(struct conn *c)
{
	static uint8_t sink[4096];

	if (c->fd < 0)
		return;
	if (send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN)
		hang_up(c);
	else
		while (recv(c->fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
			continue;
	c->out.len = 0;
}

static void connect_as(struct conn *c, unsigned how)
{
	static const uint32_t links[] = {STREAM_MAIN, STREAM_HEART, STREAM_MAIN, STREAM_FILE};

	hang_up(c);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (connect(c->fd, (struct sockaddr *)&addr, sizeof(addr))) {
		hang_up(c);
		return;
	}
	c->session = 77 + (how >> 2 & 1);
	if (how & 8)
		return; /* says nothing */
	wire_preface(&c->out, STREAM_VERSION + (how >> 4 == 15), links[how & 3], c->session);
	push(c);
}

static void add(struct conn *c, uint16_t type, uint64_t epoch, const void *data, size_t n)
{
	struct frame_hdr h = wire_header(&c->out, type, n);

	h.session = c->session;
	h.epoch = epoch;
	wire_signed(&c->out, h, data, n);
}

/* A frame with edits {u16 place, u8 value}; bit 7 of how: cut. */
static void add_edited(struct conn *c, struct input *in, unsigned how, uint16_t type,
		       uint64_t epoch, const void *data, size_t n)
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
	add(c, type, epoch, copy, n);
	free(copy);
}

/* The parts of an epoch that bits 0-3 of c name, the edits to one of them. */
static void epoch(struct conn *c, struct input *in)
{
	unsigned which = (unsigned)take(in, 1), how = (unsigned)take(in, 1);
	struct wire_end w = {.pages = which & 2 ? 4 : 0};
	uint64_t n = 1 + (which >> 6);
	unsigned edits = how & 0x8f, part = how >> 4 & 7;

	if (which & 1)
		add_edited(c, in, part == 1 ? edits : 0, FRAME_EPOCH_BEGIN, n, "", 0);
	if (which & 2)
		add_edited(c, in, part == 2 ? edits : 0, FRAME_PAGES, n, pages, pages_len);
	if (which & 4)
		add_edited(c, in, part == 3 ? edits : 0, FRAME_STATE, n, state, state_len);
	if (which & 8)
		add_edited(c, in, part == 4 ? edits : 0, FRAME_EPOCH_END, n, &w, sizeof(w));
	ends += which >> 3 & 1;
	push(c);
}

static void anything(struct conn *c, struct input *in)
{
	uint16_t type = (uint16_t)take(in, 1) % (FRAME_TYPE_MAX + 1);
	uint64_t epoch = take(in, 1);
	size_t n = take(in, 2) % 5000;
	const uint8_t *p = take_bytes(in, &n);

	ends += type == FRAME_EPOCH_END;
	add(c, type, epoch, p, n);
	push(c);
}

static void rounds(unsigned n)
{
	while (n-- && !taken && !exited)
		fuzz_turn(&loop);
}

/* Bits 0-2 the command, 3 whether another connection than the first, 4 that the loop runs. */
static void step(struct input *in)
{
	unsigned cmd = (unsigned)take(in, 1);
	struct conn *c = &conns[(cmd & 8 ? take(in, 1) : 0) % CONNS];
	struct wire_heart heart = {1, 0};
	size_t n;

	switch (cmd & 7) {
	case 0:
		connect_as(c, (unsigned)take(in, 1));
		break;
	case 1:
		add_edited(c, in, cmd & 0x40 ? (unsigned)take(in, 1) : 0, FRAME_HELLO, 0, hello,
			   hello_len);
		push(c);
		break;
	case 2:
		add(c, FRAME_HEART, 0, &heart, sizeof(heart));
		push(c);
		break;
	case 3:
		epoch(c, in);
		break;
	case 4:
		anything(c, in);
		break;
	case 5:
		n = take(in, 1);
		wire_add(&c->out, take_bytes(in, &n), n);
		push(c);
		break;
	case 6:
		if (cmd & 0x40 && c->fd >= 0)
			shutdown(c->fd, SHUT_WR);
		else
			hang_up(c);
		break;
	default:
		fake_vm.refuses = cmd & 0x40;
		rounds(2);
	}
	if (cmd & 0x10)
		rounds(1 + (cmd >> 5 & 3));
}

static void play(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned n = 0;

	begin();
	while (in.left && n++ < 60 && !taken && !exited) {
		step(&in);
		require(!fake_vm.started || ends);
	}
	rounds(4);
	require(!fake_vm.started || ends);
	end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A primary: main link, hello, heartbeat link, heartbeat, an epoch; then it is gone. */
	static const uint8_t good[] = {0x10, 0,	   0x31, 0x18, 1,    1,	  0x1a,
				       1,    0x73, 0x0f, 0,    0x56, 0x37};

	if (!hello) {
		start();
		play(good, sizeof(good));
		require(taken && fake_vm.loaded == 1 && fake_vm.started == 1);
	}
	play(data, size);
	return 0;
}
