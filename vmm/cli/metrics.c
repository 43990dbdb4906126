#include "vmm/cli/metrics.h"

#include <string.h>

#include "ft/common/ft.h"
#include "ft/epoch/lockstep.h"

/* --- a sample --------------------------------------------------------------------------------- */

/* A label's value may be anything that another process says. */
static void print_label(FILE *to, const char *name, const char *value, const char *before)
{
	fprintf(to, "%s%s=\"", before, name);
	for (const char *p = value ? value : ""; *p; p++) {
		if (*p == '\n')
			fputs("\\n", to);
		else if (*p == '"' || *p == '\\')
			fprintf(to, "\\%c", *p);
		else
			putc(*p, to);
	}
	putc('"', to);
}

/* Name and labels; suffix and label may be NULL. */
static void begin(FILE *to, const struct metric *m, const struct vm_status *vm, const char *suffix,
		  const char *label, const char *value)
{
	char name[96];

	metrics_sample_name(m, name, sizeof(name));
	fprintf(to, "%s%s", name, suffix ? suffix : "");
	print_label(to, "vm", vm->name, "{");
	if (label)
		print_label(to, label, value, ",");
	fputs("} ", to);
}

static json_t *find(const struct vm_status *vm, const char *path)
{
	json_t *o = vm->answers ? vm->status : NULL;
	char key[64];

	while (o && path) {
		size_t n = strcspn(path, ".");

		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		o = json_object_get(o, key);
		path = path[n] ? path + n + 1 : NULL;
	}
	return o;
}

static void print_value(FILE *to, const struct metric *m, json_t *value)
{
	if (json_is_boolean(value))
		fprintf(to, "%d\n", json_is_true(value));
	else if (json_is_integer(value) && !m->scale)
		fprintf(to, "%" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
	else
		fprintf(to, "%.15g\n", json_number_value(value) * (m->scale ? m->scale : 1));
}

static void print_numbers(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	for (unsigned i = 0; i < METRICS_VALUES && m->values[i].path; i++) {
		json_t *value = find(vm, m->values[i].path);

		if (!json_is_number(value) && !json_is_boolean(value))
			continue;
		begin(to, m, vm, NULL, m->label, m->values[i].label);
		print_value(to, m, value);
	}
}

/* --- what is no number ------------------------------------------------------------------------ */

static void print_up(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	begin(to, m, vm, NULL, NULL, NULL);
	fprintf(to, "%d\n", vm->answers);
}

/* Of all words one is 1. */
static void print_state(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	const char *is = json_string_value(find(vm, m->values[0].path));

	for (unsigned i = 0; is && ft_word_at(i); i++) {
		begin(to, m, vm, NULL, m->label, ft_word_at(i));
		fprintf(to, "%d\n", !strcmp(is, ft_word_at(i)));
	}
}

static void print_cover(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	const char *is = json_string_value(find(vm, m->values[0].path));

	for (enum ft_cover c = FT_NONE; is && c <= FT_MIGRATED; c++) {
		begin(to, m, vm, NULL, m->label, ft_cover_name(c));
		fprintf(to, "%d\n", !strcmp(is, ft_cover_name(c)));
	}
}

static void print_phase(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	const char *is = json_string_value(find(vm, m->values[0].path));

	for (enum lockstep_state s = LOCKSTEP_OFF; is && s < LOCKSTEP_STATES; s++) {
		begin(to, m, vm, NULL, m->label, lockstep_state_name(s));
		fprintf(to, "%d\n", !strcmp(is, lockstep_state_name(s)));
	}
}

static void print_info(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	if (!vm->answers)
		return;
	fprintf(to, "ftvmm_%s", m->name);
	print_label(to, "vm", vm->name, "{");
	for (unsigned i = 0; i < METRICS_VALUES && m->values[i].path; i++)
		print_label(to, m->values[i].path, json_string_value(find(vm, m->values[i].path)),
			    ",");
	fputs("} 1\n", to);
}

/* An object of numbers: its keys are the label's values. */
static void print_object(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	const char *key;
	json_t *value;

	json_object_foreach(find(vm, m->values[0].path), key, value)
	{
		if (!json_is_number(value))
			continue;
		begin(to, m, vm, NULL, m->label, key);
		print_value(to, m, value);
	}
}

/* In a label: 0.001, 1.0, +Inf. */
static void format_bound(json_t *us, char *ret, size_t cap)
{
	double s = json_number_value(us) / 1e6;

	if (!us)
		snprintf(ret, cap, "+Inf");
	else
		snprintf(ret, cap, s == (double)(long)s ? "%.1f" : "%g", s);
}

static void print_pauses(FILE *to, const struct metric *m, const struct vm_status *vm)
{
	json_t *le = find(vm, "pause_classes.le_us"), *pauses = find(vm, "pause_classes.pauses");
	json_t *part;
	const char *key;
	json_int_t n = 0;
	double sum_us = 0;
	char bound[32];

	for (size_t i = 0; i < json_array_size(pauses); i++) {
		n += json_integer_value(json_array_get(pauses, i));
		format_bound(json_array_get(le, i), bound, sizeof(bound));
		begin(to, m, vm, "_bucket", "le", bound);
		fprintf(to, "%" JSON_INTEGER_FORMAT "\n", n);
	}
	if (!json_array_size(pauses))
		return;
	json_object_foreach(find(vm, "pause_total_us"), key, part) sum_us +=
		json_number_value(part);
	begin(to, m, vm, "_count", NULL, NULL);
	fprintf(to, "%" JSON_INTEGER_FORMAT "\n", n);
	begin(to, m, vm, "_sum", NULL, NULL);
	fprintf(to, "%.15g\n", sum_us / 1e6);
}

/* --- the table -------------------------------------------------------------------------------- */

#define US 1e-6
#define NS 1e-9
#define G  METRIC_GAUGE
#define C  METRIC_COUNTER

/* clang-format off */
static const struct metric table[] = {
	{ "up", G, "", "1: the VM's process answers; 0: it does not", .print = print_up },
	{ "vm_info", G, "", "1; what is said in words", "role, mode, peer, holder",
	  .values = {{"role"}, {"mode"}, {"peer"}, {"holder"}}, .print = print_info },
	{ "ft_state", G, "", "1 for the state it is in", "state", .values = {{"state"}}, .print = print_state },
	{ "ft_cover", G, "", "1 for the state of protection, also of a VM that is paused", "cover",
	  .values = {{"cover"}}, .print = print_cover },
	{ "vm_paused", G, "", "1: paused by a user", .values = {{"paused"}} },
	{ "vm_resets", C, "", "resets by the guest", .values = {{"resets_total"}} },
	{ "disk_errors", C, "", "requests of the guest that an image here failed", .values = {{"disk_errors_total"}} },
	{ "ft_generation", G, "", "the arbiter's number", .values = {{"generation"}} },
	{ "ft_epoch", G, "", "the open epoch, or the last committed one; begins anew with each sync", .values = {{"epoch"}} },
	{ "ft_epochs", C, "", "epochs sealed, or committed", .values = {{"epochs_total"}} },
	{ "ft_seals", C, "", "epochs sealed here, by what for", "why", .values = {{"seals"}}, .print = print_object },
	{ "ft_epoch_interval_seconds", G, "seconds", "--epoch", .scale = NS, .values = {{"epoch_ns"}} },
	{ "ft_pause_seconds", METRIC_HISTOGRAM, "seconds", "how long the vCPUs stood for an epoch", .print = print_pauses },
	{ "ft_pause_part_seconds", C, "seconds", "of that, by what was done", "part", US,
	  .values = {{"pause_total_us.stop", "stop"}, {"pause_total_us.bitmap", "bitmap"},
		     {"pause_total_us.copy", "copy"}, {"pause_total_us.state", "state"}} },
	{ "ft_ack_lag_seconds", METRIC_SUMMARY, "seconds", "seal to ack, of the last 4096 epochs", "quantile", US,
	  .values = {{"ack_lag_us", "0.5"}, {"ack_lag_p99_us", "0.99"}} },
	{ "ft_unacked_seconds", G, "seconds", "since the epoch that awaits its ack was sealed; 0: none does", .scale = US,
	  .values = {{"unacked_us"}} },
	{ "ft_dirty_pages", G, "pages", "in the last epoch", .values = {{"dirty_pages"}} },
	{ "ft_sent_pages", C, "pages", "sent in epochs", .values = {{"pages_total"}} },
	{ "ft_sent_bytes", C, "bytes", "sent for these", .values = {{"page_bytes_total"}} },
	{ "ft_hot_pages", C, "pages", "of these pages: found by comparison, without a fault of the guest", .values = {{"hot_pages_total"}} },
	{ "ft_send_seconds", C, "seconds", "the sender's time for epochs: encoding and writing", .scale = US,
	  .values = {{"send_total_us"}} },
	{ "ft_acked_seconds", C, "seconds", "seal to ack, of all epochs", .scale = US, .values = {{"ack_total_us"}} },
	{ "ft_sync_pages", C, "pages", "sent in first syncs", .values = {{"sync_pages"}} },
	{ "ft_sync_bytes", C, "bytes", "sent in first syncs, memory and disks", .values = {{"sync_bytes"}} },
	{ "ft_throttled", C, "", "captures that had to wait for staging", .values = {{"throttled_total"}} },
	{ "ft_staging_pages", G, "pages", "--staging", .values = {{"staging_pages"}} },
	{ "ft_staging_used_pages", G, "pages", "of that in use", .values = {{"staging_used_pages"}} },
	{ "ft_disklog_bytes", G, "bytes", "disk writes that await their ack", .values = {{"disklog_bytes"}} },
	{ "ft_images_behind", G, "", "1: after a takeover, the images here lack acknowledged writes", .values = {{"images_behind"}} },
	{ "ft_images_behind_bytes", G, "bytes", "acknowledged writes that are not in the images here yet",
	  .values = {{"images_behind_bytes"}} },
	{ "ft_images_differ", G, "", "1: an image here failed, and the other side's may differ from it until the next sync", .values = {{"images_differ"}} },
	{ "ft_images_failed", G, "", "1: an image here did not take a write", .values = {{"images_failed"}} },
	{ "ft_verify_failures", C, "", "differences that --verify found here", .values = {{"verify_failures_total"}} },
	{ "ft_takeover_seconds", G, "seconds", "loss noticed to the first vCPU let go, of the takeover here", .scale = US,
	  .values = {{"takeover_us"}} },
	{ "ft_output_held_packets", G, "packets", "outputs that wait for an ack", .values = {{"held_packets"}} },
	{ "ft_output_held_bytes", G, "bytes", "of these", .values = {{"held_bytes"}} },
	{ "ft_output_limit_bytes", G, "bytes", "--output-limit", .values = {{"output_limit_bytes"}} },
	{ "ft_output_released_packets", C, "packets", "outputs let go", .values = {{"released_packets_total"}} },
	{ "ft_output_dropped_packets", C, "packets", "outputs dropped", .values = {{"dropped_packets_total"}} },
	{ "ft_twin_phase", G, "", "1 for what the other side's guest does, with --ft colo", "phase",
	  .values = {{"twin.phase"}}, .print = print_phase },
	{ "ft_twin_checkpoints", C, "", "epochs from which the other guest was to run", .values = {{"twin.checkpoints_total"}} },
	{ "ft_twin_input_packets", C, "packets", "frames that the other guest was given, too", .values = {{"twin.inputs_total"}} },
	{ "ft_twin_let_packets", C, "packets", "outputs that both guests put out", .values = {{"twin.let_total"}} },
	{ "ft_twin_load_seconds", G, "seconds", "of the last of these epochs: seal until the other guest ran", .scale = US,
	  .values = {{"twin.load_us"}} },
	{ "ft_twin_asked_seconds", G, "seconds", "of the last difference: from the second of the two outputs to its epoch's seal",
	  .scale = US, .values = {{"twin.asked_us"}} },
	{ "ft_twin_asked_max_seconds", G, "seconds", "the longest of these since the start", .scale = US,
	  .values = {{"twin.asked_max_us"}} },
	{ "ft_twin_mapped_connections", C, "connections", "TCP connections with other numbers there, or options that bear none",
	  .values = {{"twin.mapped_total"}} },
	{ "ft_twin_differences", C, "", "differences that took an epoch before its time", "why",
	  .values = {{"twin.differences.bytes", "bytes"}, {"twin.differences.flags", "flags"},
		     {"twin.differences.extra", "extra"}, {"twin.differences.overdue", "overdue"},
		     {"twin.differences.full", "full"}, {"twin.differences.connections", "connections"},
		     {"twin.differences.load", "load"}, {"twin.differences.input", "input"},
		     {"twin.differences.ended", "ended"}, {"twin.differences.host", "host"},
		     {"twin.differences.space", "space"}, {"twin.differences.disk", "disk"},
		     {"twin.differences.log", "log"}} },
	{ "ft_twin_source_looks", C, "", "looks at how the guest here is another one", .values = {{"twin.sources.looks_total"}} },
	{ "ft_twin_sources", C, "", "those of them at which a device's field was", "field", .values = {{"twin.sources.fields"}}, .print = print_object },
	{ "console_dropped_bytes", C, "bytes", "guest's output that no reader took", .values = {{"console_dropped_bytes_total"}} },
	{ "dev_guest_faults", C, "", "rules that the guest broke", "dev", .values = {{"device_faults"}}, .print = print_object },
	{ "loop_away_seconds", METRIC_SUMMARY, "seconds", "how long the process looked at no event, since its start", "quantile", US,
	  .values = {{"loop_away_us.p50", "0.5"}, {"loop_away_us.p99", "0.99"}, {"loop_away_us.max", "1.0"}} },
	{ "balloon_target_bytes", G, "bytes", "what the guest is asked to give back", .values = {{"balloon_target_bytes"}} },
	{ "balloon_bytes", G, "bytes", "what it says it gave", .values = {{"balloon_bytes"}} },
	{ "vsock_connections", G, "connections", "now", .values = {{"vsock.connections"}} },
	{ "migration_transferred_bytes", G, "bytes", "of the migration under way, or the last one", "part",
	  .values = {{"migration.ram.transferred", "ram"}, {"migration.disk.transferred", "disk"}} },
	{ "migration_remaining_bytes", G, "bytes", "of that, still to go", "part",
	  .values = {{"migration.ram.remaining", "ram"}, {"migration.disk.remaining", "disk"}} },
	{ "migration_downtime_seconds", G, "seconds", "of the last migration from here", .scale = 1e-3, .values = {{"migration.downtime"}} },
	{ "postcopy_fault_seconds", METRIC_SUMMARY, "seconds", "how long the VM waited for a page", "quantile", US,
	  .values = {{"migration.postcopy-latency-us.p50", "0.5"}, {"migration.postcopy-latency-us.p99", "0.99"},
		     {"migration.postcopy-latency-us.max", "1.0"}} },
};
/* clang-format on */

const struct metric *metrics_at(unsigned i)
{
	return i < sizeof(table) / sizeof(table[0]) ? &table[i] : NULL;
}

const char *metrics_type(enum metric_type t)
{
	static const char *const name[] = {"gauge", "counter", "summary", "histogram"};

	return name[t];
}

void metrics_sample_name(const struct metric *m, char *ret, size_t cap)
{
	snprintf(ret, cap, "ftvmm_%s%s", m->name, m->type == METRIC_COUNTER ? "_total" : "");
}

void metrics_print(FILE *to, const struct vms *all)
{
	const struct metric *m;

	for (unsigned i = 0; (m = metrics_at(i)); i++) {
		fprintf(to, "# TYPE ftvmm_%s %s\n", m->name, metrics_type(m->type));
		if (*m->unit)
			fprintf(to, "# UNIT ftvmm_%s %s\n", m->name, m->unit);
		fprintf(to, "# HELP ftvmm_%s %s\n", m->name, m->help);
		for (int vm = 0; vm < all->n; vm++)
			(m->print ? m->print : print_numbers)(to, m, &all->list[vm]);
	}
	fputs("# EOF\n", to);
}
