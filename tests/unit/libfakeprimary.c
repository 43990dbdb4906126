#define _GNU_SOURCE
#include "tests/unit/libfakeprimary.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libsecondary.h"
#include "tests/unit/libtime.h"
#include "vmm/machine/fdt.h"

#define STATES 16

static struct {
	uint8_t *data;
	size_t len;
} states[STATES];

/* --- connections ------------------------------------------------------------------------------ */

void end_flush(struct end *c)
{
	if (c->in.fd < 0)
		return;
	while (c->written < c->out.len) {
		ssize_t n = send(c->in.fd, c->out.p + c->written, c->out.len - c->written,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return;
		c->written += n < 0 ? c->out.len - c->written : (size_t)n;
	}
	c->out.len = c->written = 0;
}

bool end_try_connect(struct end *c)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	end_close(c);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/s", lab.folder);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return false;
	}
	stream_init(&c->in, fd, STREAM_ANY, 1);
	return true;
}

void end_connect(struct end *c)
{
	assert_true(end_try_connect(c));
}

void end_preface(struct end *c, enum stream_link link, uint64_t session)
{
	c->in.session = session;
	wire_preface(&c->out, STREAM_VERSION, link, session);
	end_flush(c);
}

void end_send(struct end *c, enum frame_type type, uint64_t epoch, const void *data, size_t n)
{
	struct frame_hdr h = wire_header(&c->out, type, n);

	h.session = c->in.session;
	h.epoch = epoch;
	wire_signed(&c->out, h, data, n);
	end_flush(c);
}

void end_close(struct end *c)
{
	end_flush(c);
	stream_done(&c->in);
	wire_free(&c->out);
	c->written = 0;
}

/* stream_recv() may look at the socket at its second call only. */
int end_take(struct end *c, struct frame *f)
{
	int r = c->in.fd < 0 ? -EPIPE : stream_recv(&c->in, f);

	return r ? r : stream_recv(&c->in, f);
}

bool end_is_dropped(struct end *c)
{
	struct frame f;
	int r;

	lab_settle();
	do
		r = end_take(c, &f);
	while (r == 1);
	return r < 0;
}

void end_expect(struct end *c, enum frame_type type, struct frame *f)
{
	struct frame g;
	int r = 0;

	lab_until((r = end_take(c, &g)) != 0);
	assert_int_equal(r, 1);
	assert_string_equal(stream_frame_name(g.type), stream_frame_name((uint16_t)type));
	if (type != FRAME_ACK)
		assert_int_equal(g.epoch, 0);
	if (f)
		*f = g;
}

void end_expect_refusal(struct end *c, const char *text)
{
	char got[4097];
	struct frame f;

	end_expect(c, FRAME_REFUSE, &f);
	snprintf(got, sizeof(got), "%.*s", (int)f.length, (const char *)f.data);
	assert_string_equal(got, text);
}

void end_expect_no(struct end *c, enum frame_type type)
{
	struct frame f;

	lab_settle();
	while (end_take(c, &f) == 1)
		assert_int_not_equal(f.type, type);
}

/* --- the primary ------------------------------------------------------------------------------ */

/* What vCPU 0 has in rax is the number. Once for all tests: each lab has the same machine. */
void pri_prepare(void)
{
	struct vm *vm = &lab.vm;

	if (states[0].data)
		return;
	fake_vm_create(vm, &lab.loop, &lab.machine, &lab.cfg);
	for (unsigned i = 0; i < STATES; i++) {
		size_t cap = vm_state_bound(vm);
		int64_t n;

		states[i].data = malloc(cap);
		vm->vcpus[0].state.regs.rax = i;
		n = vm_save(vm, states[i].data, cap);
		assert_true(n > 0);
		states[i].len = (size_t)n;
	}
	vm_destroy(vm);
}

void pri_say_hello(struct end *c, uint64_t session)
{
	static uint8_t buf[sizeof(lab.hello) + FDT_MAX_BYTES];
	int n = fdt_build(&lab.machine, buf + sizeof(lab.hello), FDT_MAX_BYTES, NULL);

	pri_lock();
	assert_true(n > 0);
	lab.hello.fdt_bytes += (uint32_t)n; /* what a test set is an error */
	memcpy(buf, &lab.hello, sizeof(lab.hello));
	lab.hello.fdt_bytes -= (uint32_t)n;
	end_preface(c, STREAM_MAIN, session);
	end_send(c, FRAME_HELLO, 0, buf, sizeof(lab.hello) + (size_t)n);
}

void pri_hello(void)
{
	end_connect(&lab.main);
	pri_say_hello(&lab.main, ++lab.session);
}

void pri_join(void)
{
	struct frame f;

	pri_hello();
	end_expect(&lab.main, FRAME_WELCOME, &f);
	assert_int_equal(f.length, sizeof(lab.welcome));
	memcpy(&lab.welcome, f.data, sizeof(lab.welcome));
	if (!lab.keeps_lock)
		pri_unlock();
}

void pri_heart_as(struct end *c, uint64_t session)
{
	const struct wire_heart w = {.nonce = 1};

	end_connect(c);
	end_preface(c, STREAM_HEART, session);
	end_send(c, FRAME_HEART, 0, &w, sizeof(w));
}

void pri_heart(void)
{
	pri_heart_as(&lab.heart, lab.session);
	lab_until(lab.sec.heart.loop);
}

void pri_begin(uint64_t epoch)
{
	lab.disk_ops = lab.pages = 0;
	end_send(&lab.main, FRAME_EPOCH_BEGIN, epoch, NULL, 0);
}

void pri_page(uint64_t epoch, uint64_t page, uint8_t byte)
{
	uint64_t head = page << 24 | 2 << 16 | MEM_PAGE_SIZE; /* as it is */
	uint8_t entry[sizeof(head) + MEM_PAGE_SIZE];

	memcpy(entry, &head, sizeof(head));
	memset(entry + sizeof(head), byte, MEM_PAGE_SIZE);
	end_send(&lab.main, FRAME_PAGES, epoch, entry, sizeof(entry));
	lab.pages++;
}

void pri_disk(uint64_t epoch, uint64_t off, uint32_t len, uint8_t byte)
{
	const struct wire_disk w = {
		.disk = LAB_MIRROR, .kind = DISK_WRITE, .off = off, .len = len, .data = len};
	uint8_t *p = malloc(sizeof(w) + len);

	memcpy(p, &w, sizeof(w));
	memset(p + sizeof(w), byte, len);
	end_send(&lab.main, epoch ? FRAME_DISKLOG : FRAME_DISK, epoch, p, sizeof(w) + len);
	free(p);
	lab.disk_ops++;
}

void pri_state(uint64_t epoch, unsigned number)
{
	end_send(&lab.main, FRAME_STATE, epoch, states[number].data, states[number].len);
}

void pri_end(uint64_t epoch)
{
	const struct wire_end w = {.pages = lab.pages,
				   .disk_ops = lab.disk_ops,
				   .paused = lab.paused,
				   .runs = lab.runs,
				   .apart = lab.apart};

	end_send(&lab.main, FRAME_EPOCH_END, epoch, &w, sizeof(w));
}

void pri_epoch(uint64_t epoch)
{
	pri_begin(epoch);
	pri_page(epoch, epoch, (uint8_t)epoch);
	pri_disk(epoch, epoch * 512, 512, (uint8_t)epoch);
	pri_state(epoch, (unsigned)epoch);
	pri_end(epoch);
}

void pri_commit(uint64_t epoch)
{
	struct frame f;

	pri_epoch(epoch);
	end_expect(&lab.main, FRAME_ACK, &f);
	assert_int_equal(f.epoch, epoch);
	assert_int_equal(f.length, 0);
}

void pri_hand_over(uint64_t token)
{
	const struct wire_hand_over w = {token};

	end_send(&lab.main, FRAME_HAND_OVER, 0, &w, sizeof(w));
}

void pri_generation(uint64_t generation)
{
	const struct wire_generation w = {generation};

	end_send(&lab.main, FRAME_GENERATION, 0, &w, sizeof(w));
}

void pri_mirror(void)
{
	end_connect(&lab.mirror);
	end_preface(&lab.mirror, STREAM_MIRROR, lab.session);
	end_send(&lab.mirror, FRAME_MIRROR, 0, NULL, 0);
	lab_until(mirror_is_up(&lab.sec.twin.mirror));
}

void pri_lock(void)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (lab.lock >= 0 || lab.machine.devs[LAB_SHARED].readonly)
		return;
	lab.lock = open(lab.shared, O_RDWR | O_CLOEXEC);
	fcntl(lab.lock, F_OFD_SETLK, &fl); /* or somebody else has it */
}

void pri_unlock(void)
{
	if (lab.lock >= 0)
		close(lab.lock);
	lab.lock = -1;
}

void pri_gone(void)
{
	if (!lab.keeps_lock)
		pri_unlock();
	end_send(&lab.main, FRAME_GONE, 0, NULL, 0);
}

void pri_hang_up(void)
{
	if (!lab.keeps_lock)
		pri_unlock();
	end_close(&lab.mirror);
	end_close(&lab.main);
	end_close(&lab.heart);
}

uint64_t pri_ram_hash(uint64_t n)
{
	struct mem mem = {.fd = -1};
	uint64_t hash;

	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, lab.machine.mem_bytes, NULL), 0);
	for (uint64_t page = 1; page <= n; page++)
		memset(mem_page(&mem, page), (uint8_t)page, MEM_PAGE_SIZE);
	hash = mem_hash(&mem);
	mem_done(&mem);
	return hash;
}

uint64_t pri_state_hash(uint64_t n)
{
	return XXH3_64bits(states[n].data, states[n].len);
}
