/*
 * Frames over loopback TCP beside plain bytes, the arbiter's files beside the system calls that
 * such a record needs, and the disk log of both sides beside pwrite(). Files lie in a folder that
 * the caller names.
 */
#include "tests/bench/native.h"

#include <fcntl.h>

#include "ft/common/arbiter.h"
#include "vmm/copy/diskapply.h"
#include "ft/epoch/disklog.h"
#include "vmm/base/log.h"
#include "vmm/wire/stream.h"

static char folder[400];

static void path_of(char path[512], const char *name)
{
	snprintf(path, 512, "%s/%s", folder, name);
}

/* --- frames ----------------------------------------------------------------------------------- */

struct frames {
	struct stream s;
	uint64_t count;
	uint32_t length;
};

static void *send_frames(void *arg)
{
	struct frames *j = arg;
	uint8_t *buf = must(calloc(1, j->length));
	struct iovec iov = {buf, j->length};

	check("preface", stream_send_preface(&j->s, loop_now_ns() + DEADLINE_NS));
	for (uint64_t i = 0; i < j->count; i++)
		check("frame", stream_send(&j->s, j->length > 64 ? FRAME_PAGES : FRAME_ACK, i, &iov,
					   1, loop_now_ns() + DEADLINE_NS));
	free(buf);
	return NULL;
}

static uint64_t run_frames(uint64_t count, uint32_t length)
{
	struct frames j = {.count = count, .length = length};
	struct stream in;
	pthread_t thread;
	uint64_t start;
	int fds[2];

	tcp_pair(fds);
	stream_init(&j.s, fds[0], STREAM_MAIN, 42);
	stream_init(&in, fds[1], STREAM_ANY, 0);
	start = loop_now_ns();
	check("thread", -pthread_create(&thread, NULL, send_frames, &j));
	while (count) {
		struct frame f;
		int r = stream_recv(&in, &f);

		check(in.why, r);
		if (r)
			count--;
		else
			wait_readable(in.fd);
	}
	start = loop_now_ns() - start;
	pthread_join(thread, NULL);
	stream_done(&j.s);
	stream_done(&in);
	return start;
}

static void frames(void)
{
	const uint64_t bytes = 256u << 20, count = 50000;
	const uint32_t ack = 16, header = sizeof(struct frame_hdr);
	struct figure big = {.name = "frames of 256 KiB", .unit = "MiB/s"};
	struct figure small = {.name = "frames of 16 bytes", .unit = "us"};

	for (unsigned r = 0; r < ROUNDS; r++) {
		double floor = mib_per_s(bytes, run_plain_tcp(bytes, CHUNK));

		figure_add(&big, floor, mib_per_s(bytes, run_frames(bytes / CHUNK, CHUNK)));
		floor = (double)run_plain_tcp(count * (ack + header), ack + header) / 1e3 / count;
		figure_add(&small, floor, (double)run_frames(count, ack) / 1e3 / count);
	}
	figure_print(&big);
	figure_print(&small);
}

/* --- arbiter ---------------------------------------------------------------------------------- */

#define RECORD 100u /* bytes of a record, about */

/* The least that makes a record, whole or not at all, that outlasts a crash; replace: over another.
 */
static uint64_t make_record(int dir, const char *name, bool replace)
{
	char text[RECORD];
	uint64_t start = loop_now_ns();
	int fd = openat(dir, "floor.tmp", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	memset(text, 'x', sizeof(text));
	if (fd < 0 || write(fd, text, sizeof(text)) != sizeof(text) || fsync(fd))
		die("floor of the arbiter: write", errno);
	close(fd);
	if (replace ? renameat(dir, "floor.tmp", dir, name)
		    : linkat(dir, "floor.tmp", dir, name, 0) || unlinkat(dir, "floor.tmp", 0))
		die("floor of the arbiter: link", errno);
	if (fsync(dir))
		die("floor of the arbiter: fsync", errno);
	return loop_now_ns() - start;
}

static void bench_arbiter(struct arbiter *a, int dir)
{
	struct figure claim = {.name = "arbiter: claim", .unit = "ms"};
	struct figure release = {.name = "arbiter: release", .unit = "ms"};
	uint64_t from = 0;
	struct err e = {0};

	for (unsigned r = 0; r < 3 * ROUNDS; r++) {
		double floor = (double)make_record(dir, "floor", false) / 1e6;
		uint64_t start = loop_now_ns();

		if (arbiter_claim(a, from, ARBITER_START, &from, &e))
			die(e.msg, EIO);
		figure_add(&claim, floor, (double)(loop_now_ns() - start) / 1e6);
		floor = (double)make_record(dir, "floor", true) / 1e6;
		start = loop_now_ns();
		if (arbiter_end(a, from, ARBITER_RELEASED, &e))
			die(e.msg, EIO);
		figure_add(&release, floor, (double)(loop_now_ns() - start) / 1e6);
		unlinkat(dir, "floor", 0);
	}
	figure_print(&claim);
	figure_print(&release);
	for (; from; from--) { /* what it keeps */
		char name[32];

		snprintf(name, sizeof(name), "vm.%llu", (unsigned long long)from);
		unlinkat(dir, name, 0);
	}
}

static void arbiter(void)
{
	char uri[512];
	struct arbiter *a;
	struct err e = {0};
	int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		die(folder, errno);
	snprintf(uri, sizeof(uri), "file:%s/vm", folder);
	if (arbiter_open(&a, NULL, uri, "bench", "host A", &e))
		die(e.msg, EINVAL);
	bench_arbiter(a, dir);
	arbiter_close(a);
	close(dir);
}

/* --- disks ------------------------------------------------------------------------------------ */

#define IMAGE  (32ull << 20) /* written once, whole, in a measurement */
#define DEPTH  16u	     /* a guest's requests under way */
#define IO_MAX (64u << 10)

struct io {
	struct loop loop;
	struct machine machine;
	struct disk disks[MACHINE_MAX_DEVS]; /* one of them, the first */
	struct disklog log;
	struct diskapply apply;
	struct disk_req req[DEPTH];
	uint8_t *buf;
	uint32_t size; /* of a request */
	uint64_t next, done;
	int plain_fd;
	bool switched;
};

static void submit_next(struct io *io, struct disk_req *r);

static void written(struct disk_req *r, int res)
{
	struct io *io = r->arg;

	check("disk write", res);
	io->done += io->size;
	if (io->next < IMAGE)
		submit_next(io, r);
}

static void submit_next(struct io *io, struct disk_req *r)
{
	*r = (struct disk_req){.kind = DISK_WRITE,
			       .off = io->next,
			       .len = io->size,
			       .buf = io->buf,
			       .done = written,
			       .arg = io};
	io->next += io->size;
	disk_submit(&io->disks[0], r);
}

/* The whole image through the device's way to it, with or without the log. ns. */
static uint64_t write_image(struct io *io)
{
	uint64_t start = loop_now_ns();

	io->next = io->done = 0;
	for (unsigned i = 0; i < DEPTH; i++)
		submit_next(io, &io->req[i]);
	while (io->done < IMAGE)
		check("loop", loop_run_once(&io->loop, DEADLINE_NS));
	return loop_now_ns() - start;
}

static uint64_t write_floor(struct io *io)
{
	uint64_t start = loop_now_ns();

	for (uint64_t off = 0; off < IMAGE; off += io->size)
		if (pwrite(io->plain_fd, io->buf, io->size, (off_t)off) != (ssize_t)io->size)
			die("pwrite", errno);
	return loop_now_ns() - start;
}

static void switched(void *arg)
{
	((struct io *)arg)->switched = true;
}

static uint64_t write_logged(struct io *io)
{
	struct disk_writes list;
	uint64_t ns;

	check("disk log",
	      disklog_start(&io->log, &io->loop, &io->machine, io->disks, 2 * IMAGE, NULL));
	io->switched = false;
	disklog_switch(&io->log, switched, io);
	while (!io->switched)
		check("loop", loop_run_once(&io->loop, DEADLINE_NS));
	ns = write_image(io);
	ns -= loop_now_ns();
	check("disk log", disklog_cut(&io->log, &list));
	if (list.count != IMAGE / io->size)
		die("disk log: not what was written", EBADMSG);
	disklog_free(&io->log, &list);
	disklog_stop(&io->log);
	ns += loop_now_ns();
	return ns;
}

static void moved(void *arg)
{
}

/* The other side: entries as they come off the wire, parsed, applied one after the other. */
static uint64_t apply_image(struct io *io)
{
	uint8_t *entry = must(malloc(sizeof(struct wire_disk) + IO_MAX));
	struct disk_writes list = {0};
	uint64_t start = loop_now_ns();
	struct err e = {0};

	memcpy(entry + sizeof(struct wire_disk), io->buf, io->size);
	for (uint64_t off = 0; off < IMAGE; off += io->size) {
		struct wire_disk w = {0, DISK_WRITE, off, io->size, io->size};

		memcpy(entry, &w, sizeof(w));
		if (diskapply_parse(&io->apply, entry, sizeof(w) + io->size, &list, &e))
			die(e.msg, EBADMSG);
	}
	diskapply_push(&io->apply, &list);
	while (!diskapply_idle(&io->apply))
		check("loop", loop_run_once(&io->loop, DEADLINE_NS));
	start = loop_now_ns() - start;
	check("disk log applied", io->apply.error);
	free(entry);
	return start;
}

static void bench_disk(struct io *io, uint32_t size)
{
	static const char *const what[] = {"writes, no log", "writes, logged", "log applied"};
	uint64_t (*const run[])(struct io *) = {write_image, write_logged, apply_image};
	struct figure f[3] = {0};
	char name[3][64];

	io->size = size;
	for (unsigned i = 0; i < 3; i++) {
		snprintf(name[i], sizeof(name[i]), "disk %u KiB: %s", size >> 10, what[i]);
		f[i].name = name[i];
		f[i].unit = "MiB/s";
	}
	for (unsigned r = 0; r < ROUNDS; r++)
		for (unsigned i = 0; i < 3; i++) {
			double floor = mib_per_s(IMAGE, write_floor(io));

			figure_add(&f[i], floor, mib_per_s(IMAGE, run[i](io)));
		}
	for (unsigned i = 0; i < 3; i++)
		figure_print(&f[i]);
}

static void open_images(struct io *io)
{
	char path[512];

	path_of(path, "image");
	io->plain_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (io->plain_fd < 0 || ftruncate(io->plain_fd, IMAGE))
		die(path, errno);
	check("disk", disk_open(&io->disks[0], &io->loop, "d0", path, 0, NULL));
	close(io->plain_fd);
	unlink(path);
	path_of(path, "floor");
	io->plain_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (io->plain_fd < 0 || ftruncate(io->plain_fd, IMAGE))
		die(path, errno);
	unlink(path);
}

static void disk(void)
{
	struct io *io = must(calloc(1, sizeof(*io)));

	log_init(LOG_ERROR, "bench");
	check("loop", loop_init(&io->loop, NULL));
	io->machine.ndevs = 1;
	io->machine.devs[0] =
		(struct mdev){.kind = MDEV_BLK, .id = "d0", .bytes = IMAGE, .ft = DISK_FT_MIRROR};
	io->buf = must(aligned_alloc(4096, IO_MAX));
	fill_random(io->buf, IO_MAX);
	open_images(io);
	check("disk log", diskapply_init(&io->apply, &io->machine, io->disks, moved, io));
	io->size = IO_MAX; /* no block is written for the first time later */
	write_floor(io);
	write_image(io);
	bench_disk(io, 4u << 10);
	bench_disk(io, 64u << 10);
	diskapply_done(&io->apply);
	disk_close(&io->disks[0]);
	close(io->plain_fd);
	loop_done(&io->loop);
	free(io->buf);
	free(io);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {{"frames", frames}, {"arbiter", arbiter}, {"disk", disk}};

	if (argc > 2)
		snprintf(folder, sizeof(folder), "%s", argv[2]);
	for (unsigned i = 0; i < 3 && argc > 1; i++)
		if (!strcmp(argv[1], all[i].name) && argc == (i ? 3 : 2)) {
			all[i].run();
			return 0;
		}
	fprintf(stderr, "usage: native_io frames | native_io arbiter|disk FOLDER\n");
	return 2;
}
