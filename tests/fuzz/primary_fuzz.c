/*
 * What reaches a primary: a secondary that welcomes, refuses, acknowledges what it likes, says
 * anything on either link, and hangs up. The primary lives, and lets out no byte that the guest
 * printed in an epoch before the ack of that epoch, unless it has become the only side.
 *
 * Input: bit 0 of the first byte: the first epoch is under way already; then commands, a byte each
 * with what it needs behind it (see step()).
 */
#define _GNU_SOURCE /* accept4 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vm.h"

#include "ft/role/primary.h"
#include "ft/common/wire.h"
#include "vmm/base/log.h"

#define EPOCHS 64

static struct loop loop;
static struct vm vm;
static struct machine machine;
static struct config cfg;
static struct ft ft;
static struct primary pri;
static int listener;
static struct stream main_link, heart_link; /* the peer's ends */
static uint64_t ended;			    /* the last epoch that came whole */
static uint64_t acked;			    /* the last of these that was acknowledged */
static uint64_t put_in[EPOCHS], put_free;   /* bytes that the guest printed */
static bool exited, alone, held;

static void on_state(void *arg, const char *from, const char *to)
{
	require(to[0]);
}

static void on_exit_code(void *arg, int code)
{
	exited = true;
}

static void start(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	char image[96];

	log_init(LOG_ERROR, "fuzz");
	snprintf(image, sizeof(image), "%s/image", fuzz_make_folder());
	fake_machine(&machine, &cfg, image);
	cfg.role = ROLE_PRIMARY;
	cfg.heartbeat_ns = 5000000000ull;
	cfg.peer_timeout_ns = 60000000000ull;
	cfg.epoch_ns = CONFIG_EPOCH_MIN_NS;
	cfg.staging_bytes = 1 << 20;
	cfg.npeers = 1;
	snprintf(cfg.peers[0], sizeof(cfg.peers[0]), "unix:%s/p", fuzz_folder);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/p", fuzz_folder);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	require(!bind(listener, (struct sockaddr *)&sun, sizeof(sun)) && !listen(listener, 8));
	require(!loop_init(&loop, NULL));
}

static int accept_one(void)
{
	return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* All that has come; the sender must not wait for us. */
static void read_links(void)
{
	struct frame f;

	while (main_link.fd >= 0 && stream_recv(&main_link, &f) == 1)
		if (f.type == FRAME_EPOCH_END) {
			require(f.epoch > ended && f.length == sizeof(struct wire_end));
			ended = f.epoch;
		}
	while (heart_link.fd >= 0 && stream_recv(&heart_link, &f) == 1)
		require(f.type == FRAME_HEART);
}

/* No byte of an epoch without its ack. */
static void check_output(void)
{
	uint64_t may = put_free;

	held = held || vm.obuf.holding;
	alone = alone || (held && !vm.obuf.holding);
	for (uint64_t n = 0; n <= acked && n < EPOCHS; n++)
		may += put_in[n];
	require(alone || fake_vm.printed <= may);
}

static void turn(uint64_t wait_ns)
{
	loop_run_once(&loop, wait_ns);
	read_links();
	check_output();
}

/* What the sender thread or the kernel does takes a while; what does not happen is no error. */
#define until(cond, turns)                                                                         \
	for (int left_ = (turns); !(cond) && left_ && !exited && pri.fsm.state != PRI_IDLE;        \
	     left_--)                                                                              \
	turn(500000)

static void begin(void)
{
	memset(&ft, 0, sizeof(ft));
	ft = (struct ft){.cfg = &cfg,
			 .loop = &loop,
			 .life = FT_HERE,
			 .cover = FT_UNPROTECTED,
			 .generation = 1,
			 .on_state = on_state,
			 .on_exit = on_exit_code};
	memset(put_in, 0, sizeof(put_in));
	ended = acked = put_free = 0;
	exited = alone = held = false;
	fake_vm_reset();
	require(!arbiter_open(&ft.arbiter, &loop, "none", "vm", "me", NULL));
	fake_vm_create(&vm, &loop, &machine, &cfg);
	require(!mem_write(&vm.mem, 5 * MEM_PAGE_SIZE, "\x01", 1));
	vm_start(&vm);
	main_link.fd = heart_link.fd = -1;
	require(!primary_start(&pri, &ft, &vm, NULL));
	stream_init(&main_link, accept_one(), STREAM_MAIN, 0);
	require(main_link.fd >= 0);
	until(pri.fsm.state == PRI_HELLO, 1000);
	read_links();
}

static void end(void)
{
	primary_stop(&pri);
	stream_done(&main_link);
	stream_done(&heart_link);
	for (int fd; (fd = accept_one()) >= 0;)
		close(fd);
	vm.running = false;
	vm_destroy(&vm);
	arbiter_close(ft.arbiter);
	for (unsigned i = 0; i < 3; i++)
		loop_run_once(&loop, 0);
	require(fake_vm.created == fake_vm.destroyed);
}

static void say(struct stream *st, enum frame_type type, uint64_t epoch, const void *p, size_t n)
{
	struct iovec iov = {(void *)p, n};

	if (st->fd >= 0)
		stream_send(st, type, epoch, &iov, n ? 1 : 0, loop_now_ns() + 100000000u);
}

static void take_heart_link(void)
{
	int fd = heart_link.fd < 0 ? accept_one() : -1;

	if (fd >= 0)
		stream_init(&heart_link, fd, STREAM_HEART, 0);
}

/* What the guest prints comes with a page that it writes. */
static void print(unsigned n)
{
	static char text[32];
	struct iovec iov = {text, n};
	uint64_t epoch = vm.obuf.epoch;
	bool holding = vm.obuf.holding;

	text[0]++;
	if (vm.running)
		require(!mem_write(&vm.mem, (unsigned)text[0] % 64 * 4096 + n, text, n));
	if (!vm.running || obuf_put(&vm.obuf, fake_vm.sink, &iov, 1))
		return;
	if (!holding)
		put_free += n;
	else if (epoch < EPOCHS)
		put_in[epoch] += n;
}

static void acknowledge(unsigned how)
{
	/* Never the one after: it may be on its way, and then that is no lie. */
	static const uint64_t lies[] = {-1, 2, 100, UINT64_MAX / 2};

	read_links();
	if (how & 4) {
		say(&main_link, FRAME_ACK, ended + lies[how & 3], NULL, 0);
		return;
	}
	acked = ended;
	say(&main_link, FRAME_ACK, ended, NULL, 0);
}

static void hang_up(struct stream *st, bool half)
{
	if (st->fd < 0)
		return;
	if (half)
		shutdown(st->fd, SHUT_WR);
	else
		stream_done(st);
	if (!half)
		st->fd = -1;
}

static void handing(void *arg, int code, const struct err *e)
{
}

static void operator_does(unsigned c)
{
	switch (c & 3) {
	case 0:
		primary_pause(&pri, c & 4, NULL);
		break;
	case 1:
		primary_hand_over(&pri, handing, NULL, NULL);
		break;
	case 2:
		primary_end(&pri, 0);
		break;
	default:
		primary_set_epoch(&pri, CONFIG_EPOCH_MIN_NS << (c & 4));
	}
}

static void anything(struct stream *st, struct input *in)
{
	enum frame_type type = take(in, 1) % FRAME_TYPE_MAX;
	uint64_t epoch = take(in, 1);
	size_t n = take(in, 1) * 2;
	const uint8_t *p = take_bytes(in, &n);

	/* An ack that happens to be right is one. */
	if (type == FRAME_ACK && epoch != ended)
		epoch += EPOCHS;
	if (type == FRAME_ACK && epoch == ended && st == &main_link)
		acked = ended;
	say(st, type, epoch, p, n);
}

static void step(struct input *in)
{
	static const char words[1000] = "no\n";
	unsigned c = (unsigned)take(in, 1);
	struct stream *st = c & 0x10 ? &heart_link : &main_link;
	struct wire_heart w = {.nonce = 1, .echo = c >> 6};
	size_t n;

	switch (c & 7) {
	case 0:
		say(&main_link, c & 0x20 ? FRAME_REFUSE : FRAME_WELCOME, 0, words,
		    c & 0x20 ? (c >> 6) * 250 : c >> 6);
		break;
	case 1:
		acknowledge(c >> 4);
		break;
	case 2:
		anything(st, in);
		break;
	case 3:
		take_heart_link();
		say(&heart_link, FRAME_HEART, 0, &w, sizeof(w));
		break;
	case 4:
		n = take(in, 1);
		if (st->fd >= 0 && send(st->fd, take_bytes(in, &n), n, MSG_NOSIGNAL) < 0)
			hang_up(st, false);
		break;
	case 5:
		if (c & 0x40)
			operator_does(c >> 4);
		else
			hang_up(st, c & 0x20);
		break;
	case 6:
		print(1 + (c >> 4));
		break;
	default:
		until(ended != acked, acked ? 4 : 0);
	}
	if (c & 8)
		turn(0);
}

static void protect(void)
{
	say(&main_link, FRAME_WELCOME, 0, NULL, 0);
	until(pri.fsm.state == PRI_HEART, 1000);
	take_heart_link();
	until(ended, 10000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned n = 0;

	if (!listener)
		start();
	begin();
	if (take(&in, 1) & 1)
		protect();
	while (in.left && n++ < 60 && !exited && pri.fsm.state != PRI_IDLE)
		step(&in);
	if (!exited)
		turn(0);
	end();
	return 0;
}
