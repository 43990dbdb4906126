#define _GNU_SOURCE /* OFD locks */
#include "tests/unit/libdest.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "postcopy/dest_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"
#include "vmm/copy/pages.h"
#include "vmm/machine/fdt.h"

#define KVM_CLOCK_MSR 0x4b564d01

/* --- set-up ----------------------------------------------------------------------------------- */

static void runs(void *arg)
{
	struct dest_rig *r = arg;

	r->runs++;
}

/* A state as a source of the same machine has it. */
static void make_state(struct dest_rig *r, bool clock)
{
	struct dest_rig_state *s = &r->states[clock];

	fake_vm_create(&r->vm, &r->loop, &r->machine, &r->cfg);
	if (clock)
		r->vm.vcpus[0].state.msrs[0] = (struct kvm_msr_entry){
			.index = KVM_CLOCK_MSR, .data = DEST_RIG_CLOCK * MEM_PAGE_SIZE + 1};
	s->len = vm_save(&r->vm, s->data, sizeof(s->data));
	assert_true(s->len > 0);
	vm_destroy(&r->vm);
}

int dest_rig_skip_all(void **state)
{
	struct err e = {0};

	if (pager_probe(&e)) {
		print_message("[  SKIPPED ] all: %s\n", e.msg);
		exit(0);
	}
	return 0;
}

int dest_rig_setup(void **state)
{
	static struct dest_rig rig;
	struct dest_rig *r = &rig;

	memset(r, 0, sizeof(*r));
	r->holder = r->link.fd = r->pair.fd = r->ask.fd = -1;
	time_reset();
	logged_reset();
	fake_vm_reset();
	strcpy(r->folder, "/tmp/ftvmm-dest-XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	snprintf(r->image, sizeof(r->image), "%.60s/image", r->folder);
	fake_machine(&r->machine, &r->cfg, r->image);
	snprintf(r->cfg.incoming, sizeof(r->cfg.incoming), "unix:%.60s/in", r->folder);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	r->loop.clock = loop_now_ns;
	make_state(r, false);
	make_state(r, true);
	here_locks(r, true);
	r->ft = (struct ft){.cfg = &r->cfg, .loop = &r->loop};
	assert_int_equal(dest_start(&r->dest, &r->ft, &r->vm, runs, r, NULL), 0);
	*state = r;
	return 0;
}

int dest_rig_teardown(void **state)
{
	struct dest_rig *r = *state;
	char command[96];

	dest_stop(&r->dest);
	r->vm.running = false;
	vm_destroy(&r->vm);
	here_hangs_up(r);
	stream_done(&r->ask);
	here_locks(r, false);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	loop_turns(&r->loop);
	loop_done(&r->loop);
	snprintf(command, sizeof(command), "rm -rf %.60s", r->folder);
	return system(command);
}

/* --- the source ------------------------------------------------------------------------------- */

void here_locks(struct dest_rig *r, bool locks)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (r->holder >= 0)
		close(r->holder);
	r->holder = -1;
	if (!locks)
		return;
	r->holder = open(r->image, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(r->holder, F_OFD_SETLK, &fl), 0);
}

void here_dials_at(struct stream *st, const char *path, enum stream_link link, uint64_t session)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	stream_done(st);
	stream_init(st, fd, link, session);
	assert_int_equal(stream_send_preface(st, UINT64_MAX), 0);
}

void here_dials(struct dest_rig *r, struct stream *st, enum stream_link link, uint64_t session)
{
	char path[80];

	snprintf(path, sizeof(path), "%.60s/in", r->folder);
	here_dials_at(st, path, link, session);
}

void here_says(struct stream *st, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	assert_int_equal(stream_send(st, type, 0, &iov, len ? 1 : 0, UINT64_MAX), 0);
}

unsigned here_hears(struct dest_rig *r, struct stream *st)
{
	struct frame f;
	int got = 0;

	loop_until(&r->loop, got || (got = stream_recv(st, &f)) != 0);
	return got == 1 ? f.type : 0;
}

void here_offers_images(struct dest_rig *r, uint32_t nimages, uint32_t disk)
{
	static uint8_t
		payload[sizeof(struct wire_offer) + 99 * sizeof(struct wire_image) + FDT_MAX_BYTES];
	const struct wire_image image = {
		.disk = disk, .kind = WIRE_IMAGE_FILE, .inode = 1, .born_s = 1};
	uint8_t *images = payload + sizeof(struct wire_offer);
	uint8_t *fdt = images + nimages * sizeof(image);
	int n = fdt_build(&r->machine, fdt, FDT_MAX_BYTES, NULL);
	struct wire_offer o = {.mode = r->lazy ? MIGRATE_POSTCOPY : MIGRATE_PRECOPY,
			       .fdt_bytes = (uint32_t)n,
			       .nimages = nimages};

	assert_true(n > 0);
	memcpy(payload, &o, sizeof(o));
	for (uint32_t i = 0; i < nimages; i++)
		memcpy(images + i * sizeof(image), &image, sizeof(image));
	here_dials(r, &r->link, STREAM_MIGRATE, DEST_RIG_SESSION);
	here_says(&r->link, FRAME_OFFER, payload, (size_t)(fdt - payload) + (size_t)n);
}

void here_offers(struct dest_rig *r)
{
	here_offers_images(r, 0, 0);
}

void here_pairs(struct dest_rig *r)
{
	here_dials(r, &r->pair, STREAM_URGENT, DEST_RIG_SESSION);
	here_says(&r->pair, FRAME_PAGES, NULL, 0);
}

void here_states(struct dest_rig *r, bool clock)
{
	here_says(&r->link, FRAME_STATE, r->states[clock].data, (size_t)r->states[clock].len);
}

void here_switches(struct dest_rig *r)
{
	struct wire_switch w = {.mode = r->lazy ? MIGRATE_POSTCOPY : MIGRATE_PRECOPY,
				.stopped_ns = 5 * MS};

	here_locks(r, false);
	here_says(&r->link, FRAME_SWITCH, &w, sizeof(w));
}

void here_asks(struct dest_rig *r, uint64_t session)
{
	here_dials(r, &r->ask, STREAM_MIGRATE, session);
	here_says(&r->ask, FRAME_ASK, NULL, 0);
}

void here_sends(struct stream *st, uint64_t page, unsigned n)
{
	uint8_t *buf = malloc(n * PAGE_ENTRY_MAX);
	uint64_t data[MEM_PAGE_SIZE / 8];
	size_t len = 0;

	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = 0; k < MEM_PAGE_SIZE / 8; k++)
			data[k] = page + i;
		len += pages_encode(page + i, (uint8_t *)data, NULL, false, buf + len);
	}
	here_says(st, FRAME_PAGES, buf, len);
	free(buf);
}

void here_maps(struct dest_rig *r, uint64_t page, uint64_t n)
{
	struct wire_map w = {.page = page, .count = n, .kind = WIRE_MAP_ZERO};

	here_says(&r->link, FRAME_MAP, &w, sizeof(w));
}

void here_ends(struct dest_rig *r, uint64_t urgent, uint64_t pushed, uint64_t zero)
{
	struct wire_eos w = {.urgent = urgent, .pushed = pushed, .zero = zero};

	here_says(&r->link, FRAME_EOS, &w, sizeof(w));
}

void here_hangs_up(struct dest_rig *r)
{
	stream_done(&r->link);
	stream_done(&r->pair);
}

/* --- where it is ------------------------------------------------------------------------------ */

void dest_rig_until(struct dest_rig *r, enum dest_state s)
{
	loop_until(&r->loop, r->dest.fsm.state == s);
}

/* With a link for each. */
static void reach_receiving(struct dest_rig *r)
{
	here_offers(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
	if (!r->lazy)
		return;
	here_pairs(r);
	assert_int_equal(here_hears(r, &r->link), FRAME_WELCOME);
}

/* The guest runs, and none of its pages has come. */
static void reach_fill(struct dest_rig *r, enum dest_state s)
{
	if (s == DST_CUT || s == DST_ORPHAN) {
		here_hangs_up(r);
		dest_rig_until(r, DST_CUT);
		if (s == DST_ORPHAN)
			time_fire(&r->dest.timer_op);
	} else if (s == DST_MENDING) {
		here_asks(r, DEST_RIG_SESSION);
		assert_int_equal(here_hears(r, &r->ask), FRAME_HAVE);
		here_hangs_up(r);
		r->link = r->ask;
		r->ask = (struct stream){.fd = -1};
	}
}

void dest_rig_reach(struct dest_rig *r, enum dest_state s)
{
	if (s == DST_LISTEN)
		return;
	reach_receiving(r);
	if (s == DST_RECEIVING)
		return;
	here_states(r, s == DST_LOADING);
	here_switches(r);
	if (s == DST_LOADING) {
		dest_rig_until(r, s);
		return;
	}
	assert_int_equal(here_hears(r, &r->link), FRAME_READY);
	if (s == DST_READY)
		return;
	here_says(&r->link, FRAME_GO, NULL, 0);
	assert_int_equal(here_hears(r, &r->link), FRAME_RUNS);
	reach_fill(r, s);
	if (s != DST_HERE)
		return;
	here_says(&r->link, FRAME_GONE, NULL, 0);
	dest_rig_until(r, DST_HERE);
}

void dest_rig_expect(struct dest_rig *r, enum dest_state s, const char *word, bool run)
{
	assert_string_equal(dest_desc.states[r->dest.fsm.state], dest_desc.states[s]);
	assert_string_equal(ft_word(&r->ft), word);
	assert_int_equal(r->vm.loop && r->vm.running, run);
	/* Its vCPUs may, and do. */
	assert_int_equal(run && r->vm.run.want_park, s == DST_ORPHAN);
	assert_int_equal(r->runs, run);
	/* A lock is held exactly when it can run, or does. */
	assert_int_equal(r->holder < 0 && disk_is_elsewhere(&(struct disk){
						  .fd = open(r->image, O_RDONLY | O_CLOEXEC)}),
			 s >= DST_LOADING && s != DST_OVER);
}
