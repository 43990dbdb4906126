/*
 * Where the console goes: readers that are slow, stuck, gone. Nobody waits for them, and nothing is
 * lost of a reader that reads.
 */
#define _GNU_SOURCE /* F_SETPIPE_SZ */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <sys/stat.h>
#include <termios.h>

#include "devices/serial.h"
#include "devices/virtio_console.h"
#include "vmm/vm/console.h"

#define PIPE	4096
#define STUCK	2000000000ull
#define PATIENT 10 /* seconds until a test that hangs is killed */

struct fix {
	struct rig rig;
	struct console c;
	int out; /* the reader's end */
	uint8_t got[1 << 20];
	uint32_t ngot;
};

/* All numbers of the bytes that were ever put, to see what is missing. */
static uint8_t nth(uint32_t i)
{
	return (uint8_t)(i * 31 + i / 256);
}

/* A device of which the output buffer asks as it does of both. */
static int add_sink(struct fix *f)
{
	int s = obuf_add_sink(&f->rig.obuf, OBUF_CONSOLE, console_deliver, NULL, &f->c);

	obuf_limit_sink(&f->rig.obuf, s, OBUF_CONSOLE_BYTES);
	return s;
}

/* The console writes into fd, which it owns from here on. */
static void attach(struct fix *f, int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/fd/%d", fd);
	assert_int_equal(console_open(&f->c, &f->rig.loop, &f->rig.obuf, path, NULL), 0);
	close(fd);
}

static void attach_pipe(struct fix *f)
{
	int p[2];

	assert_int_equal(pipe(p), 0);
	fcntl(p[1], F_SETPIPE_SZ, PIPE);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	f->out = p[0];
	attach(f, p[1]);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	alarm(PATIENT);
	signal(SIGPIPE, SIG_IGN);
	rig_init(&f->rig, 1 << 20);
	rig_now_ns = 0;
	rig_set_clock(&f->rig.loop, 0);
	f->out = f->c.out_fd = -1;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	console_close(&f->c);
	if (f->out >= 0)
		close(f->out);
	rig_done(&f->rig);
	free(f);
	alarm(0);
	return 0;
}

static void settle(struct fix *f)
{
	for (unsigned i = 0; i < 20; i++)
		loop_run_once(&f->rig.loop, 500000);
}

/* Read what is there, at most so many bytes. */
static void take(struct fix *f, uint32_t max)
{
	ssize_t n;

	while (max &&
	       (n = read(f->out, f->got + f->ngot,
			 max < sizeof(f->got) - f->ngot ? max : sizeof(f->got) - f->ngot)) > 0) {
		f->ngot += (uint32_t)n;
		max -= (uint32_t)n;
	}
}

static void take_until(struct fix *f, uint32_t n)
{
	for (unsigned i = 0; i < 20000 && f->ngot < n; i++) {
		take(f, UINT32_MAX);
		loop_run_once(&f->rig.loop, 1000000);
	}
	assert_int_equal(f->ngot, n);
}

static void check_got(struct fix *f, uint32_t from, uint32_t to, uint32_t first)
{
	for (uint32_t i = from; i < to; i++)
		if (f->got[i] != nth(first + i - from))
			fail_msg("byte %u", i);
}

static bool deliver(struct fix *f, uint32_t first, uint32_t n)
{
	uint8_t buf[4096];

	assert_true(n <= sizeof(buf));
	for (uint32_t i = 0; i < n; i++)
		buf[i] = nth(first + i);
	return console_deliver(&f->c, buf, n);
}

/* As the output buffer does: until the console is full. */
static uint32_t fill(struct fix *f, uint32_t first)
{
	uint32_t n = first;

	while (deliver(f, n, 1000))
		n += 1000;
	return n + 1000;
}

/* Full, then stuck, then read: what was taken in comes out, what was not is counted. */
static void a_reader_that_reads_nothing(void **state)
{
	struct fix *f = *state;
	int s = add_sink(f);
	struct iovec iov = {"x", 1};
	uint32_t n;

	attach_pipe(f);
	n = fill(f, 0);
	assert_in_range(n, 65536, 70000);
	settle(f);
	rig_now_ns += STUCK - 1;
	settle(f);
	assert_false(deliver(f, n, 1)); /* what is held already has its place */
	n++;
	rig_now_ns += 1;
	settle(f);
	for (unsigned i = 0; i < 1000; i++)
		assert_true(deliver(f, 0, 1000)); /* the guest is not kept for ever */
	assert_int_equal(f->c.dropped, 1000000);
	assert_int_equal(obuf_put(&f->rig.obuf, s, &iov, 1), 0);
	take_until(f, n);
	check_got(f, 0, n, 0);
	assert_true(deliver(f, n, 500));
	take_until(f, n + 500);
	check_got(f, 0, n + 500, 0);
	assert_int_equal(f->c.dropped, 1000001);
}

/* The device that puts is told when there is room, and no sooner. */
static void a_full_console_holds_back(void **state)
{
	struct fix *f = *state;
	struct mdev md = rig_mdev(MDEV_CONSOLE, 0);
	struct rig_q q[2];
	struct rig_seg s = {RIG_DATA, 300000, false};
	struct device *d;
	uint8_t *p = rig_ptr(&f->rig, RIG_DATA);

	attach_pipe(f);
	assert_int_equal(virtio_console_new(&f->rig.env, &md, console_deliver, &f->c, &d, NULL), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), q, 2, 16);
	for (uint32_t i = 0; i < s.len; i++)
		p[i] = nth(i);
	rig_add(&q[1], &s, 1);
	rig_kick(&f->rig, 0, 1);
	settle(f);
	assert_int_equal(rig_used_idx(&q[1]), 0); /* the chain waits, as on a slow line */
	for (unsigned i = 0; i < 1000 && f->ngot < s.len; i++) {
		take(f, PIPE);
		settle(f);
		rig_now_ns += 1500000000; /* slow, and not stuck */
	}
	assert_int_equal(f->ngot, s.len);
	check_got(f, 0, s.len, 0);
	assert_int_equal(f->c.dropped, 0);
	rig_until(&f->rig, rig_used_idx(&q[1]) == 1);
	d->ops->free(d);
}

/*
 * Released output has its place, whatever two devices put and however full it was: they may hold
 * 64 KiB each, and not more.
 */
static void held_output_has_its_place(void **state)
{
	struct fix *f = *state;
	struct obuf *ob = &f->rig.obuf;
	int s[2] = {add_sink(f), add_sink(f)};
	uint8_t buf[1000];
	struct iovec iov = {buf, sizeof(buf)};
	uint64_t epoch = 1;
	uint32_t n = 0;

	attach_pipe(f);
	obuf_hold(ob, epoch);
	for (unsigned turn = 0; turn < 20; turn++) {
		for (unsigned i = 0; i < 2000; i++) {
			for (uint32_t k = 0; k < sizeof(buf); k++)
				buf[k] = nth(n + k);
			if (obuf_put(ob, s[i % 2], &iov, 1) == 0)
				n += sizeof(buf);
		}
		assert_true(ob->bytes <= 2 * OBUF_CONSOLE_BYTES);
		obuf_seal(ob, ++epoch);
		obuf_release(ob, epoch - 1);
		assert_int_equal(ob->held, 0);
		for (unsigned i = 0; i < 8; i++) {
			take(f, PIPE);
			settle(f);
		}
	}
	assert_true(n > 200 * 1000); /* it was full, and had room again */
	take_until(f, n);
	check_got(f, 0, n, 0);
	assert_int_equal(f->c.dropped, 0);
}

/* Neither device may hold more of it than there is room for, whatever all output may take. */
static void devices_know_the_bound(void **state)
{
	struct fix *f = *state;
	struct obuf *ob = &f->rig.obuf;
	struct mdev md = rig_mdev(MDEV_CONSOLE, 0);
	struct rig_seg s = {RIG_DATA, 300000, false};
	struct device *vc, *serial;
	struct rig_q q[2];
	uint64_t bytes;

	attach_pipe(f);
	assert_int_equal(virtio_console_new(&f->rig.env, &md, console_deliver, &f->c, &vc, NULL),
			 0);
	assert_int_equal(serial_new(&f->rig.env, console_deliver, &f->c, &serial, NULL), 0);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), q, 2, 16);
	obuf_hold(ob, 1);
	rig_add(&q[1], &s, 1);
	rig_kick(&f->rig, 0, 1);
	settle(f);
	bytes = ob->bytes;
	assert_in_range(bytes, OBUF_CONSOLE_BYTES / 2, OBUF_CONSOLE_BYTES);
	for (unsigned i = 0; i < 100; i++) {
		for (unsigned k = 0; k < 1000; k++)
			bus_write(&f->rig.bus, BUS_PIO, SERIAL_BASE, 1, 'x');
		loop_run_once(&f->rig.loop, 0);
		loop_run_once(&f->rig.loop, 0);
	}
	assert_in_range(ob->bytes - bytes, OBUF_CONSOLE_BYTES / 2, OBUF_CONSOLE_BYTES);
	vc->ops->free(vc);
	serial->ops->free(serial);
}

/* Ctrl-S: the kernel waits, the loop does not. */
static void a_stopped_terminal(void **state)
{
	struct fix *f = *state;
	struct termios t;
	int slave;

	assert_int_equal(openpty(&f->out, &slave, NULL, NULL, NULL), 0);
	tcgetattr(slave, &t);
	cfmakeraw(&t);
	t.c_iflag |= IXON;
	tcsetattr(slave, TCSANOW, &t);
	fcntl(f->out, F_SETFL, O_NONBLOCK);
	assert_int_equal(write(f->out, "\x13", 1), 1);
	attach(f, slave);
	for (uint32_t i = 0; i < 20000; i += 1 + i % 37 * 7)
		assert_true(deliver(f, i, 1 + i % 37 * 7));
	settle(f);
	take(f, UINT32_MAX);
	assert_int_equal(f->ngot, 0);
	assert_int_equal(write(f->out, "\x11", 1), 1); /* Ctrl-Q */
	take_until(f, f->c.len);
	assert_int_equal(f->c.dropped, 0);
}

/* The descriptor is not ours alone: somebody made it non-blocking. */
static void a_pipe_that_does_not_block(void **state)
{
	struct fix *f = *state;
	uint32_t n;

	attach_pipe(f);
	fcntl(f->c.out_fd, F_SETFL, O_NONBLOCK);
	n = fill(f, 0);
	for (unsigned i = 0; i < 20000 && f->ngot < n; i++) {
		take(f, UINT32_MAX);
		rig_now_ns += 10000000;
		loop_run_once(&f->rig.loop, 1000000);
	}
	assert_int_equal(f->ngot, n);
	check_got(f, 0, n, 0);
	assert_int_equal(f->c.dropped, 0);
}

static void a_reader_that_is_gone(void **state)
{
	struct fix *f = *state;

	attach_pipe(f);
	close(f->out);
	f->out = -1;
	for (unsigned i = 0; i < 500; i++) {
		assert_true(deliver(f, 0, 1000));
		rig_until(&f->rig, !f->c.len);
	}
	assert_int_equal(f->c.dropped, 500000);
}

static void a_file(void **state)
{
	struct fix *f = *state;
	char path[] = "/tmp/ftvmm-console-XXXXXX";
	struct stat st;

	f->out = mkstemp(path);
	assert_int_equal(write(f->out, "before", 6), 6);
	assert_int_equal(console_open(&f->c, &f->rig.loop, &f->rig.obuf, path, NULL), 0);
	unlink(path);
	for (uint32_t i = 0; i < 50000; i += 500)
		assert_true(deliver(f, i, 500));
	f->rig.loop.clock = loop_now_ns;
	console_flush(&f->c);
	assert_int_equal(fstat(f->out, &st), 0);
	assert_int_equal(st.st_size, 50006);
	take_until(f, 50000); /* behind "before" */
	check_got(f, 0, 50000, 0);
}

/* The end does not wait for a reader that does not read, and counts what it did not get. */
static void the_end(void **state)
{
	struct fix *f = *state;
	uint32_t n;
	uint64_t since = loop_now_ns();

	attach_pipe(f);
	n = fill(f, 0);
	settle(f);
	console_flush(&f->c); /* a second of the real clock */
	assert_in_range(loop_now_ns() - since, 900000000, 8000000000);
	rig_now_ns += STUCK;
	settle(f);
	since = loop_now_ns();
	console_flush(&f->c);
	assert_true(loop_now_ns() - since < 900000000);
	console_close(&f->c);
	settle(f);
	take(f, UINT32_MAX);
	assert_int_equal(f->ngot + f->c.dropped, n);
	assert_in_range(f->ngot, 1, PIPE);
	check_got(f, 0, f->ngot, 0);
}

static void nowhere(void **state)
{
	struct fix *f = *state;

	assert_int_equal(console_open(&f->c, &f->rig.loop, &f->rig.obuf, "none", NULL), 0);
	for (unsigned i = 0; i < 1000; i++)
		assert_true(deliver(f, 0, 1000));
	console_flush(&f->c);
}

static uint32_t print(struct fix *f, uint32_t first, uint32_t n)
{
	assert_true(deliver(f, first, n));
	console_flush(&f->c);
	assert_int_equal(f->c.len, 0);
	return n;
}

/* What FILE and FILE.1 have, in the order in which it was put. */
static void check_files(struct fix *f, const char *path, uint32_t put)
{
	char aside[80];
	uint32_t n = 0;

	snprintf(aside, sizeof(aside), "%s.1", path);
	for (unsigned i = 0; i < 2; i++) {
		int fd = open(i ? path : aside, O_RDONLY);
		ssize_t got = fd < 0 ? 0 : read(fd, f->got + n, sizeof(f->got) - n);

		assert_true(got >= 0);
		n += (uint32_t)got;
		close(fd);
	}
	f->ngot = n;
	check_got(f, 0, n, put - n);
}

/* A guest that prints for ever takes twice the limit, and the end of what it printed is there. */
static void a_file_is_put_aside(void **state)
{
	struct fix *f = *state;
	char folder[] = "/tmp/ftvmm-console-XXXXXX", path[64], link[64], aside[80];
	uint32_t put = 0;
	struct stat st;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/file", folder);
	snprintf(link, sizeof(link), "%s/link", folder);
	snprintf(aside, sizeof(aside), "%s.1", path);
	assert_int_equal(symlink(path, link), 0);
	assert_int_equal(console_open(&f->c, &f->rig.loop, &f->rig.obuf, link, NULL), 0);
	assert_int_equal(f->c.limit, CONSOLE_FILE_BYTES);
	f->c.limit = 10000;
	for (unsigned i = 0; i < 100; i++) {
		put += print(f, put, 999);
		assert_true(!stat(path, &st) && st.st_size < 12000);
		assert_true(stat(aside, &st) || st.st_size < 12000);
	}
	assert_int_equal(f->c.dropped, 0);
	check_files(f, path, put);
	assert_in_range(f->ngot, 10000, 24000);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Put aside by something else: begun anew, and nothing of the other is replaced. */
	assert_int_equal(rename(path, link), 0);
	f->c.bytes = f->c.limit;
	put += print(f, put, 10);
	assert_true(!stat(path, &st) && st.st_size == 10);
	/* It cannot be: it grows on. */
	assert_int_equal(unlink(aside) | mkdir(aside, 0700), 0);
	for (unsigned i = 0; i < 30; i++)
		put += print(f, put, 999);
	assert_true(!stat(path, &st) && st.st_size == 10 + 30 * 999);
	assert_int_equal(f->c.dropped, 0);
	console_close(&f->c);
	rmdir(aside);
	unlink(path);
	unlink(link);
	assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_reader_that_reads_nothing),
		T(a_full_console_holds_back),
		T(held_output_has_its_place),
		T(devices_know_the_bound),
		T(a_stopped_terminal),
		T(a_pipe_that_does_not_block),
		T(a_reader_that_is_gone),
		T(a_file),
		T(a_file_is_put_aside),
		T(the_end),
		T(nowhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
