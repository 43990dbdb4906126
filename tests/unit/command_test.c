/* The table of commands: what a terminal, a VM and a shell make of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/libcommand.h"
#include "tests/unit/librig.h"
#include "vmm/cli/command.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/conf/option.h"
#include "vmm/base/log.h"

/* Standard output and error of the last say(), or what the VM said. */
#define out rig_out

static int say(const char *line)
{
	return command_says(line, out, sizeof(out));
}

static void rows_are_whole(void **state)
{
	const struct command *c;

	for (unsigned i = 0; (c = command_at(i)); i++) {
		assert_ptr_equal(command_find(c->name), c);
		assert_true(c->help[0]);
		assert_true(!c->main == !!c->ask);
		/* Whatever a VM serves can be asked of it. */
		assert_true(!c->serve || c->ask);
		assert_true(c->min_args <= c->max_args && c->max_args <= COMMAND_ARGS_MAX);
		if (c->ask)
			assert_true(!strncmp(c->args, "NAME", 4) || !strncmp(c->args, "[NAME]", 6));
	}
	assert_null(command_find("frobnicate"));
	assert_null(command_find(""));
}

static void help_lists_each(void **state)
{
	const struct command *c;
	char line[400], list[16384];

	assert_int_equal(say("--help"), EXIT_DONE);
	strcpy(list, out);
	for (unsigned i = 0; (c = command_at(i)); i++) {
		snprintf(line, sizeof(line), "  %-10s %s\n", c->name, c->help);
		assert_non_null(strstr(list, line));
		if (!c->ask)
			continue;
		snprintf(line, sizeof(line), "%s --help", c->name);
		assert_int_equal(say(line), EXIT_DONE);
		snprintf(line, sizeof(line), "usage: ftvmm %s %s\n%s\n", c->name, c->args, c->help);
		assert_memory_equal(out, line, strlen(line));
		assert_true(c->print_options || !out[strlen(line)]);
	}
	assert_int_equal(say("help"), EXIT_DONE);
	assert_string_equal(out, list);
	assert_int_equal(say("-h"), EXIT_DONE);
	assert_string_equal(out, list);
	assert_int_equal(say("version"), EXIT_DONE);
	strcpy(list, out);
	assert_true(!strncmp(list, "ftvmm ", 6));
	assert_int_equal(say("--version"), EXIT_DONE);
	assert_string_equal(out, list);
	assert_int_equal(say("--helpless"), EXIT_USAGE);
	assert_string_equal(out, "ftvmm: no command '--helpless'; `ftvmm --help` lists them\n");
}

/* Each that the usage names has a line of its own, and there is no other. */
static void help_explains_options(void **state)
{
	const struct command *c = command_find("migrate");
	unsigned named = 0, explained = 0;

	assert_int_equal(say("migrate --help"), EXIT_DONE);
	for (const char *at = c->args; (at = strstr(at, "--")); at += 2) {
		char line[64];

		if (!strncmp(at, "--json", 6))
			continue;
		snprintf(line, sizeof(line), "\n      %.*s ", (int)strcspn(at, " |]"), at);
		assert_non_null(strstr(out, line));
		named++;
	}
	for (const char *at = out; (at = strstr(at, "\n      --")); at++)
		explained++;
	assert_int_equal(named, explained);
	assert_null(strstr(out, "(0"));
	assert_null(strstr(out, "(null"));
	assert_true(named > 8);
}

/* --- a VM that is asked ------------------------------------------------------------------------
 */

static void vm_serves_what_the_table_says(void **state)
{
	static const char none[] =
		"{\"error\":\"no command '%s'; there are status, events, trace, "
		"pause, resume, set, snapshot, dump, failover, migrate, stop\"}\n";
	struct rig *rig = *state;
	const struct command *c;
	char want[200];

	snprintf(want, sizeof(want), none, "frobnicate");
	assert_string_equal(rig_ask(rig, "frobnicate"), want);
	for (unsigned i = 0; (c = command_at(i)); i++) {
		bool refused;

		if (!strcmp(c->name, "stop"))
			continue;
		snprintf(want, sizeof(want), none, c->name);
		refused = !strcmp(rig_ask(rig, c->name), want);
		assert_true(refused == !c->serve);
	}
}

static void each_is_served_by_its_own(void **state)
{
	static const struct {
		const char *cmd, *answer;
	} cases[] = {
		{"status", "{\"ok\":{\"name\":\"\",\"role\":\"plain\","},
		{"events",
		 "{\"ok\":{\"event\":\"ft-state\",\"new\":\"STARTING\",\"role\":\"plain\","},
		{"set", "{\"error\":\"set: nothing to set"},
		{"snapshot", "{\"error\":\"snapshot: 'file' must"},
		{"dump", "{\"error\":\"dump: this side does not run the VM"},
		{"failover", "{\"error\":\"failover: only the side"},
		{"migrate", "{\"error\":\"migrate: where to?"},
		{"migrate\",\"cancel\":true,\"id\":\"",
		 "{\"id\":\"\",\"error\":\"migrate: none is under way"},
		{"stop\",\"timeout_ns\":\"x", "{\"error\":\"stop: timeout must"},
		{"pause", "{\"error\":\"this side does not run the VM"},
	};
	struct rig *rig = *state;
	struct run *r = rig->r;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strncmp(rig_ask(rig, cases[i].cmd), cases[i].answer, strlen(cases[i].answer)))
			fail_msg("%s: %s", cases[i].cmd, out);
	r->has_vm = true;
	rig_ask(rig, "pause");
	assert_int_equal(r->ft.stands, FT_STAND_USER);
	r->vm.running = true;
	rig_ask(rig, "resume");
	assert_int_equal(r->ft.stands, 0);
}

static void ended_vm_shows_status_and_events(void **state)
{
	static const char ended[] = "{\"error\":\"the VM has ended; this process is about to\"}\n";
	struct rig *rig = *state;

	rig->r->over = true;
	assert_non_null(strstr(rig_ask(rig, "status"), "{\"ok\":{\"name\":"));
	assert_string_equal(rig_ask(rig, "stop"), ended);
	assert_string_equal(rig_ask(rig, "frobnicate"), ended);
	ctl_event(rig->r->ctl, json_pack("{ss}", "event", "unheard"));
	assert_non_null(strstr(rig_ask(rig, "events"), "{\"ok\":{\"event\":\"ft-state\""));
	ctl_event(rig->r->ctl, json_pack("{ss}", "event", "written"));
	assert_non_null(strstr(rig_hear(rig), "{\"event\":\"written\",\"time\":\""));
}

/* Of each disk: whether its image did what it was asked last, and whether the other is like it. */
static void status_says_how_images_are(void **state)
{
	struct rig *rig = *state;
	struct vm *vm = &rig->r->vm;
	struct disk *d = &vm->devices.disks[1];
	unsigned ndevs = vm->machine.ndevs;
	struct mdev was = vm->machine.devs[1];

	vm->machine.ndevs = 2;
	vm->machine.devs[1] = (struct mdev){.kind = MDEV_BLK, .id = "d0"};
	assert_non_null(strstr(rig_ask(rig, "status"),
			       "\"disks\":{\"d0\":{\"image\":\"ok\",\"errors\":0,"
			       "\"last_error\":\"\"}}"));
	d->errors = 2;
	d->error = -EIO;
	d->failing = true;
	assert_non_null(strstr(rig_ask(rig, "status"),
			       "{\"image\":\"failing\",\"errors\":2,\"last_error\":"
			       "\"Input/output error\"}"));
	rig->r->primary.engine.disklog.differs = 1u << 1;
	assert_non_null(strstr(rig_ask(rig, "status"), "{\"image\":\"differs\",\"errors\":2,"));
	assert_non_null(strstr(rig_ask(rig, "status"), "\"images_differ\":true"));
	rig->r->primary.engine.disklog.differs = 0;
	strcpy(d->id, "d0");
	run_disk_watch(rig->r);
	rig_ask(rig, "events");
	d->told(d->told_arg, d, &(struct disk_req){.kind = DISK_WRITE}, -EIO);
	assert_non_null(strstr(rig_hear(rig),
			       "{\"event\":\"disk-error\",\"disk\":\"d0\",\"op\":\"write\","
			       "\"error\":\"Input/output error\",\"errors\":2,"));
	memset(d, 0, sizeof(*d));
	vm->machine.devs[1] = was;
	vm->machine.ndevs = ndevs;
}

/* Whoever follows knows the state without asking, and misses no change after it. */
static void events_begin_with_the_state(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;
	json_t *reply, *ok;

	r->role = ROLE_PRIMARY;
	r->ft.life = FT_HERE;
	r->ft.cover = FT_DEGRADED;
	r->ft.generation = 7;
	strcpy(r->ft.note, "the peer is gone");
	reply = json_loads(rig_ask(rig, "events"), 0, NULL);
	ok = json_object_get(reply, "ok");
	assert_string_equal(json_string_value(json_object_get(ok, "event")), "ft-state");
	assert_null(json_object_get(ok, "old"));
	assert_string_equal(json_string_value(json_object_get(ok, "new")), "DEGRADED");
	assert_string_equal(json_string_value(json_object_get(ok, "role")), "primary");
	assert_string_equal(json_string_value(json_object_get(ok, "note")), "the peer is gone");
	assert_int_equal(json_integer_value(json_object_get(ok, "generation")), 7);
	assert_int_equal(strlen(json_string_value(json_object_get(ok, "time"))), 27);
	json_decref(reply);
	r->ft.cover = FT_SYNCING;
	ctl_event(r->ctl, run_state_event(r, "DEGRADED"));
	assert_non_null(strstr(rig_hear(rig),
			       "{\"event\":\"ft-state\",\"old\":\"DEGRADED\",\"new\":"
			       "\"SYNCING\",\"role\":\"primary\",\"generation\":7,"));
	/* A note that is no text is left out; the state is told. */
	strcpy(r->ft.note, "\xff");
	ctl_event(r->ctl, run_state_event(r, "DEGRADED"));
	assert_non_null(strstr(rig_hear(rig), "\"generation\":7,\"time\":\""));
}

static json_int_t status_number(json_t *reply, const char *key)
{
	json_t *value = json_object_get(json_object_get(reply, "ok"), key);

	return json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
}

/* What the other side, and the images here, do not have yet. */
static void status_says_what_is_behind(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;
	json_t *reply = json_loads(rig_ask(rig, "status"), 0, NULL);

	assert_int_equal(status_number(reply, "unacked_us"), 0);
	assert_int_equal(status_number(reply, "images_behind"), 0);
	assert_int_equal(status_number(reply, "images_failed"), 0);
	assert_null(json_object_get(json_object_get(reply, "ok"), "holder"));
	json_decref(reply);
	r->primary.engine.in_flight = 9;
	r->primary.engine.sealed_ns = loop_now_ns() - 5000000;
	r->primary.engine.disklog.bytes = 4096;
	r->ft.images_behind = true;
	r->secondary.disks.queue.bytes = 8192;
	r->secondary.disks.error = -5;
	r->ft.stats.unequal = 2;
	reply = json_loads(rig_ask(rig, "status"), 0, NULL);
	assert_in_range(status_number(reply, "unacked_us"), 5000, 60000000);
	assert_int_equal(status_number(reply, "disklog_bytes"), 4096);
	assert_int_equal(status_number(reply, "images_behind"), 1);
	assert_int_equal(status_number(reply, "images_behind_bytes"), 8192);
	assert_int_equal(status_number(reply, "images_failed"), 1);
	assert_int_equal(status_number(reply, "verify_failures_total"), 2);
	json_decref(reply);
}

/* Of this one: those before do not count. */
static void status_says_how_far_a_sync_is(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;
	struct sync *s = &r->primary.engine.syncs[1];
	json_t *reply, *sync;

	r->primary.engine.sync = s;
	s->bytes = 5000;
	s->pages = 300;
	assert_int_equal(sync_init(s, &r->loop, NULL, NULL, NULL), 0);
	s->bytes += 700;
	s->pages += 20;
	r->vm.mem.bytes = 2 << 20;
	assert_null(strstr(rig_ask(rig, "status"), "\"sync\":"));
	r->ft.cover = FT_SYNCING;
	reply = json_loads(rig_ask(rig, "status"), 0, NULL);
	sync = json_object_get(json_object_get(reply, "ok"), "sync");
	assert_int_equal(json_integer_value(json_object_get(sync, "bytes")), 700);
	assert_int_equal(json_integer_value(json_object_get(sync, "pages")), 20);
	assert_int_equal(json_integer_value(json_object_get(sync, "memory_pages")), 512);
	assert_in_range(json_integer_value(json_object_get(sync, "time_us")), 0, 60000000);
	json_decref(reply);
	sync_done(s);
}

/* As it was when this side asked last. */
static void status_names_the_holder(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;
	char uri[100];
	uint64_t generation;
	json_t *reply;

	snprintf(uri, sizeof(uri), "file:%s/record", rig->dir);
	assert_int_equal(arbiter_open(&r->ft.arbiter, NULL, uri, "vm-1", "host-a pid 7", NULL), 0);
	assert_null(strstr(rig_ask(rig, "status"), "\"holder\""));
	assert_int_equal(arbiter_claim(r->ft.arbiter, 0, ARBITER_START, &generation, NULL), 0);
	reply = json_loads(rig_ask(rig, "status"), 0, NULL);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(reply, "ok"), "holder")),
		"host-a pid 7");
	json_decref(reply);
	arbiter_close(r->ft.arbiter);
}

/* It would answer that it is done, and the VM would stand. */
static void resume_is_not_for_the_arbiters_silence(void **state)
{
	static const char refused[] = "{\"error\":\"resume: only the arbiter's answer lets this VM "
				      "go on: it is silent\"}\n";
	struct rig *rig = *state;
	struct run *r = rig->r;

	r->has_vm = true;
	r->role = ROLE_PRIMARY;
	r->primary.ft = &r->ft;
	r->primary.vm = &r->vm;
	r->ft.stands = FT_STAND_CLAIM | FT_STAND_SILENT;
	strcpy(r->ft.note, "it is silent");
	assert_string_equal(rig_ask(rig, "resume"), refused);
	/* What the user paused, the user lets go on: the arbiter's answer is all it waits for. */
	r->ft.stands |= FT_STAND_USER;
	assert_string_equal(rig_ask(rig, "resume"), "{\"ok\":{}}\n");
	assert_int_equal(r->ft.stands, FT_STAND_CLAIM | FT_STAND_SILENT);
	assert_string_equal(rig_ask(rig, "resume"), refused);
}

static void check_refused(struct rig *rig, const char *cmd, const char *why)
{
	if (!strstr(rig_ask(rig, cmd), "\"error\"") || !strstr(out, why))
		fail_msg("not %s: %s", why, out);
}

/* Both follow the guest's writes in one log, and a migration takes the VM away. */
static void snapshot_or_migration(void **state)
{
	static const char migrate[] = "migrate\",\"precopy\":\"tcp:127.0.0.1:1",
			  snapshot[] = "snapshot\",\"file\":\"/no/folder/snap";
	static const enum dest_state fills[] = {DST_FILL, DST_CUT, DST_MENDING};
	struct rig *rig = *state;
	struct run *r = rig->r;

	r->has_vm = true;
	strcpy(r->snapshot.path, "/a/snap");
	for (unsigned s = SNAP_PASSES; s < SNAP_GIVEN_UP; s++) {
		r->snapshot.fsm.state = s;
		check_refused(rig, migrate, "migrate: not while snapshot '/a/snap' is being");
	}
	/* Of one that is given up only the file is still to go. */
	r->snapshot.fsm.state = SNAP_GIVEN_UP;
	r->stopping = true;
	check_refused(rig, migrate, "migrate: the VM is being stopped");
	r->snapshot.fsm.state = SNAP_NONE;
	r->source.ft = r->dest.ft = &r->ft;
	r->source.fsm.state = SRC_PASSES;
	check_refused(rig, snapshot, "snapshot: not while this VM migrates");
	r->source.fsm.state = SRC_IDLE;
	for (unsigned i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
		r->dest.fsm.state = fills[i];
		check_refused(rig, snapshot, "snapshot: not while the VM's memory still comes in");
		check_refused(rig, migrate, "migrate: the VM's memory still comes in");
	}
	r->dest.fsm.state = DST_LISTEN;
	for (unsigned s = LAZY_FILLING; s <= LAZY_LOST; s++) {
		r->lazy.fsm.state = s;
		check_refused(rig, snapshot, "snapshot: not before all memory of the lazy");
		check_refused(rig, migrate, "migrate: not before all memory of the lazy");
	}
}

/* The first sync follows them, too, and the images of the one who comes are marked by then. */
static void snapshot_or_first_sync(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;

	r->has_vm = true;
	r->primary.ft = &r->ft;
	r->ft.cfg = &r->cfg;
	r->ft.cover = FT_DEGRADED;
	for (unsigned s = PRI_HELLO; s <= PRI_HEART; s++) {
		r->primary.fsm.state = s;
		check_refused(rig, "snapshot\",\"file\":\"/no/folder/snap",
			      "snapshot: not while a secondary is joining");
	}
}

/* What waits for memory that will not come is neither stopped nor let go. */
static void memory_is_missing(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;

	r->has_vm = r->waiting = true;
	r->lazy.fsm.state = LAZY_FILLING;
	check_refused(rig, "resume", "resume: not before all memory of the lazy");
	r->lazy.fsm.state = LAZY_LOST;
	r->vm.running = true;
	r->ft.stands = FT_STAND_LOST;
	strcpy(r->ft.note, "it is gone");
	check_refused(rig, "resume", "resume: it is gone");
	check_refused(rig, "pause", "pause: it is gone");
	assert_int_equal(r->ft.stands, FT_STAND_LOST);
}

/* The first resume loads the snapshot's target: what was set before would be lost without a word.
 */
static void a_target_is_for_a_vm_that_has_run(void **state)
{
	static const char set[] = "set\",\"balloon_bytes\":4096,\"id\":\"";
	struct rig *rig = *state;
	struct run *r = rig->r;

	r->has_vm = r->waiting = true;
	strcpy(r->cfg.name, "vm-1");
	r->ft.stands = FT_STAND_USER;
	check_refused(rig, set, "first: ftvmm resume vm-1");
	r->waiting = false;
	check_refused(rig, set, "this VM has no balloon");
}

/* --- the power button ------------------------------------------------------------------------- */

static unsigned pressed;
static bool deaf;

bool __wrap_vm_power_button(struct vm *vm);
bool __wrap_vm_power_button(struct vm *vm)
{
	pressed++;
	return !deaf;
}

/* The primary runs a guest, and an epoch is under way; the stop is told to it, or it ends. */
static void check_stop(struct rig *rig, bool runs, unsigned stands, bool hears)
{
	struct run *r = rig->r;

	pressed = 0;
	r->has_vm = true;
	r->vm.running = runs;
	r->ft.stands = stands;
	assert_string_equal(rig_ask(rig, "stop"), "{\"ok\":{}}\n");
	assert_int_equal(pressed, hears);
	assert_int_equal(r->stopping, hears);
	assert_int_equal(r->over, !hears);
	/* A second one does not wait for the guest. */
	if (hears)
		assert_string_equal(rig_ask(rig, "stop"), "{\"ok\":{}}\n");
	assert_true(r->over);
	assert_int_equal(pressed, hears);
	loop_timer_del(&r->loop, &r->stop_op);
	r->over = r->stopping = r->loop.stop = false;
}

/* A VM that stands while an epoch is captured in turns goes on, and hears it then. */
static void a_stop_presses_the_power_button(void **state)
{
	check_stop(*state, true, 0, true);
	check_stop(*state, false, FT_STAND_SEAL, true);
	check_stop(*state, false, FT_STAND_MOVE, true);
	check_stop(*state, false, FT_STAND_SEAL | FT_STAND_MOVE, true);
	check_stop(*state, false, FT_STAND_MOVE | FT_STAND_USER, false);
	check_stop(*state, false, FT_STAND_SWITCH, true);
	check_stop(*state, false, FT_STAND_USER, false);
	check_stop(*state, false, FT_STAND_SEAL | FT_STAND_USER, false);
	check_stop(*state, false, FT_STAND_SEAL | FT_STAND_END, false);
	check_stop(*state, false, FT_STAND_CLAIM, false);
	check_stop(*state, true, FT_STAND_LOST, false);
}

/* Whoever stops a guest hears that it did not end itself: in the answer, or behind it. */
static void a_stop_says_that_it_was_forced(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;

	r->has_vm = true;
	r->vm.running = true;
	r->ft.stands = 0;
	deaf = true;
	assert_string_equal(rig_ask(rig, "stop"),
			    "{\"ok\":{\"forced\":\"the guest does not listen to its power "
			    "button\"}}\n");
	assert_true(r->over);
	deaf = false;
	r->over = r->loop.stop = false;
	assert_string_equal(rig_ask(rig, "stop\",\"timeout_ns\":1000000000,\"id\":\"y"),
			    "{\"id\":\"y\",\"ok\":{}}\n");
	assert_true(r->stopping);
	loop_timer_set(&r->loop, &r->stop_op, 0);
	assert_non_null(strstr(rig_hear(rig),
			       "{\"event\":\"stop-forced\",\"why\":\"the guest did not switch "
			       "itself off in time\""));
	assert_true(r->over);
	r->over = r->stopping = r->loop.stop = false;
}

static uint64_t now_ns;

static uint64_t stepped(void)
{
	return now_ns;
}

/* What is left to do then, as the secondary's images take what waits, may be long. */
static void a_guest_that_ended_in_time_is_not_forced(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;

	now_ns = loop_now_ns();
	r->loop.clock = stepped;
	r->has_vm = r->vm.running = true;
	run_end_watch(r);
	assert_string_equal(rig_ask(rig, "stop\",\"timeout_ns\":5000000000,\"id\":\"y"),
			    "{\"id\":\"y\",\"ok\":{}}\n");
	r->vm.ending = (struct vm_ending){.end = VM_END_EXIT, .code = 7};
	r->vm.watch.on_end(r);
	assert_true(r->over);
	assert_int_equal(r->exit_code, 7);
	r->over = r->loop.stop = false;
	now_ns += 6000000000ull;
	assert_string_equal(rig_hear(rig), "");
	assert_false(r->over);
}

/* --- what bash makes of it ---------------------------------------------------------------------
 */

/* What _ftvmm() says for these words, the last one as far as it is typed; a space behind each. */
static const char *bash(const char *words)
{
	char self[300] = "", cmd[2000];
	size_t n;
	FILE *f;

	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	snprintf(cmd, sizeof(cmd),
		 "bash -c '. <(%s completion bash); COMP_WORDS=(ftvmm %s); "
		 "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _ftvmm %s; printf \"%%s \" "
		 "\"${COMPREPLY[@]}\"'",
		 self, words, self);
	f = popen(cmd, "r");
	n = fread(out, 1, sizeof(out) - 1, f);
	out[n] = 0;
	assert_int_equal(pclose(f), 0);
	return strcmp(out, " ") ? out : "";
}

static void bash_completes_commands(void **state)
{
	char want[1000] = "";
	const struct command *c;

	for (unsigned i = 0; (c = command_at(i)); i++)
		sprintf(want + strlen(want), "%s ", c->name);
	assert_string_equal(bash("\"\""), want);
	assert_string_equal(bash("st"), "status stop ");
	assert_string_equal(bash("frob"), "");
	assert_string_equal(bash("frobnicate \"\""), "");
	assert_string_equal(bash("completion \"\""), "bash ");
}

static void bash_completes_names_and_arguments(void **state)
{
	struct rig *rig = *state;
	struct sockaddr_un sa;
	char other[200];
	int fd;

	assert_int_equal(ctl_sock_addr("web_2", &sa, NULL), 0);
	fd = ctl_sock_listen(&sa, 1, NULL);
	assert_true(fd >= 0);
	snprintf(other, sizeof(other), "%s/ftvmm/vm-1.console", rig->dir);
	close(creat(other, 0600));
	for (const char *const *c = (const char *const[]){"status", "stop", "console", NULL}; *c;
	     c++) {
		char words[100];

		snprintf(words, sizeof(words), "%s \"\"", *c);
		bash(words);
		if (strcmp(out, "vm-1 web_2 "))
			assert_string_equal(out, "web_2 vm-1 ");
	}
	close(fd);
	assert_string_equal(bash("stop w"), "web_2 ");
	assert_string_equal(bash("run v"), "");
	assert_string_equal(bash("stop web_2 \"\""), "timeout= ");
	assert_string_equal(bash("set web_2 \"\""),
			    "ft= epoch= output-limit= peer= balloon= limit=id= ");
	assert_string_equal(bash("set web_2 b"), "balloon= ");
	assert_string_equal(bash("stop web_2 -"), "--json ");
	assert_string_equal(bash("status -"), "--json ");
	assert_string_equal(bash("wait web_2 S"), "STARTING SYNCING STOPPED ");
	assert_string_equal(bash("wait web_2 FENCED,D"), "FENCED,DEGRADED ");
	assert_string_equal(bash("wait web_2 -"), "--timeout --json ");
	assert_string_equal(bash("wait web_2 FENCED \"\""), "");
	assert_string_equal(bash("trial \"\""), "shell run tmux end ");
	assert_string_equal(bash("trial -"), "--name ");
	assert_string_equal(bash("trial --name x e"), "end ");
	assert_string_equal(bash("trial shell \"\""), "A B client ");
	assert_string_equal(bash("trial run c"), "client ");
	/* A file's name belongs here. */
	assert_string_equal(bash("snapshot web_2 \"\""), "");
	assert_string_equal(bash("snapshot web_2 x \"\""), "staging= arrived ");
}

static void bash_completes_options_of_run(void **state)
{
	const struct option_table *t = config_options();
	char want[2000] = "";

	for (unsigned i = 0; i < t->n; i++)
		sprintf(want + strlen(want), "--%s ", t->rows[i].name);
	assert_string_equal(bash("run -"), want);
	assert_string_equal(bash("run --secondary --"), want);
	assert_string_equal(bash("run -m 64M --cpu"), "--cpus --cpu ");
	assert_string_equal(bash("run --cpu \"\""), "host x86-64-v1 x86-64-v2 x86-64-v3 ");
	assert_string_equal(bash("run --ft \"\""), "mc kemari auto colo ");
	assert_string_equal(bash("run --console s"), "stdio ");
	assert_string_equal(bash("run --arbiter \"\""), "none file: etcd: exec: ");
	assert_string_equal(bash("run -k -"), "");
	assert_string_equal(bash("run \"\""), "");
}

static void other_shells_are_refused(void **state)
{
	assert_int_equal(say("completion"), EXIT_USAGE);
	assert_int_equal(say("completion zsh"), EXIT_USAGE);
	assert_string_equal(out, "ftvmm: completion: for which shell? There is bash\n");
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_are_whole),
		cmocka_unit_test(help_lists_each),
		cmocka_unit_test(help_explains_options),
		T(vm_serves_what_the_table_says),
		T(each_is_served_by_its_own),
		T(ended_vm_shows_status_and_events),
		T(status_says_how_images_are),
		T(events_begin_with_the_state),
		T(status_says_what_is_behind),
		T(status_says_how_far_a_sync_is),
		T(status_names_the_holder),
		T(resume_is_not_for_the_arbiters_silence),
		T(snapshot_or_migration),
		T(snapshot_or_first_sync),
		T(memory_is_missing),
		T(a_target_is_for_a_vm_that_has_run),
		T(a_stop_presses_the_power_button),
		T(a_stop_says_that_it_was_forced),
		T(a_guest_that_ended_in_time_is_not_forced),
		cmocka_unit_test(bash_completes_commands),
		T(bash_completes_names_and_arguments),
		cmocka_unit_test(bash_completes_options_of_run),
		cmocka_unit_test(other_shells_are_refused),
	};

	/* The function for bash calls the program. */
	if (argc > 1)
		return command_main(argc, argv);
	return cmocka_run_group_tests_name("command", tests, NULL, NULL);
}
