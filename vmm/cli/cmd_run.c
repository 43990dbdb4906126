#define _GNU_SOURCE
#include "vmm/cli/cmd_run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/serial.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/base/giveback.h"
#include "vmm/base/log.h"

/* For systemd: STATE, and the note behind it. */
static void say_state(void *arg, char *ret, size_t cap)
{
	const struct run *r = arg;

	snprintf(ret, cap, "%s%s%s", ft_word(&r->ft), r->ft.note[0] ? ": " : "", r->ft.note);
}

static void state_changed(void *arg, const char *from, const char *to)
{
	struct run *r = arg;

	ctl_event(r->ctl, run_state_event(r, from));
	notify_changed(&r->notify);
	run_disk_state_changed(r);
}

static int typed(void *arg, const void *bytes, unsigned len)
{
	struct run *r = arg;

	return r->has_vm && !r->over ? (int)serial_input(r->vm.devices.serial, bytes, len)
				     : -ENODEV;
}

static void signalled(struct loop_op *op, int res)
{
	struct run *r = op->arg;
	struct signalfd_siginfo si;

	if (read(r->signal_fd, &si, sizeof(si)) != sizeof(si))
		return;
	log_info("signal %u: stopping in order", si.ssi_signo);
	run_end_stop(r, CONFIG_STOP_NS);
}

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

/* What it is to need later, too: to migrate, for one. */
static int open_tls(struct run *r, struct err *e)
{
	const struct tls_from from = {
		.psk = r->cfg.tls_psk, .dir = r->cfg.tls_dir, .name = r->cfg.name};

	return from.psk[0] || from.dir[0] ? tls_open(&r->ft.tls, &from, e) : 0;
}

static int open_arbiter(struct run *r, struct err *e)
{
	char host[64] = "", holder[128];

	if (r->cfg.role == ROLE_PLAIN)
		return 0;
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

/*
 * Before the first thread: each has its own rights. What this host has of a block device is
 * forgotten when another host has written to it: disk_lock().
 */
static int drop_rights(const struct config *cfg, struct err *e)
{
	bool flushes = false;
	struct stat st;

	for (unsigned i = 0; i < cfg->ndisks; i++)
		flushes |= !cfg->disks[i].readonly && !stat(cfg->disks[i].path, &st) &&
			   S_ISBLK(st.st_mode);
	return sandbox_drop_rights(cfg->sandbox, flushes, e);
}

/* An arbiter's program may do what it likes, and would inherit the list: then vCPUs alone have one.
 */
static int enter_sandbox(const struct config *cfg, struct err *e)
{
	struct sandbox_list list;
	int code;

	if (cfg->sandbox != SANDBOX_OFF && !strncmp(cfg->arbiter, "exec:", 5)) {
		log_info("sandbox: of vCPU threads only, as --arbiter exec: runs programs");
		return 0;
	}
	code = sandbox_make(&list, cfg->sandbox, SANDBOX_PROCESS, e);
	return code ? code : sandbox_enter(&list, true, e);
}

static int start(struct run *r, struct err *e)
{
	int code = loop_init(&r->loop, e);

	/* Field by field: what is not used, like the samples of epochs, stays out of memory. */
	r->ft.cfg = &r->cfg;
	r->ft.loop = &r->loop;
	r->ft.on_state = state_changed;
	r->ft.on_exit = run_end_finish;
	r->ft.arg = r;
	if (!code)
		notify_open(&r->notify, &r->loop, say_state, r);
	if (!code)
		code = watch_signals(r, e);
	if (!code)
		code = open_tls(r, e);
	if (!code)
		code = resolve_peers(&r->cfg, e);
	if (!code)
		code = open_arbiter(r, e);
	if (!code)
		code = ctl_open(&r->ctl, &r->loop, r->cfg.name, run_command, r, e);
	if (!code)
		code = console_sock_open(&r->console, &r->loop, r->cfg.name, typed, r, e);
	if (!code)
		code = enter_sandbox(&r->cfg, e);
	if (!code)
		code = run_role_start(r, e);
	if (code)
		return code;
	notify_ready(&r->notify);
	return 0;
}

static void stop(struct run *r)
{
	bool built;

	notify_stopping(&r->notify);
	boot_reader_drop(r->reader);
	run_snapshot_stop(r);
	run_lazy_stop(r);
	run_migrate_stop(r);
	run_disk_stop(r);
	primary_stop(&r->primary);
	built = r->has_vm || r->secondary.has_vm;
	if (secondary_stop(&r->secondary) && !r->exit_code)
		r->exit_code = 2;
	if (built) {
		console_flush(&r->vm.devices.console);
		vm_destroy(&r->vm);
	}
	marks_stop(&r->ft.marks);
	run_trace_stop(r);
	console_sock_close(r->console);
	ctl_close(r->ctl);
	arbiter_close(r->ft.arbiter);
	tls_close(r->ft.tls);
	notify_close(&r->notify);
	loop_done(&r->loop);
	if (r->signal_fd >= 0)
		close(r->signal_fd);
}

/* For whoever typed it; else a line as the others. */
static void say_why(const char *why)
{
	if (!log_is_for_people())
		log_error("%s", why);
	log_flush();
	if (log_is_for_people())
		fprintf(stderr, "ftvmm: %s\n", why);
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
	log_set_form(r->cfg.log);
	r->signal_fd = -1;
	code = drop_rights(&r->cfg, &e);
	if (!code) {
		code = log_start();
		if (code)
			err_set(&e, code, "log: thread: %s", strerror(-code));
	}
	if (!code)
		code = start(r, &e);
	if (code) {
		say_why(e.msg[0] ? e.msg : strerror(-code));
		r->exit_code = code == -ESTALE ? 5 : 1;
	} else {
		giveback_start();
		code = loop_run(&r->loop);
		if (code) {
			log_error("event loop: %s", strerror(-code));
			r->exit_code = 2;
		}
	}
	stop(r);
	log_flush();
	code = r->exit_code;
	free(r);
	return code;
}
