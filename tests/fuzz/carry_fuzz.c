/*
 * Files that `--recover file:` reads at a destination. The first byte picks (see enum): the rest is
 * the file, or a list of frames that are signed, of any type and length. What is passed on is the
 * file's frames, in order, up to the first that does not belong there, and the user is told once:
 * all is well only when the destination said so behind a whole file of this migration.
 */
#include <fcntl.h>

#include "tests/fuzz/fuzz.h"
#include "tests/unit/libwire.h"

#include "postcopy/carry_in.h"
#include "postcopy/wire.h"
#include "vmm/base/log.h"

#define FRAMES	16
#define TURN_NS 200000

enum {
	SIGNED = 1,
	STRANGE = 2,  /* of another migration */
	REFUSED = 4,  /* the destination does not believe the end */
	HANGS_UP = 8, /* after so many frames: the upper half */
};

static struct loop loop;
static char path[96];
static struct carry_in *carry;

static struct {
	uint16_t type;
	const uint8_t *data;
	size_t length;
} list[FRAMES];
static unsigned nlist;

static unsigned told;
static struct err told_err;

static void on_told(void *arg, const struct err *e)
{
	told++;
	told_err = e ? *e : (struct err){0};
}

static void write_file(const uint8_t *p, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	require(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

static void add_frames(struct wire *w, struct input *in)
{
	static const uint16_t types[] = {FRAME_PAGES, FRAME_MAP, FRAME_EOS};

	for (nlist = 0; in->left && nlist < FRAMES; nlist++) {
		unsigned c = (unsigned)take(in, 1);
		size_t n = take(in, 2);

		list[nlist].type = c & 0x80 ? c % FRAME_TYPE_MAX : types[c % 3];
		list[nlist].data = take_bytes(in, &n);
		list[nlist].length = n;
		wire_frame(w, list[nlist].type, list[nlist].data, n);
	}
}

/* May it be passed on, by what is said of files? */
static bool belongs(unsigned i)
{
	uint16_t t = list[i].type;

	return (t == FRAME_PAGES || t == FRAME_MAP || t == FRAME_EOS) &&
	       list[i].length <= stream_max_length(t);
}

static void answer(struct stream *st, bool refused)
{
	struct iovec iov = {"no", 2};

	if (refused)
		stream_send(st, FRAME_REFUSE, 0, &iov, 1, UINT64_MAX);
	else
		stream_send(st, FRAME_EOC, 0, NULL, 0, UINT64_MAX);
}

/* The destination. True: it has seen the end, and nothing before it that it should not have. */
static bool receive(struct stream *st, unsigned flags, bool known)
{
	unsigned n = 0, hangs_up = flags & HANGS_UP ? flags >> 4 : FRAMES + 1;
	bool end = false;
	struct frame f;

	while (!told) {
		int r = st->fd >= 0 ? stream_recv(st, &f) : 0;

		if (r == 1 && f.type != FRAME_BYE) {
			require(!end && (f.type == FRAME_PAGES || f.type == FRAME_MAP ||
					 f.type == FRAME_EOS));
			require(!known || (n < nlist && belongs(n) && list[n].type == f.type &&
					   list[n].length == f.length &&
					   !memcmp(list[n].data, f.data, f.length)));
			n++;
			end = f.type == FRAME_EOS;
			if (n == hangs_up)
				stream_done(st);
			else if (end)
				answer(st, flags & REFUSED);
		} else if (r < 0) {
			stream_done(st);
		}
		loop_run_once(&loop, TURN_NS);
	}
	return end && n != hangs_up;
}

static void try_file(unsigned flags, bool known)
{
	struct carry_in_plan plan = {.path = path,
				     .loop = &loop,
				     .session = WIRE_SESSION + (flags & STRANGE ? 1 : 0),
				     .told = on_told};
	struct stream st;
	bool whole;
	int fd;

	told = 0;
	require(!carry_in_start(&carry, &plan, &fd, NULL));
	stream_init(&st, fd, STREAM_MIGRATE, plan.session);
	whole = receive(&st, flags, known);
	require(told == 1 && !carry);
	require(whole && !(flags & (REFUSED | STRANGE)) ? !told_err.code : told_err.msg[0] != 0);
	stream_done(&st);
}

static bool is_whole(void)
{
	for (unsigned i = 0; i < nlist && belongs(i); i++)
		if (list[i].type == FRAME_EOS)
			return true;
	return false;
}

static void try_frames(struct input *in, unsigned flags)
{
	struct wire w = {0};

	wire_preface(&w, STREAM_VERSION, STREAM_FILE, WIRE_SESSION);
	add_frames(&w, in);
	write_file(w.p, w.len);
	wire_free(&w);
	try_file(flags, true);
	/* Nothing that is whole is refused. */
	if (!(flags & ~(unsigned)(SIGNED | 0xf0)))
		require(is_whole() == !told_err.code);
}

static void start(void)
{
	/* A page, zeros, the end. */
	static const uint8_t good[] = {0, 1, 0, 9, 1, 0, 0, 2, 0, 0};
	struct input in = {good, sizeof(good)};

	log_init(LOG_ERROR, "fuzz");
	require(!loop_init(&loop, NULL));
	snprintf(path, sizeof(path), "%s/pages", fuzz_make_folder());
	try_frames(&in, SIGNED);
	require(!told_err.code && nlist == 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned flags;

	if (!path[0])
		start();
	flags = (unsigned)take(&in, 1);
	if (flags & SIGNED) {
		try_frames(&in, flags);
	} else {
		write_file(in.p, in.left);
		try_file(flags, false);
	}
	return 0;
}
