/* `ftvmm dump`: every field of every table is shown, and what differs is, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libcommand.h"
#include "tests/unit/libwire.h"
#include "vmm/base/log.h"
#include "vmm/cli/command.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/machine/fdt.h"
#include "vmm/machine/state_wire.h"
#include "vmm/vm/vm_view.h"

#define OUT_MAX (16u << 20)

static char *out, folder[] = "/tmp/ftvmm-dump-XXXXXX";
static uint8_t fdt[FDT_MAX_BYTES];
static int64_t fdt_len;
static struct vm_view here; /* the state that is dumped: random, within all limits */
static uint8_t *blob;	    /* and encoded */
static size_t blob_len;
static uint64_t seed = 0x9e3779b97f4a7c15ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* --- a state of every device ------------------------------------------------------------------ */

static void make_machine(struct machine *m)
{
	static const enum mdev_kind kinds[] = {MDEV_BLK, MDEV_NET,     MDEV_CONSOLE,
					       MDEV_RNG, MDEV_BALLOON, MDEV_VSOCK};

	memset(m, 0, sizeof(*m));
	strcpy(m->name, "vm");
	m->mem_bytes = 2 << 20;
	m->vcpus = 2;
	m->tsc_khz = 2000000;
	m->ncpuid = 3;
	m->cpuid[1].function = 1;
	m->cpuid[2] = (struct machine_cpuid){.function = 0xd, .flags = 1, .eax = 7};
	m->ndevs = sizeof(kinds) / sizeof(kinds[0]);
	for (unsigned i = 0; i < m->ndevs; i++) {
		m->devs[i] = (struct mdev){.kind = kinds[i],
					   .gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP,
					   .gsi = MACHINE_GSI_BASE + i};
		sprintf(m->devs[i].id, "d%u", i);
	}
	m->devs[0].queues = m->devs[1].queues = 1;
	m->devs[0].bytes = 65536;
	m->devs[0].ft = DISK_FT_MIRROR;
	m->devs[1].mac[0] = 2;
	m->devs[5].cid = 3;
}

static bool fits(const struct state_item *it)
{
	if (it->desc == &vcpu_state_desc && vcpu_state_fits(it->pod, &here.machine, NULL))
		return false;
	return !it->desc->check || !it->desc->check(it->pod, NULL);
}

static void chip_ids(struct vm_chips *chips)
{
	chips->pic[0].chip_id = KVM_IRQCHIP_PIC_MASTER;
	chips->pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	chips->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
}

/* Random, unless the fields would not fit each other then. */
static void draw(const struct state_item *it, const struct field *f, uint8_t *p)
{
	uint8_t was[8192];
	uint64_t max = f->max ? f->max : UINT64_MAX, v;

	assert_true(f->size <= sizeof(was));
	memcpy(was, p, f->size);
	for (uint32_t i = 0; i < f->size; i++)
		p[i] = (uint8_t)next_random();
	if (state_is_int(f)) {
		v = state_get_int(p, f->size);
		if (max - f->min != UINT64_MAX)
			v = f->min + v % (max - f->min + 1);
		memcpy(p, &v, f->size);
	}
	if (!strcmp(f->name, "xsave")) /* what is there, and the guest's CPUID must offer */
		memset(p + 512, 0, 8);
	if (it->desc == &vm_chips_desc)
		chip_ids(it->pod);
	if (!fits(it))
		memcpy(p, was, f->size);
}

static void fill(const struct state_item *it, const struct field *f, unsigned n, uint8_t *pod)
{
	for (const struct field *last = f + n; f < last; f++) {
		uint32_t count = 1, was;

		if (f->type == FIELD_ARRAY) {
			was = state_get_count(f, pod);
			count = 1 +
				(uint32_t)(next_random() % (f->max_count < 4 ? f->max_count : 4));
			memcpy(pod + f->count_offset, &count, 4);
			if (!fits(it))
				memcpy(pod + f->count_offset, &was, 4);
			count = state_get_count(f, pod);
		}
		for (uint32_t i = 0; i < count; i++) {
			uint8_t *p = pod + f->offset + (size_t)i * f->size;

			if (f->sub)
				fill(it, f->sub, f->nsub, p);
			else
				draw(it, f, p);
		}
	}
}

/* The least that a table's own check asks for. */
static void begin(const struct state_item *it)
{
	struct virtio_state *virtio = it->pod;

	if (it->desc == &vm_chips_desc) {
		chip_ids(it->pod);
	} else if (it->desc == &vcpu_state_desc) {
		((struct vcpu_state *)it->pod)->xcr0 = 1;
	} else if (!strncmp(it->desc->name, "virtio-", 7)) {
		while (!fits(it) && virtio->nqueues < VIRTIO_MAX_QUEUES)
			virtio->nqueues++;
	}
	if (!fits(it))
		fail_msg("%s: nothing to begin with", it->desc->name);
}

static int encode(uint8_t *buf, size_t cap)
{
	int64_t n = state_encode_all(here.items, here.nitems, buf, cap);

	assert_true(n > 0);
	return (int)n;
}

static int setup(void **state)
{
	struct machine m;
	struct err e = {0};

	log_init(LOG_ERROR, "test");
	assert_non_null(mkdtemp(folder));
	setenv("XDG_RUNTIME_DIR", folder, 1);
	out = malloc(OUT_MAX);
	make_machine(&m);
	fdt_len = fdt_build(&m, fdt, sizeof(fdt), &e);
	if (fdt_len < 0 || vm_view_init(&here, fdt, (size_t)fdt_len, &e))
		fail_msg("%s", e.msg);
	blob = malloc(state_bound_all(here.items, here.nitems));
	for (unsigned i = 0; i < here.nitems; i++) {
		const struct state_item *it = &here.items[i];

		begin(it);
		fill(it, it->desc->fields, it->desc->nfields, it->pod);
	}
	blob_len = (size_t)encode(blob, state_bound_all(here.items, here.nitems));
	return 0;
}

static int teardown(void **state)
{
	char cmd[64];

	vm_view_done(&here);
	free(blob);
	free(out);
	snprintf(cmd, sizeof(cmd), "rm -r %s", folder);
	return system(cmd);
}

/* --- files ------------------------------------------------------------------------------------ */

static void write_wire(const char *name, struct wire *w)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, w->p, w->len), w->len);
	close(fd);
	wire_free(w);
}

static void begin_file(struct wire *w)
{
	*w = (struct wire){0};
	wire_preface(w, STREAM_VERSION, STREAM_FILE, WIRE_SESSION);
	wire_frame(w, FRAME_HELLO, fdt, (size_t)fdt_len);
}

static void write_snapshot(const char *name, const void *state, size_t len)
{
	struct wire w;

	begin_file(&w);
	wire_frame(&w, FRAME_STATE, state, len);
	wire_frame(&w, FRAME_BYE, NULL, 0);
	write_wire(name, &w);
}

/* Its exit code; %s is the folder, each time. */
static int say(const char *words)
{
	char line[400];

	snprintf(line, sizeof(line), words, folder, folder);
	return command_says(line, out, OUT_MAX);
}

/* --- every field ------------------------------------------------------------------------------ */

typedef void leaf_fn(const struct state_item *it, const struct field *f, const char *path,
		     uint8_t *p, const json_t *json);

/* Each int and each run of bytes there is, by its path below the item. */
static void each_leaf(const struct state_item *it, const struct field *f, unsigned n, uint8_t *pod,
		      const char *prefix, const json_t *json, leaf_fn *fn)
{
	char path[160];

	for (const struct field *last = f + n; f < last; f++) {
		const json_t *value = json_object_get(json, f->name);
		uint32_t count = f->type == FIELD_ARRAY ? state_get_count(f, pod) : 1;

		if (json && f->type == FIELD_ARRAY)
			assert_int_equal(json_array_size(value), count);
		for (uint32_t i = 0; i < count; i++) {
			uint8_t *p = pod + f->offset + (size_t)i * f->size;

			snprintf(path, sizeof(path), f->type == FIELD_ARRAY ? "%s.%s[%u]" : "%s.%s",
				 prefix, f->name, i);
			if (!f->sub)
				fn(it, f, path, p, value);
			else
				each_leaf(it, f->sub, f->nsub, p, path,
					  f->type == FIELD_ARRAY ? json_array_get(value, i) : value,
					  fn);
		}
	}
}

static unsigned leaves;

static void all_leaves(const json_t *json, leaf_fn *fn)
{
	leaves = 0;
	for (unsigned i = 0; i < here.nitems; i++) {
		const struct state_item *it = &here.items[i];
		char name[64];

		snprintf(name, sizeof(name), "%s[%u]", it->desc->name, it->instance);
		each_leaf(it, it->desc->fields, it->desc->nfields, it->pod, name,
			  json ? json_object_get(json, name) : NULL, fn);
	}
	assert_true(leaves > 500);
}

static void is_a_line(const struct state_item *it, const struct field *f, const char *path,
		      uint8_t *p, const json_t *json)
{
	unsigned long long v = state_is_int(f) ? state_get_int(p, f->size) : 0;
	char want[300];

	if (!state_is_int(f))
		snprintf(want, sizeof(want),
			 f->size > 16 ? "\n%s[0x0..0xf] = %02x " : "\n%s = %02x", path, p[0]);
	else if (v < 10)
		snprintf(want, sizeof(want), "\n%s = %llu\n", path, v);
	else
		snprintf(want, sizeof(want), "\n%s = %llu (0x%llx)\n", path, v, v);
	if (!strstr(out, want))
		fail_msg("not there: %s", want);
	leaves++;
}

static void is_a_value(const struct state_item *it, const struct field *f, const char *path,
		       uint8_t *p, const json_t *json)
{
	const char *text = json_string_value(json);

	leaves++;
	if (state_is_int(f) && f->size < 8) {
		assert_true(json_is_integer(json));
		assert_int_equal(json_integer_value(json), state_get_int(p, f->size));
		return;
	}
	assert_non_null(text);
	if (state_is_int(f)) {
		assert_int_equal(strtoull(text, NULL, 16), state_get_int(p, f->size));
		return;
	}
	assert_int_equal(strlen(text), 2 * f->size);
	for (uint32_t i = 0; i < f->size; i++) {
		char two[3] = {text[2 * i], text[2 * i + 1], 0};

		assert_int_equal(strtoul(two, NULL, 16), p[i]);
	}
}

static void check_dump(const char *of)
{
	char line[100];
	json_t *all, *of_machine;

	snprintf(line, sizeof(line), "dump %s", of);
	if (say(line) != EXIT_DONE)
		fail_msg("%s", out);
	memmove(out + 1, out, strlen(out) + 1);
	out[0] = '\n';
	all_leaves(NULL, is_a_line);
	assert_non_null(strstr(out, "\n# virtio-blk[7]: d0\nvirtio-blk[7].common.status = "));
	strcat(line, " --json");
	assert_int_equal(say(line), EXIT_DONE);
	assert_int_equal(strchr(out, '\n') - out, strlen(out) - 1); /* one line */
	all = json_loads(out, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(all);
	all_leaves(json_object_get(all, "state"), is_a_value);
	assert_int_equal(json_object_size(json_object_get(all, "state")), here.nitems);
	of_machine = json_object_get(all, "machine");
	assert_string_equal(json_string_value(json_object_get(of_machine, "name")), "vm");
	assert_int_equal(json_integer_value(json_object_get(of_machine, "mem_bytes")), 2 << 20);
	assert_string_equal(json_string_value(json_object_get(json_object_get(of_machine, "ids"),
							      "virtio-vsock[12]")),
			    "d5");
	json_decref(all);
}

static void a_file_is_shown_field_by_field(void **state)
{
	write_snapshot("snap", blob, blob_len);
	check_dump("%s/snap");
}

/* A name that no VM has is a file in the working folder. */
static void a_file_needs_no_slash(void **state)
{
	char cwd[256];

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(folder), 0);
	check_dump("snap");
	assert_int_equal(say("dump nosuch"), EXIT_USAGE);
	assert_non_null(strstr(out, "'nosuch' is no file either: no VM named 'nosuch' runs here"));
	assert_int_equal(chdir(cwd), 0);
}

/* --- what differs ----------------------------------------------------------------------------- */

static struct {
	unsigned n;
	char path[200], a[40], b[40];
} told;

static void differs(void *arg, const char *path, const char *a, const char *b)
{
	told.n++;
	snprintf(told.path, sizeof(told.path), "%s", path);
	snprintf(told.a, sizeof(told.a), "%s", a);
	snprintf(told.b, sizeof(told.b), "%s", b);
}

static void change_is_told(const struct state_item *it, const struct field *f, const char *path,
			   uint8_t *p, const json_t *json)
{
	uint32_t at = (uint32_t)(next_random() % f->size);
	uint8_t *same = malloc(it->desc->size);
	char want[300];

	memcpy(same, it->pod, it->desc->size);
	told.n = 0;
	assert_int_equal(state_compare(it->desc, it->pod, same, differs, NULL), 0);
	p[at] ^= 0x55;
	assert_int_equal(state_compare(it->desc, it->pod, same, differs, NULL), 1);
	assert_int_equal(told.n, 1);
	p[at] ^= 0x55;
	path = strchr(path, '.') + 1; /* below the item */
	at &= ~15u;
	if (f->type == FIELD_BYTES && f->size > 16)
		snprintf(want, sizeof(want), "%s[%#x..%#x]", path, at,
			 (at + 16 < f->size ? at + 16 : f->size) - 1);
	else
		snprintf(want, sizeof(want), "%s", path);
	assert_string_equal(told.path, want);
	snprintf(want, sizeof(want), "%#llx", (unsigned long long)state_get_int(p, f->size));
	if (state_is_int(f))
		assert_string_equal(told.b, want);
	assert_string_not_equal(told.a, told.b);
	free(same);
	leaves++;
}

static void every_change_is_told(void **state)
{
	all_leaves(NULL, change_is_told);
}

static void is_whole(void *arg, const char *path, const char *a, const char *b)
{
	assert_string_equal(arg ? a : b, "-");
	assert_string_not_equal(arg ? b : a, "-");
}

/* What one side alone has is told whole. */
static void an_element_more_is_told(void **state)
{
	struct virtio_state *s = NULL;
	struct state_item *it = NULL;
	unsigned told_whole;
	char path[40];
	uint8_t *same;

	for (unsigned i = 0; i < here.nitems; i++)
		if (!strcmp(here.items[i].desc->name, "virtio-blk"))
			it = &here.items[i];
	assert_non_null(it);
	s = it->pod;
	same = malloc(it->desc->size);
	memcpy(same, s, it->desc->size);
	s->nqueues++;
	told.n = 0;
	assert_true(state_compare(it->desc, same, s, differs, NULL) > 5);
	assert_string_equal(told.a, "-");
	s->nqueues--;
	snprintf(path, sizeof(path), "common.queues[%u].", s->nqueues);
	assert_memory_equal(told.path, path, strlen(path));
	told_whole = state_compare(it->desc, NULL, s, is_whole, s);
	assert_true(told_whole > 10);
	assert_int_equal(state_compare(it->desc, s, NULL, is_whole, NULL), told_whole);
	free(same);
}

static void two_files_are_compared(void **state)
{
	struct vm_chips *chips = here.items[0].pod;
	struct vcpu_state *vcpu = here.items[3].pod;
	uint8_t *other = malloc(blob_len + 64);
	char want[400];
	json_t *all, *one;

	chips->clock_ns++;
	vcpu->regs.rip ^= 1;
	write_snapshot("other", other, (size_t)encode(other, blob_len + 64));
	chips->clock_ns--;
	vcpu->regs.rip ^= 1;
	assert_int_equal(say("dump --diff %s/snap %s/other"), EXIT_DIFFERS);
	snprintf(want, sizeof(want),
		 "chips[0] clock_ns: %#llx %#llx\nvcpu[1] regs.rip: %#llx %#llx\n",
		 (unsigned long long)chips->clock_ns, (unsigned long long)chips->clock_ns + 1,
		 (unsigned long long)vcpu->regs.rip, (unsigned long long)(vcpu->regs.rip ^ 1));
	assert_string_equal(out, want);
	assert_int_equal(say("dump %s/snap --json %s/other --diff"), EXIT_DIFFERS);
	all = json_loads(out, 0, NULL);
	assert_int_equal(json_array_size(json_object_get(all, "differences")), 2);
	one = json_array_get(json_object_get(all, "differences"), 1);
	assert_string_equal(json_string_value(json_object_get(one, "device")), "vcpu[1]");
	assert_string_equal(json_string_value(json_object_get(one, "field")), "regs.rip");
	assert_int_equal(strtoull(json_string_value(json_object_get(one, "a")), NULL, 16),
			 vcpu->regs.rip);
	json_decref(all);
	assert_int_equal(say("dump --diff %s/snap %s/snap"), EXIT_DONE);
	assert_string_equal(out, "");
	assert_int_equal(say("dump --json --diff %s/snap %s/snap"), EXIT_DONE);
	assert_string_equal(out, "{\"differences\":[]}\n");
	free(other);
}

/* --- what cannot be shown --------------------------------------------------------------------- */

static void check_damage(struct wire *w, const char *why)
{
	char want[300];

	write_wire("bad", w);
	assert_int_equal(say("dump %s/bad"), EXIT_FAILED);
	snprintf(want, sizeof(want), "ftvmm: snapshot '%s/bad': %s", folder, why);
	if (strncmp(out, want, strlen(want)))
		fail_msg("not '%s': %s", want, out);
	assert_int_equal(say("dump --diff %s/snap %s/bad"), EXIT_FAILED);
}

static void damage_is_named(void **state)
{
	struct wire w;
	uint8_t *bad = malloc(blob_len);
	char why[200];

	begin_file(&w);
	check_damage(&w, "file ends too early");
	begin_file(&w);
	wire_frame(&w, FRAME_BYE, NULL, 0);
	check_damage(&w, "no device state");
	begin_file(&w);
	wire_frame(&w, FRAME_STATE, blob, blob_len);
	wire_frame(&w, FRAME_PAGES, NULL, 0);
	check_damage(&w, "pages where it does not belong");
	begin_file(&w);
	wire_frame(&w, FRAME_STATE, blob, blob_len - 1);
	wire_frame(&w, FRAME_BYE, NULL, 0);
	snprintf(why, sizeof(why), "%s[12]: truncated", here.items[here.nitems - 1].desc->name);
	check_damage(&w, why);
	/* What every device must be, by its table. */
	memcpy(bad, blob, blob_len);
	bad[12 + 2] ^= 0xff; /* the type of the first field */
	begin_file(&w);
	wire_frame(&w, FRAME_STATE, bad, blob_len);
	wire_frame(&w, FRAME_BYE, NULL, 0);
	check_damage(&w, "chips[0].pic: type ");
	/* And by the machine. */
	((struct vcpu_state *)here.items[2].pod)->xcr0 |= 1ull << 40;
	begin_file(&w);
	wire_frame(&w, FRAME_STATE, bad, (size_t)encode(bad, blob_len));
	wire_frame(&w, FRAME_BYE, NULL, 0);
	((struct vcpu_state *)here.items[2].pod)->xcr0 &= ~(1ull << 40);
	check_damage(&w, "vcpu: XCR0 0x1");
	begin_file(&w);
	w.p[w.len - 1] ^= 1;
	check_damage(&w, "");
	free(bad);
}

static void words_are_checked(void **state)
{
	static const struct {
		const char *line, *why;
	} cases[] = {
		{"dump", "the name of the VM is missing"},
		{"dump --frob x", "unknown option --frob"},
		{"dump a b", "two are for --diff"},
		{"dump --diff a", "--diff takes two of them"},
		{"dump --diff a b c", "too many arguments"},
		{"dump /no/such/file", "/no/such/file"},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(say(cases[i].line), EXIT_USAGE);
		if (!strstr(out, cases[i].why))
			fail_msg("not '%s': %s", cases[i].why, out);
	}
}

/* --- a VM that runs --------------------------------------------------------------------------- */

static struct run *new_run(void)
{
	struct run *r = calloc(1, sizeof(*r));

	fake_vm_reset();
	r->has_vm = true;
	r->vm.machine = here.machine;
	memcpy(r->vm.state.items, here.items, sizeof(here.items));
	r->vm.state.nitems = here.nitems;
	return r;
}

/* A VM that is asked runs in a process of its own, as the client waits for it. */
static pid_t serve(const char *name)
{
	int ready[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		struct run *r = new_run();

		if (loop_init(&r->loop, NULL) ||
		    ctl_open(&r->ctl, &r->loop, name, run_command, r, NULL) ||
		    write(ready[1], "", 1) != 1)
			_exit(1);
		alarm(60);
		while (!loop_run_once(&r->loop, 1000000000ull))
			;
		_exit(1);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void a_vm_is_shown_field_by_field(void **state)
{
	pid_t pid = serve("web");

	check_dump("web");
	assert_int_equal(say("dump --diff %s/snap web"), EXIT_DONE);
	assert_int_equal(say("dump --diff web %s/other"), EXIT_DIFFERS);
	assert_non_null(strstr(out, "vcpu[1] regs.rip: "));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static json_t *ask(struct run *r, const char *request, struct err *e)
{
	json_t *q = json_loads(request, 0, NULL), *answer;

	*e = (struct err){0};
	assert_non_null(q);
	answer = serve_dump(r, q, e);
	json_decref(q);
	return answer;
}

static void refused(struct run *r, const char *request, const char *why)
{
	struct err e;

	assert_null(ask(r, request, &e));
	if (!strstr(e.msg, why))
		fail_msg("not '%s': %s", why, e.msg);
}

/* All elements of all arrays. */
static void fill_arrays(const struct field *f, unsigned n, uint8_t *pod)
{
	for (const struct field *last = f + n; f < last; f++) {
		uint32_t count = f->type == FIELD_ARRAY ? f->max_count : 1;

		if (f->type == FIELD_ARRAY)
			memcpy(pod + f->count_offset, &count, 4);
		for (uint32_t i = 0; f->sub && i < count; i++)
			fill_arrays(f->sub, f->nsub, pod + f->offset + (size_t)i * f->size);
	}
}

/* Of the kind whose state is largest, but for one: the network that has the connections. */
static void the_largest_vm_fits_into_an_answer(void **state)
{
	struct run *r = new_run();
	struct machine *m = &r->vm.machine;
	struct vm_state *s = &r->vm.state;
	struct err e;
	json_t *answer;

	m->vcpus = MACHINE_MAX_VCPUS;
	m->ncpuid = MACHINE_MAX_CPUID;
	m->ndevs = MACHINE_MAX_DEVS;
	memset(m->name, 'n', sizeof(m->name) - 1);
	memset(m->cmdline, 'c', sizeof(m->cmdline) - 1);
	for (unsigned i = 0; i < m->ndevs; i++) {
		m->devs[i] = m->devs[0];
		memset(m->devs[i].id, 'i', sizeof(m->devs[i].id) - 1);
	}
	m->devs[m->ndevs - 1].kind = MDEV_NET;
	s->nitems = vm_state_list(m, s->items);
	assert_int_equal(s->nitems, VM_MAX_ITEMS);
	assert_int_equal(vm_state_pods(s->items, s->nitems), 0);
	for (unsigned i = 0; i < s->nitems; i++)
		fill_arrays(s->items[i].desc->fields, s->items[i].desc->nfields, s->items[i].pod);
	r->vm.running = true;
	answer = ask(r, "{}", &e);
	if (!answer)
		fail_msg("%s", e.msg);
	assert_true(r->vm.running);
	assert_true(strlen(json_string_value(json_object_get(answer, "state"))) > 200000);
	assert_true(json_dumpb(answer, NULL, 0, JSON_COMPACT) + 64 < CTL_CLIENT_MAX);
	json_decref(answer);
	for (unsigned i = 0; i < s->nitems; i++)
		free(s->items[i].pod);
	free(r);
}

static void a_vm_is_not_always_shown(void **state)
{
	struct run *r = new_run();

	r->has_vm = false;
	refused(r, "{}", "this side does not run the VM");
	r->has_vm = true;
	r->vm.running = true;
	r->source.ft = r->dest.ft = &r->ft;
	r->dest.fsm.state = DST_FILL;
	refused(r, "{}", "not while the VM's memory still comes in");
	r->dest.fsm.state = DST_LISTEN;
	r->lazy.fsm.state = LAZY_FILLING;
	refused(r, "{}", "not while the VM's memory still comes in");
	r->lazy.fsm.state = LAZY_NONE;
	fake_vm.pause_error = -ETIMEDOUT;
	refused(r, "{}", "dump: vCPUs: only 0 of 1 stopped");
	assert_true(r->vm.running);
	fake_vm.pause_error = 0;
	fake_vm.save_error = -ERANGE;
	refused(r, "{}", "dump: state: ");
	assert_true(r->vm.running);
	fake_vm.save_error = 0;
	r->vm.running = false;
	json_decref(ask(r, "{}", &(struct err){0}));
	assert_false(r->vm.running);
	free(r);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_shown_field_by_field),
		cmocka_unit_test(a_file_needs_no_slash),
		cmocka_unit_test(every_change_is_told),
		cmocka_unit_test(an_element_more_is_told),
		cmocka_unit_test(two_files_are_compared),
		cmocka_unit_test(damage_is_named),
		cmocka_unit_test(words_are_checked),
		cmocka_unit_test(a_vm_is_shown_field_by_field),
		cmocka_unit_test(the_largest_vm_fits_into_an_answer),
		cmocka_unit_test(a_vm_is_not_always_shown),
	};

	return cmocka_run_group_tests_name("dump", tests, setup, teardown);
}
