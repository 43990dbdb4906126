#include "vmm/vm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/obuf.h"
#include "vmm/base/log.h"
#include "vmm/vm/console_file.h"

#define WRITE_MAX 1024u /* so that a terminal at 9600 baud takes one in time */
#define FULL	  (64u << 10)
#define RING	  (256u << 10)
#define STUCK_NS  2000000000ull
#define RETRY_NS  10000000ull
#define FLUSH_NS  1000000000ull

/* Two devices, and an entry of each that was not held. */
_Static_assert(RING >= FULL + 2 * OBUF_CONSOLE_BYTES + 2 * 4096, "room for what is held");

static void pump(struct console *c);

static void lose(struct console *c, uint32_t n)
{
	c->dropped += n;
}

static void tell_lost(struct console *c)
{
	if (c->dropped != c->told)
		log_warn("console: %" PRIu64 " bytes were lost: its reader did not take them",
			 c->dropped - c->told);
	c->told = c->dropped;
}

static void offer_room(struct console *c)
{
	c->full = false;
	loop_timer_del(c->loop, &c->stuck_op);
	obuf_room(c->obuf);
}

static void watch_reader(struct console *c)
{
	loop_timer_set(c->loop, &c->stuck_op, STUCK_NS);
}

static void is_stuck(struct loop_op *op, int res)
{
	struct console *c = op->arg;

	c->stuck = true;
	log_warn("console: its reader takes nothing; what the guest prints is lost until it does");
	offer_room(c);
}

/* n bytes have left the ring. */
static void take_out(struct console *c, uint32_t n)
{
	c->len -= n;
	c->at = c->len ? (c->at + n) % RING : 0;
	if (c->full)
		watch_reader(c);
	if (c->len > FULL / 2)
		return;
	if (c->full)
		offer_room(c);
	if (c->stuck)
		tell_lost(c);
	c->stuck = false;
}

static void written(struct loop_op *op, int res)
{
	struct console *c = op->arg;
	uint32_t n = c->writing;

	c->writing = 0;
	/* The description may be somebody else's, too, who made it non-blocking. */
	if ((res == -EAGAIN || res == -EINTR) &&
	    loop_timer_set(c->loop, &c->retry_op, RETRY_NS) == 0)
		return;
	if (res > 0)
		c->bytes += n = (uint32_t)res;
	else if (log_may(&c->error_told))
		log_warn("console: what the guest prints is lost: %s", strerror(-res));
	if (res <= 0) {
		lose(c, n);
		c->told = c->dropped;
	}
	take_out(c, n);
	pump(c);
}

static void has_next(void *arg, int fd)
{
	struct console *c = arg;

	c->next = NULL;
	c->bytes = 0; /* or tried again when it has grown as much once more */
	if (fd < 0) {
		log_warn("console: '%s' has %llu MiB, cannot be put aside, and grows on: %s",
			 c->path, (unsigned long long)(c->limit >> 20), strerror(-fd));
	} else {
		close(c->out_fd);
		c->out_fd = fd;
	}
	pump(c);
}

/* True: not now. */
static bool file_is_full(struct console *c)
{
	if (!c->next && c->path && c->bytes >= c->limit) {
		c->next = console_file_next(c->loop, c->path, c->out_fd, has_next, c);
		c->bytes = c->next ? c->bytes : 0;
	}
	return c->next;
}

static void try_again(struct loop_op *op, int res)
{
	pump(op->arg);
}

/* The kernel waits for the reader, as it does for disks: one write at a time keeps the order. */
static void pump(struct console *c)
{
	uint32_t n = c->len < WRITE_MAX ? c->len : WRITE_MAX;

	if (n > RING - c->at)
		n = RING - c->at;
	if (!n || c->writing || file_is_full(c))
		return;
	c->writing = n;
	/* At the end of a file, wherever that is: (uint64_t)-1. */
	if (loop_write(c->loop, &c->write_op, c->out_fd, c->ring + c->at, n, UINT64_MAX) < 0)
		written(&c->write_op, -EAGAIN);
}

static void put(struct console *c, const uint8_t *data, uint32_t len)
{
	uint32_t end = (c->at + c->len) % RING;
	uint32_t n = len < RING - end ? len : RING - end;

	memcpy(c->ring + end, data, n);
	memcpy(c->ring, data + n, len - n);
	c->len += len;
}

bool console_deliver(void *arg, const void *data, uint32_t len)
{
	struct console *c = arg;
	uint32_t n = len < RING - c->len ? len : RING - c->len;

	if (c->tee)
		c->tee(c->tee_arg, data, len);
	if (c->out_fd < 0)
		return true;
	if (c->stuck)
		n = 0;
	put(c, data, n);
	lose(c, len - n);
	pump(c);
	if (c->len >= FULL && !c->full && !c->stuck) {
		c->full = true;
		watch_reader(c);
	}
	return !c->full;
}

static int open_ring(struct console *c, struct err *e)
{
	/* The kernel may be at it longer than this process looks after it. */
	c->ring = mmap(NULL, RING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->ring != MAP_FAILED)
		return 0;
	c->ring = NULL;
	console_close(c);
	return err_set(e, -ENOMEM, "console: out of memory");
}

/* What is no file has no end. */
static void know_file(struct console *c, const char *spec)
{
	struct stat st;

	if (!strcmp(spec, "stdio") || fstat(c->out_fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	c->path = realpath(spec, NULL);
	c->bytes = (uint64_t)st.st_size;
	c->limit = CONSOLE_FILE_BYTES;
}

int console_open(struct console *c, struct loop *l, struct obuf *ob, const char *spec,
		 struct err *e)
{
	*c = (struct console){.out_fd = -1, .loop = l, .obuf = ob};
	c->write_op = (struct loop_op){.fn = written, .arg = c};
	c->retry_op = (struct loop_op){.fn = try_again, .arg = c};
	c->stuck_op = (struct loop_op){.fn = is_stuck, .arg = c};
	if (!strcmp(spec, "none"))
		return 0;
	if (!strcmp(spec, "stdio"))
		c->out_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	else
		c->out_fd = open(spec, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
	/* Without a standard output there is nobody to tell. */
	if (c->out_fd < 0)
		return strcmp(spec, "stdio") ? err_sys(e, "console file '%s'", spec) : 0;
	know_file(c, spec);
	return open_ring(c, e);
}

void console_flush(struct console *c)
{
	uint64_t until = loop_now_ns() + FLUSH_NS;

	while (c->len && !c->stuck && loop_now_ns() < until)
		loop_run_once(c->loop, RETRY_NS);
}

void console_close(struct console *c)
{
	if (c->out_fd < 0)
		return;
	loop_timer_del(c->loop, &c->retry_op);
	loop_timer_del(c->loop, &c->stuck_op);
	lose(c, c->len);
	tell_lost(c);
	if (c->writing)
		loop_io_abandon(c->loop, &c->write_op);
	else if (c->ring)
		munmap(c->ring, RING);
	if (c->next)
		console_file_forget(c->next);
	c->next = NULL;
	free(c->path);
	c->path = NULL;
	close(c->out_fd);
	c->out_fd = -1;
	c->len = c->writing = 0;
}
