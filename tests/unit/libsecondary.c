#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/libsecondary.h"

#include "ft/common/side.h"
#include "ft/common/steps.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"

struct lab lab;
static bool stepped[SEC_STATE_MAX][SEC_EV_MAX];
static uint64_t seen_steps;

/* --- what stands in --------------------------------------------------------------------------- */

void __real_disk_submit(struct disk *d, struct disk_req *r);
int __real_stage_init(struct stage *s, struct vm *vm, struct diskapply *disks, uint64_t limit);
int __real_side_identity(const struct config *cfg, uint64_t *ret, struct err *e);
int __real_heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		       uint64_t timeout_ns);
int __real_diskapply_flush(struct diskapply *da);
int __real_vsock_host_listen(struct vsock_host *h, struct err *e);
void __real_virtio_net_ask_announce(struct device *d);
int __real_loop_run_once(struct loop *l, uint64_t timeout_ns);

void __wrap_disk_submit(struct disk *d, struct disk_req *r);
int __wrap_stage_init(struct stage *s, struct vm *vm, struct diskapply *disks, uint64_t limit);
int __wrap_side_identity(const struct config *cfg, uint64_t *ret, struct err *e);
int __wrap_heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		       uint64_t timeout_ns);
int __wrap_diskapply_flush(struct diskapply *da);
int __wrap_vsock_host_listen(struct vsock_host *h, struct err *e);
void __wrap_virtio_net_ask_announce(struct device *d);
int __wrap_loop_run_once(struct loop *l, uint64_t timeout_ns);
void __wrap_step_reached(enum step s);
int __real_fallocate(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate(int fd, int mode, off_t off, off_t len);
int __wrap_fsetxattr(int fd, const char *name, const void *value, size_t size, int flags);
int __wrap_chan_set_options(int fd, int user_timeout_ms);
int __real_stream_send(struct stream *s, enum frame_type type, uint64_t epoch,
		       const struct iovec *iov, int niov, uint64_t deadline_ns);
int __wrap_stream_send(struct stream *s, enum frame_type type, uint64_t epoch,
		       const struct iovec *iov, int niov, uint64_t deadline_ns);

int __wrap_replica_begin(struct replica *r, struct kvm *kvm, struct mem *mem, struct err *e);
bool __wrap_replica_roll_back(struct replica *r);
bool __wrap_replica_end(struct replica *r);

int __wrap_replica_begin(struct replica *r, struct kvm *kvm, struct mem *mem, struct err *e)
{
	assert_ptr_equal(mem, &lab.vm.mem);
	lab.splits++;
	return 0;
}

/* But for one that cannot be stopped, which nobody hears. */
static bool stands(void)
{
	return !lab.vm.running || lab.vm.obuf.closed;
}

bool __wrap_replica_roll_back(struct replica *r)
{
	assert_true(stands());
	lab.roll_backs++;
	return true;
}

bool __wrap_replica_end(struct replica *r)
{
	assert_true(stands());
	lab.joins++;
	return true;
}

static bool is_of_log(const struct disk *d)
{
	return d >= lab.sec.disks.disks && d < lab.sec.disks.disks + MACHINE_MAX_DEVS;
}

void __wrap_disk_submit(struct disk *d, struct disk_req *r)
{
	if (!lab.images_wait || !is_of_log(d)) {
		__real_disk_submit(d, r);
		return;
	}
	assert_null(lab.write); /* one after the other */
	r->disk = d;
	lab.write = r;
}

int __wrap_stage_init(struct stage *s, struct vm *vm, struct diskapply *disks, uint64_t limit)
{
	int r = __real_stage_init(s, vm, disks, limit);

	if (lab.while_building)
		lab.while_building();
	if (!r && lab.stage_init)
		stage_done(s);
	return lab.stage_init ? lab.stage_init : r;
}

int __wrap_side_identity(const struct config *cfg, uint64_t *ret, struct err *e)
{
	if (lab.side_identity)
		return err_set(e, lab.side_identity, "disk 'd0': gone");
	return __real_side_identity(cfg, ret, e);
}

int __wrap_heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		       uint64_t timeout_ns)
{
	int r = __real_heart_start(h, l, st, interval_ns, timeout_ns);

	return lab.heart_start ? lab.heart_start : r;
}

int __wrap_diskapply_flush(struct diskapply *da)
{
	return lab.diskapply_flush ? lab.diskapply_flush : __real_diskapply_flush(da);
}

int __wrap_vsock_host_listen(struct vsock_host *h, struct err *e)
{
	assert_ptr_equal(h, &lab.vm.devices.vsock);
	assert_false(lab.vm.running);
	lab.vsocks++;
	if (lab.vsock_host_listen)
		return err_set(e, lab.vsock_host_listen, "vsock: in use");
	return __real_vsock_host_listen(h, e);
}

void __wrap_virtio_net_ask_announce(struct device *d)
{
	assert_ptr_equal(d, lab.vm.devices.mdevs[LAB_NIC]);
	lab.asked_guests++;
	__real_virtio_net_ask_announce(d);
}

int __wrap_stream_send(struct stream *s, enum frame_type type, uint64_t epoch,
		       const struct iovec *iov, int niov, uint64_t deadline_ns)
{
	if (s == &lab.sec.main)
		lab.reply_ns = deadline_ns - loop_now_ns();
	return __real_stream_send(s, type, epoch, iov, niov, deadline_ns);
}

static sem_t marks_go;

/* In a job's thread. */
int __wrap_fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
	bool waits = __atomic_load_n(&lab.marks_wait, __ATOMIC_SEQ_CST);

	snprintf(lab.marking, sizeof(lab.marking), "%.*s", (int)size, (const char *)value);
	__atomic_add_fetch(&lab.marks, 1, __ATOMIC_SEQ_CST);
	if (waits)
		sem_wait(&marks_go);
	errno = lab.mark_errno;
	if (errno)
		return -1;
	snprintf(lab.mark, sizeof(lab.mark), "%.*s", (int)size, (const char *)value);
	return 0;
}

void lab_marks_go(void)
{
	__atomic_store_n(&lab.marks_wait, false, __ATOMIC_SEQ_CST);
	sem_post(&marks_go);
}

int __wrap_fallocate(int fd, int mode, off_t off, off_t len)
{
	if (lab.fallocate_errno) {
		errno = lab.fallocate_errno;
		return -1;
	}
	return __real_fallocate(fd, mode, off, len);
}

/* For a TCP connection only, which these are not. */
int __wrap_chan_set_options(int fd, int user_timeout_ms)
{
	lab.options_set_on = fd;
	lab.options_ms = user_timeout_ms;
	return 0;
}

/* Those of staging are others' business. */
void __wrap_step_reached(enum step s)
{
	size_t n = strlen(lab.steps);

	if (s == STEP_COMMIT_MIDDLE && lab.long_commits)
		lab.loop.yield_ns = 0;
	if (s < STEP_STAGE_BEGIN || s > STEP_STAGE_STATE)
		if (s != STEP_COMMIT_MIDDLE && s != STEP_COMMIT_END)
			snprintf(lab.steps + n, sizeof(lab.steps) - n, "%s%s", n ? " " : "",
				 step_name(s));
}

/* The program waits for an image in the middle of something. */
static void wait_for_image(uint64_t ns)
{
	struct disk_req *r = lab.write;

	if (lab.instead_of_answer) {
		lab.instead_of_answer();
	} else if (lab.waited_ns < lab.answers_after_ns) {
		lab.waited_ns += ns;
		time_pass(&lab.loop, ns);
	} else {
		lab.write = NULL;
		__real_disk_submit(r->disk, r);
	}
}

/* The test's own turns, and those while time passes, are without a time. */
int __wrap_loop_run_once(struct loop *l, uint64_t timeout_ns)
{
	int r;

	if (!lab.write || !timeout_ns)
		return __real_loop_run_once(l, timeout_ns);
	r = __real_loop_run_once(l, 100000);
	if (lab.write)
		wait_for_image(timeout_ns);
	return r;
}

/* --- set-up ----------------------------------------------------------------------------------- */

static void on_state(void *arg, const char *from, const char *to)
{
	assert_string_not_equal(from, to);
	lab.nwords++;
}

static void on_exit_code(void *arg, int code)
{
	lab.exits++;
	lab.exit_code = code;
}

static void on_taken(void *arg)
{
	assert_ptr_equal(arg, &lab);
	lab.taken++;
	lab.leaving = lab.vm.obuf.holding ? 'h' : 'p';
	lab.behind = lab.ft.images_behind;
}

/* Full of what was there before. */
static void make_image(const char *path)
{
	uint8_t *old = malloc(LAB_IMAGE);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	memset(old, LAB_OLD, LAB_IMAGE);
	assert_int_equal(pwrite(fd, old, LAB_IMAGE, 0), LAB_IMAGE);
	close(fd);
	free(old);
}

/* The next device, of both sides. */
static void add_disk(const char *path, enum disk_ft ft, bool readonly)
{
	unsigned n = lab.machine.ndevs++;
	struct mdev *md = &lab.machine.devs[n];
	struct config_disk *cd = &lab.cfg.disks[lab.cfg.ndisks++];

	*md = (struct mdev){.kind = MDEV_BLK,
			    .gpa = MACHINE_MMIO_BASE + n * MACHINE_MMIO_STEP,
			    .gsi = MACHINE_GSI_BASE + n,
			    .queues = 1,
			    .block = 512,
			    .physical = 512,
			    .bytes = LAB_IMAGE,
			    .readonly = readonly,
			    .ft = ft};
	snprintf(md->id, sizeof(md->id), "d%u", n);
	*cd = (struct config_disk){.readonly = readonly, .ft = ft};
	snprintf(cd->id, sizeof(cd->id), "d%u", n);
	snprintf(cd->path, sizeof(cd->path), "%s", path);
}

/* As many devices as there may be. */
static void make_machine(void)
{
	struct machine *m = &lab.machine;
	char readonly[96];

	fake_machine(m, &lab.cfg, lab.image);
	snprintf(readonly, sizeof(readonly), "%s/readonly", lab.folder);
	make_image(lab.image);
	make_image(lab.shared);
	make_image(readonly);
	m->devs[LAB_MIRROR].bytes = LAB_IMAGE;
	m->devs[m->ndevs++] = (struct mdev){.kind = MDEV_NET,
					    .id = "d4",
					    .gpa = MACHINE_MMIO_BASE + 4 * MACHINE_MMIO_STEP,
					    .gsi = MACHINE_GSI_BASE + 4,
					    .mac = {2, 0, 0, 0, 0, 4},
					    .queues = 1};
	add_disk(lab.shared, DISK_FT_SHARED, false);
	add_disk(readonly, DISK_FT_NONE, true);
	add_disk(readonly, DISK_FT_NONE, true);
	assert_int_equal(m->ndevs, MACHINE_MAX_DEVS);
	lab.cfg.role = ROLE_SECONDARY;
	lab.cfg.disklog_bytes = 8 << 20;
	snprintf(lab.cfg.listen, sizeof(lab.cfg.listen), "unix:%s/s", lab.folder);
}

int lab_setup(void **state)
{
	struct err e = {0};

	memset(&lab, 0, sizeof(lab));
	memset(stepped, 0, sizeof(stepped));
	seen_steps = 0;
	time_reset();
	logged_reset();
	fake_vm_reset();
	fake_vm.has_network = true;
	strcpy(lab.folder, "/tmp/ftvmm-secondary-XXXXXX");
	assert_non_null(mkdtemp(lab.folder));
	snprintf(lab.image, sizeof(lab.image), "%s/image", lab.folder);
	snprintf(lab.shared, sizeof(lab.shared), "%s/shared", lab.folder);
	assert_int_equal(loop_init(&lab.loop, NULL), 0);
	lab.loop.clock = loop_now_ns;
	make_machine();
	lab.lock = -1;
	pri_prepare();
	fake_vm_reset();
	fake_vm.has_network = true;
	lab.main.in.fd = lab.heart.in.fd = lab.mirror.in.fd = -1;
	lab.session = 77;
	/* Far longer than any time of the secondary's own. */
	lab.hello = (struct wire_hello){.generation = 1,
					.sums = 1,
					.heartbeat_ns = 10 * S,
					.peer_timeout_ns = 60 * S,
					.disklog_bytes = 8 << 20,
					.shared_arbiter = 1};
	lab.ft = (struct ft){
		.cfg = &lab.cfg, .loop = &lab.loop, .on_state = on_state, .on_exit = on_exit_code};
	lab.ft.arbiter = mock_arbiter_open(&lab.arbiter, &lab.loop, ARBITER_DEADLINE_MS);
	lab.arbiter.record.generation = 1;
	assert_int_equal(secondary_start(&lab.sec, &lab.ft, &lab.vm, on_taken, &lab, &e), 0);
	return 0;
}

static void remove_folder(void)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf %s", lab.folder);
	assert_int_equal(system(command), 0);
}

int lab_teardown(void **state)
{
	lab.images_wait = false;
	if (lab.write)
		lab_images_go();
	/* What the kernel is at stays allocated for ever if it is given up. */
	lab_until(!lab.sec.twin.merging);
	end_close(&lab.main);
	end_close(&lab.heart);
	end_close(&lab.mirror);
	mock_arbiter_hold(&lab.arbiter, false); /* a claim is given back then */
	secondary_stop(&lab.sec);
	if (lab.marks_wait)
		lab_marks_go();
	marks_stop(&lab.ft.marks);
	vm_destroy(&lab.vm);
	pri_unlock();
	arbiter_close(lab.ft.arbiter);
	mock_arbiter_wait(&lab.arbiter, &lab.arbiter.closed, 1);
	loop_turns(&lab.loop);
	loop_done(&lab.loop);
	remove_folder();
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	return 0;
}

/* --- time and steps --------------------------------------------------------------------------- */

static void note_steps(void)
{
	const struct fsm *f = &lab.sec.fsm;

	if (f->steps < seen_steps)
		seen_steps = 0;
	if (f->steps - seen_steps > FSM_TRACE)
		seen_steps = f->steps - FSM_TRACE;
	for (; seen_steps < f->steps; seen_steps++) {
		unsigned at = seen_steps % FSM_TRACE;

		stepped[f->trace[at].state][f->trace[at].event] = true;
	}
}

bool lab_stepped(unsigned state, unsigned event)
{
	note_steps();
	return stepped[state][event];
}

void lab_turn(void)
{
	end_flush(&lab.main);
	end_flush(&lab.heart);
	end_flush(&lab.mirror);
	__real_loop_run_once(&lab.loop, 200000);
	note_steps();
	time_due();
	note_steps();
}

void lab_settle(void)
{
	do
		for (unsigned i = 0; i < 5; i++)
			lab_turn();
	while (lab.main.out.len || lab.heart.out.len || (lab.sec.disks.busy && !lab.write));
}

void lab_pass(uint64_t ns)
{
	time_pass(&lab.loop, ns);
	note_steps();
	lab_settle();
}

/* --- places ----------------------------------------------------------------------------------- */

const char *lab_state(void)
{
	return secondary_desc.states[lab.sec.fsm.state];
}

static void await(enum secondary_state state)
{
	lab_until(lab.sec.fsm.state == state);
}

void lab_arbiter_waits(void)
{
	mock_arbiter_hold(&lab.arbiter, true);
}

void lab_await_question(void)
{
	lab_until(lab.arbiter.asked == lab.arbiter.answered + 1);
	mock_arbiter_wait(&lab.arbiter, &lab.arbiter.asked, 1); /* and has written it down */
}

void lab_arbiter_answers(int code)
{
	mock_arbiter_set(&lab.arbiter, code, NULL);
	mock_arbiter_hold(&lab.arbiter, false);
}

static void reach_standby(void)
{
	pri_join();
	pri_disk(0, 0, 512, 0xdd);
	pri_heart();
	pri_commit(1);
}

void lab_without_shared(void)
{
	struct mdev *md = &lab.machine.devs[LAB_SHARED];

	for (unsigned i = 0; i < lab.cfg.ndisks; i++)
		if (!strcmp(lab.cfg.disks[i].id, md->id)) {
			lab.cfg.disks[i].ft = DISK_FT_NONE;
			lab.cfg.disks[i].readonly = true;
		}
	md->ft = DISK_FT_NONE;
	md->readonly = true;
}

static void reach_twin(void)
{
	lab_without_shared();
	reach_standby();
	pri_mirror();
	lab.runs = 1;
	pri_commit(2);
	await(SEC_TWIN);
}

static void reach_held(void)
{
	reach_standby();
	pri_hand_over(5);
	end_expect(&lab.main, FRAME_RUNS, NULL);
}

void lab_reach(enum secondary_state state)
{
	switch (state) {
	case SEC_LISTEN:
		break;
	case SEC_ASKED:
		lab_arbiter_waits();
		pri_hello();
		break;
	case SEC_SYNCING:
		pri_join();
		pri_disk(0, 0, 512, 0xdd);
		lab_settle();
		break;
	case SEC_STANDBY:
		reach_standby();
		break;
	case SEC_TWIN:
		reach_twin();
		break;
	case SEC_TWIN_STAGES:
		reach_twin();
		pri_begin(3);
		break;
	case SEC_TWIN_CLAIM:
		reach_twin();
		lab_arbiter_waits();
		pri_hang_up();
		break;
	case SEC_DRAIN:
	case SEC_DRAIN_ALONE:
		reach_standby();
		end_send(&lab.main, FRAME_BYE, 0, NULL, 0);
		await(SEC_DRAIN);
		if (state == SEC_DRAIN_ALONE)
			pri_hang_up();
		break;
	case SEC_DISMISSED:
		reach_standby();
		end_send(&lab.main, FRAME_DISMISS, 0, NULL, 0);
		break;
	case SEC_CLAIM:
	case SEC_YIELD:
		reach_standby();
		lab_arbiter_waits();
		pri_hang_up();
		await(SEC_CLAIM);
		lab_await_question();
		if (state == SEC_YIELD)
			lab_image_fails();
		break;
	case SEC_ACCEPT:
	case SEC_ACCEPT_ALONE:
		reach_standby();
		lab_arbiter_waits();
		pri_hand_over(5);
		await(SEC_ACCEPT);
		if (state == SEC_ACCEPT_ALONE)
			pri_hang_up();
		break;
	case SEC_HELD:
		reach_held();
		break;
	case SEC_LOCKS:
		lab.keeps_lock = true;
		reach_held();
		pri_gone();
		break;
	case SEC_CONFIRM:
		reach_held();
		lab_arbiter_waits();
		pri_hang_up();
		break;
	case SEC_TAKEN:
		reach_standby();
		pri_hang_up();
		break;
	case SEC_OVER:
		secondary_stop(&lab.sec);
		break;
	default:
		fail();
	}
	await(state);
	if (lab.arbiter.hold)
		lab_await_question();
}

/* --- what came of it -------------------------------------------------------------------------- */

void lab_images_go(void)
{
	struct disk_req *r = lab.write;

	lab.images_wait = false;
	lab.write = NULL;
	if (r)
		__real_disk_submit(r->disk, r);
	lab_settle();
}

enum disk_op lab_image_step(void)
{
	struct disk_req *r = lab.write;
	enum disk_op kind = r->kind;

	lab.write = NULL;
	__real_disk_submit(r->disk, r);
	lab_until(lab.write || !lab.sec.disks.busy);
	return kind;
}

uint64_t *lab_queue(void)
{
	return &lab.sec.disks.queue.bytes;
}

void lab_image_fails(void)
{
	struct disk_req *r = lab.write;

	assert_non_null(r);
	lab.write = NULL;
	r->done(r, -EIO);
	note_steps();
	lab_settle();
}

void lab_check_gave_up(const char *note)
{
	lab_until(lab.sec.fsm.state == SEC_LISTEN);
	assert_word("STARTING");
	assert_string_equal(lab.ft.note, note);
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	assert_false(lab.sec.has_vm);
	assert_int_equal(lab.ft.stands, 0);
	assert_string_equal(lab.ft.peer, "");
	assert_int_equal(lab.taken, 0);
	assert_int_equal(fake_vm.printed + fake_vm.frames, 0);
	assert_int_equal(time_left(&lab.sec.timer_op), -1);
}

void lab_check_vm(uint64_t n)
{
	for (uint64_t page = 1; page < 8; page++) {
		const uint8_t *p = mem_page(&lab.vm.mem, page);

		for (unsigned i = 0; i < MEM_PAGE_SIZE; i++)
			assert_int_equal(p[i], page <= n ? page : 0);
	}
	assert_int_equal(lab.vm.vcpus[0].state.regs.rax, n);
}

void lab_check_image(uint64_t n)
{
	for (uint64_t sector = 1; sector < 16; sector++)
		for (unsigned i = 0; i < 512; i += 511)
			assert_int_equal(lab_image_byte(lab.image, sector * 512 + i),
					 sector <= n ? sector : LAB_OLD);
}

uint8_t lab_image_byte(const char *path, uint64_t off)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
	close(fd);
	return byte;
}

void lab_print(void)
{
	struct iovec iov = {"x", 1};

	obuf_put(&lab.vm.obuf, fake_vm.sink, &iov, 1);
}

static void written(struct disk_req *r, int res)
{
	struct lab_write *w = r->arg;

	w->done = true;
	w->res = res;
	free(w->buf);
}

void lab_guest_writes(struct lab_write *w, unsigned dev, uint64_t off, uint8_t byte)
{
	*w = (struct lab_write){.buf = aligned_alloc(4096, 4096)};
	memset(w->buf, byte, 512);
	w->req = (struct disk_req){.kind = DISK_WRITE,
				   .off = off,
				   .len = 512,
				   .buf = w->buf,
				   .done = written,
				   .arg = w};
	__real_disk_submit(&lab.vm.devices.disks[dev], &w->req);
}

bool lab_end_is_told(void)
{
	uint64_t n;

	return read(lab.vm.watch.fd, &n, sizeof(n)) == sizeof(n);
}
