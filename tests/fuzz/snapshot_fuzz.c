/*
 * Snapshot files. The first byte picks: even, the rest is the file; odd, the rest is a list of
 * frames that are signed: parts of a good snapshot, as they are, edited or cut, and anything else
 * (see add_part()). What is restored is saved again, and that file gives the same VM. `ftvmm dump`
 * reads each file, too.
 */
#define _GNU_SOURCE /* memfd_create */
#include <fcntl.h>
#include <sys/mman.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libwire.h"

#include "vmm/machine/fdt.h"
#include "vmm/base/log.h"
#include "vmm/copy/live_snapshot.h"
#include "vmm/copy/snapshot.h"
#include "vmm/wire/stream.h"

#define SESSION	 1 /* of every file */
#define PARTS	 8
#define FILE_MAX (8u << 20)

static struct loop loop;
static struct vm vm;
static struct machine machine;
static struct config cfg;
static struct backends backends;
static char in_path[96], out_path[96];
static struct {
	uint16_t type;
	uint32_t length;
	uint8_t *data;
} parts[PARTS];
static unsigned nparts;

static bool written;

static void told(void *arg, enum live_snapshot_event ev, const struct err *e)
{
	struct live_snapshot *s = *(struct live_snapshot **)arg;

	require(ev == LIVE_REST || ev == LIVE_WRITTEN);
	written = ev == LIVE_WRITTEN;
	if (!written)
		require(!live_snapshot_take(s, NULL) && !live_snapshot_write(s, NULL));
}

static void save(void)
{
	struct live_snapshot *s;
	const struct live_snapshot_plan plan = {
		.path = out_path, .copy_bytes = MEM_PAGE_SIZE, .told = told, .arg = &s};

	written = false;
	require(!live_snapshot_new(&s, &vm, &plan, NULL) && !live_snapshot_pass(s, NULL));
	while (!written)
		require(!loop_run_once(&loop, 1000000000ull));
	live_snapshot_free(s);
}

static void take_apart(void)
{
	struct stream st;
	struct frame f;
	int fd = open(out_path, O_RDONLY | O_CLOEXEC);

	require(fd >= 0);
	stream_init(&st, fd, STREAM_FILE, 0);
	while (stream_recv(&st, &f) == 1) {
		require(nparts < PARTS);
		parts[nparts].type = f.type;
		parts[nparts].length = f.length;
		parts[nparts].data = malloc(f.length + 1);
		require(parts[nparts].data != NULL);
		memcpy(parts[nparts++].data, f.data, f.length);
	}
	require(nparts >= 4 && parts[nparts - 1].type == FRAME_BYE);
	stream_done(&st);
}

static void start(void)
{
	uint8_t page[MEM_PAGE_SIZE];
	struct err e = {0};
	char image[96];

	log_init(LOG_ERROR, "fuzz");
	snprintf(image, sizeof(image), "%s/image", fuzz_make_folder());
	snprintf(in_path, sizeof(in_path), "%s/in", fuzz_folder);
	snprintf(out_path, sizeof(out_path), "%s/out", fuzz_folder);
	require(!loop_init(&loop, NULL));
	fake_machine(&machine, &cfg, image);
	config_to_backends(&cfg, &backends);
	fake_vm_create(&vm, &loop, &machine, &cfg);
	for (unsigned i = 0; i < 5; i++) {
		for (unsigned b = 0; b < sizeof(page); b++)
			page[b] = i & 1 ? (uint8_t)(b * b >> i) : (uint8_t)(b / 64 + i);
		require(!mem_write(&vm.mem, i * 5 * MEM_PAGE_SIZE, page, sizeof(page)));
	}
	save();
	vm_destroy(&vm);
	if (snapshot_restore(&vm, &loop, &backends, out_path, NULL, &e))
		fprintf(stderr, "%s\n", e.msg);
	require(vm.loop != NULL);
	vm_destroy(&vm);
	take_apart();
}

static void add_frame(struct wire *w, uint16_t type, const void *data, size_t n)
{
	struct frame_hdr h = wire_header(w, type, n);

	h.session = SESSION;
	h.epoch = 0;
	wire_signed(w, h, data, n);
}

static void add_part(struct wire *w, struct input *in)
{
	unsigned c = (unsigned)take(in, 1), i = (c & 7) % nparts;
	size_t n = parts[i].length;
	const uint8_t *raw;
	uint8_t *copy;

	if (c & 0x80) {
		uint16_t type = (uint16_t)take(in, 1) % FRAME_TYPE_MAX;

		n = take(in, 2);
		raw = take_bytes(in, &n);
		add_frame(w, type, raw, n);
		return;
	}
	copy = malloc(n + 1);
	require(copy != NULL);
	memcpy(copy, parts[i].data, n);
	for (unsigned k = c >> 3 & 7; k && n; k--) {
		size_t place = take(in, 2) % n;

		copy[place] = (uint8_t)take(in, 1);
	}
	if (c & 0x40 && n)
		n = take(in, 2) % n;
	add_frame(w, parts[i].type, copy, n);
	free(copy);
}

static void write_file(const uint8_t *p, size_t n)
{
	int fd = open(in_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	require(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

static uint8_t *saved(size_t *ret_len)
{
	uint8_t *p = malloc(FILE_MAX);
	ssize_t n;
	int fd;

	save();
	fd = open(out_path, O_RDONLY | O_CLOEXEC);
	require(p && fd >= 0);
	n = read(fd, p, FILE_MAX);
	require(n > 0 && n < (ssize_t)FILE_MAX);
	close(fd);
	*ret_len = (size_t)n;
	return p;
}

static void check_restored(void)
{
	size_t first_len, second_len;
	uint8_t *first = saved(&first_len), *second;

	vm_destroy(&vm);
	require(!snapshot_restore(&vm, &loop, &backends, out_path, NULL, NULL));
	second = saved(&second_len);
	require(first_len == second_len && !memcmp(first, second, first_len));
	free(first);
	free(second);
}

/* Looked at it is refused as it is restored, or more often: this machine has fewer devices. */
static void check_view(void)
{
	struct err e = {0};
	struct vm_view v;

	require(!snapshot_view(&v, in_path, &e) || e.msg[0]);
	vm_view_done(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct wire w = {0};
	struct err e = {0};
	unsigned n = 0;

	if (!nparts)
		start();
	fake_vm_reset();
	if (take(&in, 1) & 1) {
		wire_preface(&w, STREAM_VERSION, STREAM_FILE, SESSION);
		while (in.left && n++ < 12)
			add_part(&w, &in);
		write_file(w.p, w.len);
	} else {
		write_file(in.p, in.left);
	}
	check_view();
	if (snapshot_restore(&vm, &loop, &backends, in_path, NULL, &e))
		require(e.msg[0] && !vm.loop);
	else
		check_restored();
	vm_destroy(&vm);
	require(fake_vm.created == fake_vm.destroyed);
	fuzz_turn(&loop);
	wire_free(&w);
	return 0;
}
