#define _GNU_SOURCE
#include "vmm/cli/cmd_run.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "ft/common/ft.h"
#include "ft/role/primary.h"
#include "ft/role/secondary.h"
#include "ft/common/side.h"
#include "vmm/conf/config.h"
#include "vmm/cli/ctl.h"
#include "vmm/base/log.h"
#include "vmm/cli/run_status.h"
#include "vmm/copy/snapshot.h"
#include "vmm/vm/vm.h"

#define BALLOON_LEAVES (32 << 20) /* with less no guest of any use runs */
#define REBOOT_READ_NS 30000000000ull

/* --- state changes, events, the end ----------------------------------------------------------- */

static void finish(void *arg, int code)
{
	struct run *r = arg;

	if (!r->over) {
		r->over = true;
		r->exit_code = code;
	}
	loop_stop(&r->loop);
}

static void state_changed(void *arg, const char *from, const char *to)
{
	struct run *r = arg;

	if (r->ctl)
		ctl_event(r->ctl, json_pack("{s:s, s:s, s:s, s:I, s:s}", "event", "ft-state", "old",
					    from, "new", to, "generation",
					    (json_int_t)r->ft.generation, "note", r->ft.note));
}

static int end_code(const struct vm *vm)
{
	switch (vm->ending.end) {
	case VM_END_EXIT:
		return vm->ending.code;
	case VM_END_HOST:
	case VM_END_CRASH:
	case VM_END_WATCHDOG:
		return 2;
	default:
		return 0;
	}
}

/* End the VM in the way its role asks for. */
static void end_vm(struct run *r, int code)
{
	if (r->primary.ft)
		primary_end(&r->primary, code);
	else
		finish(r, code);
}

static void reboot_failed(struct run *r, const struct err *e)
{
	log_error("reboot: %s", e->msg);
	end_vm(r, 2);
}

static void reboot_read(void *arg, int code, struct boot_files *files, const struct err *read_err)
{
	struct run *r = arg;
	struct err e = *read_err;
	/* One that does not run now asks again when it may, whatever was read. */
	bool wanted = !r->over && primary_goes_on(&r->primary) && r->vm.running;

	if (code != -ETIMEDOUT)
		r->reader = NULL;
	if (wanted && !code)
		code = vm_reset(&r->vm, files, &e);
	boot_files_free(files);
	if (wanted && code)
		reboot_failed(r, &e);
	else if (wanted)
		ctl_event(r->ctl, json_pack("{s:s}", "event", "guest-reset"));
}

/* False: it is not to boot again. */
static bool may_reboot(const struct run *r)
{
	if (!vm_end_is_reset(&r->vm) || r->cfg.no_reboot || r->stopping ||
	    !primary_goes_on(&r->primary))
		return false;
	if (!r->cfg.kernel[0])
		log_warn("guest: %s, but no kernel was given here to boot again (-k)",
			 vm_end_why(&r->vm));
	return r->cfg.kernel[0];
}

/* The guest stays in its last instruction, and epochs go on, until its kernel is read. */
static void reboot(struct run *r)
{
	struct boot_read what = {.kernel = r->cfg.kernel,
				 .initrd = r->cfg.initrd,
				 .deadline_ns = REBOOT_READ_NS,
				 .fn = reboot_read,
				 .arg = r};
	struct err e = {0};

	if (!r->vm.running)
		return;
	if (!r->reader && log_may(&r->reset_told))
		log_info("guest: %s; booting again", vm_end_why(&r->vm));
	if (boot_reader_start(&r->reader, &r->loop, &what, &e))
		reboot_failed(r, &e);
}

/* What failed at both sides one after the other is the guest's fault. */
static void log_end(const struct run *r)
{
	enum vm_end end = r->vm.ending.end;
	bool taken_over = r->cfg.role == ROLE_SECONDARY && !r->primary.engine.sealed_ns;

	if (end == VM_END_CRASH || (end == VM_END_HOST && taken_over))
		log_error("guest crashed: %s", vm_end_why(&r->vm));
	else if (end == VM_END_HOST)
		log_error("this host cannot run the guest: %s", vm_end_why(&r->vm));
	else
		log_info("guest ended: %s", vm_end_why(&r->vm));
}

static void guest_ended(void *arg)
{
	struct run *r = arg;

	if (!r->over && r->vm.ending.end == VM_END_HOST && primary_host_failed(&r->primary))
		return;
	/* Told again when this side may go on; else the secondary's guest_ended() is told. */
	if (r->over || !primary_may_end(&r->primary))
		return;
	if (may_reboot(r)) {
		reboot(r);
		return;
	}
	log_end(r);
	end_vm(r, end_code(&r->vm));
}

static void stop_late(struct loop_op *op, int res)
{
	struct run *r = op->arg;

	log_warn("the guest did not switch itself off in time: stopping it");
	end_vm(r, 0);
}

/*
 * Ask the guest to switch itself off, and stop it when it has not within timeout_ns; at once when
 * that is 0, when the guest does not listen, does not run or boots again, or when this is the
 * second time.
 */
static void stop_vm(struct run *r, uint64_t timeout_ns)
{
	if (r->stopping || !timeout_ns || !r->has_vm || !r->vm.running || r->reader ||
	    !vm_power_button(&r->vm)) {
		end_vm(r, 0);
		return;
	}
	r->stopping = true;
	log_info("power button pressed; waiting %llu s for the guest",
		 (unsigned long long)(timeout_ns / 1000000000));
	r->stop_op = (struct loop_op){.fn = stop_late, .arg = r};
	loop_timer_set(&r->loop, &r->stop_op, timeout_ns);
}

static void guest_panicked(void *arg)
{
	struct run *r = arg;

	if (r->ctl)
		ctl_event(r->ctl, json_pack("{s:s}", "event", "guest-panic"));
}

static void signalled(struct loop_op *op, int res)
{
	struct run *r = op->arg;
	struct signalfd_siginfo si;

	if (read(r->signal_fd, &si, sizeof(si)) != sizeof(si))
		return;
	log_info("signal %u: stopping in order", si.ssi_signo);
	stop_vm(r, CONFIG_STOP_NS);
}

/* --- control commands --------------------------------------------------------------------------
 */

/* The first instruction here: of the kernel, or of a restored VM. */
static int set_going(struct run *r, struct err *e)
{
	int code = r->cfg.restore[0] ? vm_load(&r->vm, 0, e) : 0;

	if (!code && r->cfg.restore[0])
		vm_new_generation(&r->vm);
	if (!code)
		vm_start(&r->vm);
	return code;
}

static int pause_vm(struct run *r, bool pause, struct err *e)
{
	int code;

	if (r->primary.ft)
		return primary_pause(&r->primary, pause, e);
	if (pause)
		return ft_stand(&r->ft, &r->vm, FT_STAND_USER, NULL, e);
	code = r->waiting ? set_going(r, e) : 0;
	if (!code)
		ft_go(&r->ft, &r->vm, FT_STAND_USER);
	return code;
}

static json_t *do_pause(struct run *r, bool pause, struct err *e)
{
	if (!r->has_vm) {
		err_set(e, -EBUSY, "this side does not run the VM (state %s)", ft_word(&r->ft));
		return NULL;
	}
	if (pause_vm(r, pause, e))
		return NULL;
	r->waiting = r->waiting && pause;
	return json_object();
}

static json_t *do_snapshot(struct run *r, json_t *args, struct err *e)
{
	const char *path = json_string_value(json_object_get(args, "file"));
	bool was_running = r->vm.running;
	int code;

	if (!path || path[0] != '/') {
		err_set(e, -EINVAL, "snapshot: 'file' must be an absolute path");
		return NULL;
	}
	if (!r->has_vm || r->ft.cover == FT_SYNCING || r->ft.cover == FT_PROTECTED) {
		err_set(e, -EBUSY,
			"snapshot: not while this VM is %s: its peer would take the long pause for "
			"a death",
			ft_word(&r->ft));
		return NULL;
	}
	code = vm_pause(&r->vm, e);
	if (!code)
		code = snapshot_save(&r->vm, path, e);
	if (was_running && !r->vm.running)
		vm_resume(&r->vm);
	return code ? NULL : json_object();
}

static int check_epoch(json_t *epoch, struct err *e)
{
	json_int_t ns = json_integer_value(epoch);

	if (!json_is_integer(epoch) || ns < (json_int_t)CONFIG_EPOCH_MIN_NS ||
	    ns > (json_int_t)CONFIG_EPOCH_MAX_NS)
		return err_set(e, -EINVAL, "set: epoch must be between 0.1 ms and 10 s");
	return 0;
}

static int check_balloon(struct run *r, json_t *bytes, struct err *e)
{
	json_int_t n = json_integer_value(bytes), all = r->vm.machine.mem_bytes;

	if (!r->has_vm)
		return err_set(e, -EBUSY, "this side does not run the VM (state %s)",
			       ft_word(&r->ft));
	if (!vm_find_device(&r->vm, MDEV_BALLOON))
		return err_set(e, -ENODEV, "set: this VM has no balloon");
	if (!json_is_integer(bytes) || n < 0 || n % MEM_PAGE_SIZE ||
	    (n && n > all - BALLOON_LEAVES))
		return err_set(e, -EINVAL,
			       "set: balloon must be whole pages of 4K, and leave 32M of the "
			       "guest's %lldM",
			       (long long)(all >> 20));
	return 0;
}

/* All or nothing. */
static json_t *do_set(struct run *r, json_t *args, struct err *e)
{
	json_t *epoch = json_object_get(args, "epoch_ns");
	json_t *balloon = json_object_get(args, "balloon_bytes");
	int code = 0;

	if (!epoch && !balloon)
		code = err_set(e, -EINVAL, "set: nothing to set; there are epoch and balloon");
	if (!code && epoch)
		code = check_epoch(epoch, e);
	if (!code && balloon)
		code = check_balloon(r, balloon, e);
	if (code)
		return NULL;
	if (epoch) {
		r->cfg.epoch_ns = json_integer_value(epoch);
		if (r->primary.ft)
			primary_set_epoch(&r->primary, r->cfg.epoch_ns);
	}
	if (balloon)
		virtio_balloon_set_target(vm_find_device(&r->vm, MDEV_BALLOON),
					  json_integer_value(balloon) >> MEM_PAGE_SHIFT);
	return json_object();
}

static json_t *do_stop(struct run *r, json_t *args, struct err *e)
{
	json_t *timeout = json_object_get(args, "timeout_ns");
	json_int_t ns = timeout ? json_integer_value(timeout) : (json_int_t)CONFIG_STOP_NS;

	if ((timeout && !json_is_integer(timeout)) || ns < 0 ||
	    ns > (json_int_t)CONFIG_STOP_MAX_NS) {
		err_set(e, -EINVAL, "stop: timeout must be between 0 and 8 minutes");
		return NULL;
	}
	log_info("stop command: stopping in order");
	stop_vm(r, ns);
	return json_object();
}

static json_t *do_failover(struct run *r, struct err *e)
{
	if (r->stopping) {
		err_set(e, -EBUSY, "failover: the VM is being stopped");
		return NULL;
	}
	if (r->primary.ft)
		return primary_hand_over(&r->primary, e) ? NULL : json_object();
	err_set(e, -EBUSY, "failover: only the side that runs a protected VM can hand it over; %s",
		r->cfg.role == ROLE_PLAIN ? "this VM has no fault tolerance"
					  : "a secondary takes over by itself");
	return NULL;
}

static json_t *command(void *arg, const char *cmd, json_t *args, struct err *e)
{
	struct run *r = arg;

	if (!strcmp(cmd, "status"))
		return run_status(r);
	/* Events are still served while the last writes go to the images. */
	if (r->over) {
		err_set(e, -EBUSY, "the VM has ended; this process is about to");
		return NULL;
	}
	if (!strcmp(cmd, "pause") || !strcmp(cmd, "resume"))
		return do_pause(r, cmd[0] == 'p', e);
	if (!strcmp(cmd, "snapshot"))
		return do_snapshot(r, args, e);
	if (!strcmp(cmd, "set"))
		return do_set(r, args, e);
	if (!strcmp(cmd, "stop"))
		return do_stop(r, args, e);
	if (!strcmp(cmd, "failover"))
		return do_failover(r, e);
	err_set(e, -EINVAL,
		"no command '%s'; there are status, events, pause, resume, set, snapshot, "
		"failover, stop",
		cmd);
	return NULL;
}

/* --- roles -------------------------------------------------------------------------------------
 */

/* The machine has the sizes of the images; the image itself is opened and locked by vm_create(). */
static int measure_disks(const struct config *cfg, struct machine *m, struct err *e)
{
	for (uint32_t i = 0; i < m->ndevs; i++)
		for (unsigned n = 0; n < cfg->ndisks; n++) {
			off_t end;
			int fd;

			if (m->devs[i].kind != MDEV_BLK || strcmp(m->devs[i].id, cfg->disks[n].id))
				continue;
			fd = open(cfg->disks[n].path, O_RDONLY | O_CLOEXEC);
			end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
			if (end < 0)
				err_sys(e, "disk '%s': '%s'", cfg->disks[n].id, cfg->disks[n].path);
			else if (end == 0 || end % 512)
				err_set(e, -EINVAL,
					"disk '%s': '%s' has %lld bytes; a raw image is a multiple "
					"of 512 bytes (truncate -s)",
					cfg->disks[n].id, cfg->disks[n].path, (long long)end);
			if (fd >= 0)
				close(fd);
			if (e->code)
				return e->code;
			m->devs[i].bytes = end;
		}
	return 0;
}

static int boot(struct run *r, struct err *e)
{
	struct boot_files files;
	int code = boot_files_read(&files, r->cfg.kernel, r->cfg.initrd, e);

	if (code)
		return code;
	code = vm_boot(&r->vm, &files, e);
	boot_files_free(&files);
	return code;
}

static int build_vm(struct run *r, struct err *e)
{
	struct backends b;
	struct machine m;
	int code;

	config_to_backends(&r->cfg, &b);
	if (r->cfg.restore[0])
		return snapshot_restore(&r->vm, &r->loop, &b, r->cfg.restore, e);
	code = config_to_machine(&r->cfg, &m, e);
	if (!code)
		code = measure_disks(&r->cfg, &m, e);
	if (!code)
		code = vm_create(&r->vm, &r->loop, &m, &b, e);
	if (code)
		return code;
	code = boot(r, e);
	if (code)
		vm_destroy(&r->vm);
	return code;
}

static int typed(void *arg, const void *bytes, unsigned len)
{
	struct run *r = arg;

	return r->has_vm && !r->over ? (int)serial_input(r->vm.devices.serial, bytes, len)
				     : -ENODEV;
}

static void watch_guest(struct run *r)
{
	r->vm.devices.console.tee = console_sock_put;
	r->vm.devices.console.tee_arg = r->console;
	r->vm.watch.on_end = guest_ended;
	r->vm.watch.on_panic = guest_panicked;
	r->vm.watch.arg = r;
}

/* All that can fail for want of something on this host; the guest has not run yet. */
static int prepare_vm(struct run *r, struct err *e)
{
	int code = build_vm(r, e);

	if (code)
		return code;
	r->has_vm = true;
	watch_guest(r);
	for (unsigned i = 0; i < r->vm.machine.ndevs; i++) {
		code = r->vm.machine.devs[i].kind == MDEV_NET
			       ? netdev_link(&r->vm.devices.nets[i], true, e)
			       : 0;
		if (code)
			return code;
	}
	return vsock_host_listen(&r->vm.devices.vsock, e);
}

static int run_plain(struct run *r, struct err *e)
{
	int code = prepare_vm(r, e);

	r->waiting = r->cfg.paused;
	if (r->waiting)
		r->ft.stands = FT_STAND_USER;
	else if (!code)
		code = set_going(r, e);
	if (!code)
		ft_set(&r->ft, FT_HERE, FT_NONE, NULL);
	return code;
}

/* A VM that may be running elsewhere, or an image that may be the older one, needs force. */
static int check_record(struct run *r, const struct arbiter_record *rec, struct err *e)
{
	if (!rec->generation || rec->end == ARBITER_RELEASED || r->cfg.claim)
		return 0;
	if (rec->end == ARBITER_HELD)
		return err_set(e, -ESTALE,
			       "arbiter: generation %llu of '%s' is held by '%s' and was not given "
			       "back: it may be running. Start this side with --secondary, or, if "
			       "you are sure that it is dead and this image is the latest, add "
			       "--claim",
			       (unsigned long long)rec->generation, r->cfg.name, rec->holder);
	if (rec->side && rec->side == arbiter_side(r->ft.arbiter))
		return 0;
	return err_set(e, -ESTALE,
		       "arbiter: '%s' was stopped last by '%s', the other side, without "
		       "a secondary in step: the image there is newer than this one. Start that "
		       "side with --primary, and this one with --secondary; if these are its "
		       "images, moved "
		       "or copied, or it is lost, --claim starts from what is here",
		       r->cfg.name, rec->holder);
}

static int look_at_record(struct run *r, struct arbiter_record *rec, struct err *e)
{
	uint64_t side;
	int code = side_identity(&r->cfg, &side, e);

	if (code)
		return code;
	arbiter_set_side(r->ft.arbiter, side);
	code = arbiter_read(r->ft.arbiter, rec, e);
	return code ? code : check_record(r, rec, e);
}

/* A start that came to nothing leaves the record as it was: the next one needs no force. */
static void put_back(struct run *r, const struct arbiter_record *was)
{
	struct err e = {0};
	int code = arbiter_put_back(r->ft.arbiter, was->generation + 1, was, &e);

	if (code && code != -ESTALE)
		log_warn("the next start needs --claim: %s", e.msg);
}

/* From the claim on this side may run the VM: it is the last step but the first instruction. */
static int claim_and_go(struct run *r, const struct arbiter_record *was, struct err *e)
{
	int code =
		arbiter_claim(r->ft.arbiter, was->generation, ARBITER_START, &r->ft.generation, e);

	if (code == -ESTALE)
		return err_set(
			e, -ESTALE,
			"arbiter: another side claimed '%s' at this moment; start as --secondary",
			r->cfg.name);
	if (!code) {
		ft_set(&r->ft, FT_HERE, FT_UNPROTECTED, "no peer yet");
		code = set_going(r, e);
	}
	if (code)
		put_back(r, was);
	return code;
}

static int run_primary(struct run *r, struct err *e)
{
	struct arbiter_record was;
	int code = look_at_record(r, &was, e);

	if (!code)
		code = prepare_vm(r, e);
	if (!code)
		code = primary_start(&r->primary, &r->ft, &r->vm, e);
	return code ? code : claim_and_go(r, &was, e);
}

/* The secondary has become the one that runs the VM: from here on it is a primary. */
static void taken_over(void *arg)
{
	struct run *r = arg;
	struct err e = {0};

	r->has_vm = true;
	watch_guest(r);
	r->role = "primary";
	if (primary_start(&r->primary, &r->ft, &r->vm, &e))
		log_error("%s", e.msg);
}

static void raise_priority(void)
{
	int code = loop_raise_priority(1);

	if (code)
		log_warn(
			"no real-time priority (%s): on a busy host heartbeats may be late; run as "
			"root or with CAP_SYS_NICE, or give a longer --peer-timeout",
			strerror(-code));
}

static int start_role(struct run *r, struct err *e)
{
	switch (r->cfg.role) {
	case ROLE_PRIMARY:
		raise_priority();
		r->role = "primary";
		return run_primary(r, e);
	case ROLE_SECONDARY:
		raise_priority();
		r->role = "secondary";
		if (!r->cfg.kernel[0] && !r->cfg.no_reboot)
			log_warn("no kernel (-k): after a takeover the guest's first reboot ends "
				 "the VM; give the primary's -k and -i here, too");
		ft_set(&r->ft, FT_ELSEWHERE, FT_NONE, "waiting for a primary");
		return secondary_start(&r->secondary, &r->ft, &r->vm, taken_over, r, e);
	default:
		r->role = "plain";
		return run_plain(r, e);
	}
}

/* --- process -----------------------------------------------------------------------------------
 */

static int watch_signals(struct run *r, struct err *e)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r->signal_fd < 0)
		return err_sys(e, "signalfd");
	r->signal_op = (struct loop_op){.fn = signalled, .arg = r};
	return loop_poll_add(&r->loop, &r->signal_op, r->signal_fd, POLLIN);
}

static int open_arbiter(struct run *r, struct err *e)
{
	char host[64] = "", holder[128];

	if (r->cfg.role == ROLE_PLAIN)
		return 0;
	if (!strcmp(r->cfg.arbiter, "none"))
		log_warn("no arbiter: a link that breaks makes two VMs of one (--arbiter "
			 "file:PATH)");
	gethostname(host, sizeof(host) - 1);
	snprintf(holder, sizeof(holder), "%s pid %d", host, getpid());
	return arbiter_open(&r->ft.arbiter, &r->loop, r->cfg.arbiter, r->cfg.name, holder, e);
}

/* Once, before the guest runs: no retry waits for a name server. */
static int resolve_peers(struct config *cfg, struct err *e)
{
	int code = 0;

	for (unsigned i = 0; i < cfg->npeers && !code; i++) {
		char was[sizeof(cfg->peers[i])];

		memcpy(was, cfg->peers[i], sizeof(was));
		code = chan_resolve(cfg->peers[i], sizeof(cfg->peers[i]), e);
		if (!code && strcmp(was, cfg->peers[i]))
			log_info("--peer %s is %s", was, cfg->peers[i]);
	}
	return code ? err_wrap(e, "--peer") : 0;
}

static int start(struct run *r, struct err *e)
{
	int code = loop_init(&r->loop, e);

	/* Field by field: what is not used, like the samples of epochs, stays out of memory. */
	r->ft.cfg = &r->cfg;
	r->ft.loop = &r->loop;
	r->ft.on_state = state_changed;
	r->ft.on_exit = finish;
	r->ft.arg = r;
	if (!code)
		code = watch_signals(r, e);
	if (!code)
		code = resolve_peers(&r->cfg, e);
	if (!code)
		code = open_arbiter(r, e);
	if (!code)
		code = ctl_open(&r->ctl, &r->loop, r->cfg.name, command, r, e);
	if (!code)
		code = console_sock_open(&r->console, &r->loop, r->cfg.name, typed, r, e);
	return code ? code : start_role(r, e);
}

static void stop(struct run *r)
{
	bool built;

	boot_reader_drop(r->reader);
	primary_stop(&r->primary);
	built = r->has_vm || r->secondary.has_vm;
	if (secondary_stop(&r->secondary) && !r->exit_code)
		r->exit_code = 2;
	if (built)
		vm_destroy(&r->vm);
	console_sock_close(r->console);
	ctl_close(r->ctl);
	arbiter_close(r->ft.arbiter);
	loop_done(&r->loop);
	if (r->signal_fd >= 0)
		close(r->signal_fd);
}

int cmd_run(int argc, char **argv)
{
	struct err e = {0};
	struct run *r;
	int code;

	r = calloc(1, sizeof(*r));
	code = r ? config_parse_run(&r->cfg, argc - 1, argv + 1, &e)
		 : err_set(&e, -ENOMEM, "out of memory");
	if (code) {
		if (code < 0)
			fprintf(stderr, "ftvmm: %s\n", e.msg);
		free(r);
		return code < 0;
	}
	log_init(r->cfg.verbose ? LOG_DEBUG : LOG_INFO, r->cfg.name);
	r->signal_fd = -1;
	code = start(r, &e);
	if (code) {
		fprintf(stderr, "ftvmm: %s\n", e.msg[0] ? e.msg : strerror(-code));
		r->exit_code = code == -ESTALE ? 5 : 1;
	} else {
		code = loop_run(&r->loop);
		if (code) {
			log_error("event loop: %s", strerror(-code));
			r->exit_code = 2;
		}
	}
	stop(r);
	code = r->exit_code;
	free(r);
	return code;
}
