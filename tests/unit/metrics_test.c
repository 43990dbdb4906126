/* `ftvmm metrics`: the text, held to the grammar, and the table, held to what a VM really says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/libcommand.h"
#include "tests/unit/libfakevm.h"
#include "vmm/cli/command.h"
#include "vmm/cli/metrics.h"
#include "vmm/cli/run.h"

static char out[65536];

static void check(const char *line, int code)
{
	int is = command_says(line, out, sizeof(out));

	if (is != code)
		fail_msg("%s: %d: %s", line, is, out);
}

static void has(const char *line)
{
	char whole[300];

	snprintf(whole, sizeof(whole), "\n%s\n", line);
	if (!strstr(out, whole))
		fail_msg("no line %s in %s", line, out);
}

/* --- the grammar (OpenMetrics 1.0), as far as we use it --------------------------------------- */

struct reader {
	char family[100], type[20];
	char done[100][100]; /* families, none of which may come twice */
	unsigned ndone, samples;
	bool other; /* a line of its family has come that is no description */
};

static size_t name_len(const char *s)
{
	size_t n = 0;

	while (isalnum((unsigned char)s[n]) || s[n] == '_')
		n++;
	return isdigit((unsigned char)*s) ? 0 : n;
}

static bool begins_family(struct reader *r, const char *name, size_t len)
{
	if (len == strlen(r->family) && !memcmp(r->family, name, len))
		return !r->other;
	for (unsigned i = 0; i < r->ndone; i++)
		if (strlen(r->done[i]) == len && !memcmp(r->done[i], name, len))
			return false;
	snprintf(r->family, sizeof(r->family), "%.*s", (int)len, name);
	snprintf(r->done[r->ndone++], sizeof(r->done[0]), "%.*s", (int)len, name);
	strcpy(r->type, "");
	r->other = false;
	return r->ndone < 100;
}

static bool is_description(struct reader *r, const char *line)
{
	static const char *const types[] = {"gauge", "counter", "summary", "histogram"};
	const char *name = line + 7, *text;
	size_t len, family;

	if (strncmp(line, "# TYPE ", 7) && strncmp(line, "# UNIT ", 7) &&
	    strncmp(line, "# HELP ", 7))
		return false;
	len = name_len(name);
	if (!len || name[len] != ' ' || !name[len + 1] || !begins_family(r, name, len))
		return false;
	text = name + len + 1;
	family = strlen(r->family);
	if (line[2] == 'U')
		return strlen(text) < family && r->family[family - strlen(text) - 1] == '_' &&
		       !strcmp(r->family + family - strlen(text), text);
	if (line[2] == 'H')
		return !strchr(text, '\\') && !strchr(text, '"');
	if (r->type[0])
		return false;
	for (size_t i = 0; i < 4; i++)
		if (!strcmp(text, types[i]))
			strcpy(r->type, text);
	return r->type[0];
}

/* {a="..",b=".."}: what is behind it, or NULL. */
static const char *skip_labels(const char *s)
{
	if (*s++ != '{')
		return NULL;
	for (;;) {
		size_t n = name_len(s);

		if (!n || s[n] != '=' || s[n + 1] != '"')
			return NULL;
		for (s += n + 2; *s && *s != '"'; s++)
			if (*s == '\\' && !strchr("\\\"n", *++s))
				return NULL;
		if (!*s++)
			return NULL;
		if (*s == '}')
			return s + 1;
		if (*s++ != ',')
			return NULL;
	}
}

static bool suffix_fits(const struct reader *r, const char *suffix, const char *labels)
{
	if (!strcmp(r->type, "counter"))
		return !strcmp(suffix, "_total");
	if (!strcmp(r->type, "summary"))
		return !*suffix && strstr(labels, ",quantile=\"");
	if (strcmp(r->type, "histogram"))
		return !*suffix;
	return strcmp(suffix, "_bucket") ? !strcmp(suffix, "_sum") || !strcmp(suffix, "_count")
					 : strstr(labels, ",le=\"") != NULL;
}

static bool is_sample(struct reader *r, const char *line)
{
	size_t len = name_len(line), family = strlen(r->family);
	const char *behind = skip_labels(line + len);
	char suffix[20], *end;
	double value;

	if (!family || len < family || memcmp(line, r->family, family) || !behind || *behind != ' ')
		return false;
	snprintf(suffix, sizeof(suffix), "%.*s", (int)(len - family), line + family);
	value = strtod(behind + 1, &end);
	r->other = true;
	r->samples++;
	return !*end && end > behind + 1 && suffix_fits(r, suffix, line + len) &&
	       (value >= 0 || !strcmp(r->type, "gauge"));
}

/* The number of samples, or -1 with the bad line in *bad. */
static int read_text(char *text, const char **bad)
{
	static struct reader r;
	char *line;

	memset(&r, 0, sizeof(r));
	while ((line = strsep(&text, "\n"))) {
		*bad = line;
		if (!strcmp(line, "# EOF"))
			return text && !*text ? (int)r.samples : -1;
		if (!is_description(&r, line) && !is_sample(&r, line))
			return -1;
	}
	*bad = "no # EOF";
	return -1;
}

static int samples(void)
{
	static char copy[sizeof(out)];
	const char *bad;
	int n;

	strcpy(copy, out);
	n = read_text(copy, &bad);
	if (n < 0)
		fail_msg("no OpenMetrics: %s", bad);
	return n;
}

/* It proves nothing if it takes everything. */
static void the_reader_is_strict(void **state)
{
	static const char *const wrong[] = {
		"",
		"# EOF",
		"# EOF\nx",
		"# TYPE a gauge\na{vm=\"x\"} 1\n",
		"# TYPE a gauge\na{vm=\"x\"} 1\n\n# EOF\n",
		"# TYPE a stateset\na{vm=\"x\"} 1\n# EOF\n",
		"# TYPE a counter\na{vm=\"x\"} 1\n# EOF\n",
		"# TYPE a counter\na_total{vm=\"x\"} -1\n# EOF\n",
		"# TYPE a gauge\na{vm=\"x} 1\n# EOF\n",
		"# TYPE a gauge\na{vm=\"\\x\"} 1\n# EOF\n",
		"# TYPE a gauge\na{vm=\"x\"}1\n# EOF\n",
		"# TYPE a gauge\na{vm=\"x\"} one\n# EOF\n",
		"# TYPE a gauge\nb{vm=\"x\"} 1\n# EOF\n",
		"# TYPE a gauge\n# UNIT a bytes\n# EOF\n",
		"# TYPE a gauge\na{vm=\"x\"} 1\n# HELP a text\n# EOF\n",
		"# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n# EOF\n",
		"# TYPE a histogram\na_bucket{vm=\"x\"} 1\n# EOF\n",
	};
	char text[200];
	const char *bad;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		strcpy(text, wrong[i]);
		if (read_text(text, &bad) >= 0)
			fail_msg("taken: %s", wrong[i]);
	}
	strcpy(text, "# TYPE a_bytes gauge\n# UNIT a_bytes bytes\na_bytes{vm=\"\\\"\\n\"} 1e-06\n# "
		     "EOF\n");
	assert_int_equal(read_text(text, &bad), 1);
}

/* --- what is told ----------------------------------------------------------------------------- */

static const char web[] =
	"{'name':'web','role':'primary','state':'DEGRADED','cover':'DEGRADED','mode':'mc',"
	"'peer':'a\\\\b\\n\\\"c','paused':false,'generation':3,'epochs_total':7,'seals':{'interval'"
	":4,'net':0,'first':3},'epoch_ns':"
	"25000000,"
	"'ack_lag_us':1500,'ack_lag_p99_us':2500000,'page_bytes_total':9007199254740993,"
	"'pause_classes':{'le_us':[500,1000000],'pauses':[4,2,1]},"
	"'pause_total_us':{'stop':1000000,'copy':500000},"
	"'twin':{'phase':'runs','let_total':8,'load_us':2500,'differences':{'bytes':1,'full':2}},"
	"'device_faults':{'root':2,'n0':1},'takeover_us':null,'held_packets':'many'}";

static void numbers_have_their_units(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "web", web);
	check("metrics web", EXIT_DONE);
	fakevm_stop(&vm);
	assert_int_equal(samples(), 51);
	has("ftvmm_up{vm=\"web\"} 1");
	has("ftvmm_vm_info{vm=\"web\",role=\"primary\",mode=\"mc\",peer=\"a\\\\b\\n\\\"c\",holder="
	    "\"\"} 1");
	has("ftvmm_ft_state{vm=\"web\",state=\"DEGRADED\"} 1");
	has("ftvmm_ft_state{vm=\"web\",state=\"PROTECTED\"} 0");
	has("ftvmm_ft_cover{vm=\"web\",cover=\"DEGRADED\"} 1");
	has("ftvmm_ft_cover{vm=\"web\",cover=\"NONE\"} 0");
	has("ftvmm_vm_paused{vm=\"web\"} 0");
	has("# TYPE ftvmm_ft_epochs counter");
	has("ftvmm_ft_epochs_total{vm=\"web\"} 7");
	has("ftvmm_ft_seals_total{vm=\"web\",why=\"interval\"} 4");
	has("ftvmm_ft_seals_total{vm=\"web\",why=\"net\"} 0");
	has("ftvmm_ft_epoch_interval_seconds{vm=\"web\"} 0.025");
	has("ftvmm_ft_ack_lag_seconds{vm=\"web\",quantile=\"0.5\"} 0.0015");
	has("ftvmm_ft_ack_lag_seconds{vm=\"web\",quantile=\"0.99\"} 2.5");
	has("# UNIT ftvmm_ft_sent_bytes bytes");
	has("ftvmm_ft_sent_bytes_total{vm=\"web\"} 9007199254740993"); /* more than a double has */
	has("ftvmm_ft_pause_seconds_bucket{vm=\"web\",le=\"0.0005\"} 4");
	has("ftvmm_ft_pause_seconds_bucket{vm=\"web\",le=\"1.0\"} 6");
	has("ftvmm_ft_pause_seconds_bucket{vm=\"web\",le=\"+Inf\"} 7");
	has("ftvmm_ft_pause_seconds_count{vm=\"web\"} 7");
	has("ftvmm_ft_pause_seconds_sum{vm=\"web\"} 1.5");
	has("ftvmm_ft_pause_part_seconds_total{vm=\"web\",part=\"copy\"} 0.5");
	has("ftvmm_dev_guest_faults_total{vm=\"web\",dev=\"root\"} 2");
	has("ftvmm_ft_twin_phase{vm=\"web\",phase=\"runs\"} 1");
	has("ftvmm_ft_twin_phase{vm=\"web\",phase=\"differs\"} 0");
	has("ftvmm_ft_twin_let_packets_total{vm=\"web\"} 8");
	has("ftvmm_ft_twin_load_seconds{vm=\"web\"} 0.0025");
	has("ftvmm_ft_twin_differences_total{vm=\"web\",why=\"full\"} 2");
	/* What a VM does not say, or not as a number, is left out. */
	assert_null(strstr(out, "takeover_seconds{"));
	assert_null(strstr(out, "held_packets{"));
	assert_null(strstr(out, "why=\"flags\""));
}

static void status_tells_what_epochs_were_sealed_for(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "web", web);
	check("status web", EXIT_UNPROTECTED);
	has("sealed for: interval 4, first 3");
	fakevm_stop(&vm);
	fakevm_start(&vm, "web", "{'state':'RUNNING','seals':{'net':0}}");
	check("status web", EXIT_DONE);
	assert_null(strstr(out, "sealed"));
	fakevm_stop(&vm);
}

static void all_vms_of_the_host(void **state)
{
	struct fakevm a, b;
	struct sockaddr_un sa;
	int garbled;

	check("metrics", EXIT_DONE);
	assert_int_equal(samples(), 0);
	fakevm_start(&b, "web", web);
	fakevm_start(&a, "db", "{'state':'RUNNING','epochs_total':1}");
	assert_int_equal(ctl_sock_addr("mute", &sa, NULL), 0);
	garbled = ctl_sock_listen(&sa, 1, NULL);
	/* Whoever connects finds that it is gone. */
	shutdown(garbled, SHUT_RDWR);
	check("metrics", EXIT_DONE);
	samples();
	/* In the order of their names, those of one metric together. */
	has("ftvmm_ft_epochs_total{vm=\"db\"} 1\nftvmm_ft_epochs_total{vm=\"web\"} 7");
	close(garbled);
	fakevm_stop(&a);
	fakevm_stop(&b);
	check("metrics none", EXIT_USAGE);
	assert_non_null(strstr(out, "no VM named 'none' runs here"));
}

/* A VM that nobody can ask is not one that is not there. */
static void silence_is_told(void **state)
{
	struct fakevm vm;

	fakevm_start(&vm, "web", "[]");
	check("metrics", EXIT_DONE);
	assert_int_equal(samples(), 1);
	has("ftvmm_up{vm=\"web\"} 0");
	check("metrics web", EXIT_DONE);
	has("ftvmm_up{vm=\"web\"} 0");
	fakevm_stop(&vm);
}

/* --- the table -------------------------------------------------------------------------------- */

/* Only of VMs that have one. */
static bool is_of_a_device(const char *name)
{
	return !strncmp(name, "balloon_", 8) || !strncmp(name, "vsock_", 6) ||
	       !strcmp(name, "dev_guest_faults") || !strcmp(name, "postcopy_fault_seconds");
}

/* The status of a process that migrates a VM; its role is one that may have a twin. */
static struct run *a_run(void)
{
	struct run *r = calloc(1, sizeof(*r));

	r->role = ROLE_PRIMARY;
	r->source.ft = &r->ft;
	r->source.vm = &r->vm;
	r->source.result = SOURCE_DONE;
	r->source.at.stop = 1;
	r->source.at.runs = 3000001;
	r->source.passes.stats.disk_total = 1;
	r->secondary.twin.sources.n = 1;
	strcpy(r->secondary.twin.sources.fields[0].name, "serial[0].scr");
	strcpy(r->cfg.name, "real");
	return r;
}

static void a_vm_says_what_the_table_names(void **state)
{
	struct vms all = {.n = 1, .list = {{.name = "real", .answers = true}}};
	struct run *r = a_run();
	const struct metric *m;
	char name[120];
	FILE *f = fmemopen(out, sizeof(out), "w");

	all.list[0].status = run_status(r);
	metrics_print(f, &all);
	fclose(f);
	samples();
	for (unsigned i = 0; (m = metrics_at(i)); i++) {
		strcpy(name, "\n");
		metrics_sample_name(m, name + 1, 80);
		strcat(name, m->type == METRIC_HISTOGRAM ? "_bucket{" : "{");
		if (!is_of_a_device(m->name) && !strstr(out, name))
			fail_msg("status has nothing for %s", m->name);
	}
	has("ftvmm_migration_downtime_seconds{vm=\"real\"} 0.003");
	has("ftvmm_ft_twin_sources_total{vm=\"real\",field=\"serial[0].scr\"} 0");
	vms_free(&all);
	free(r);
}

static void names_end_with_their_unit(void **state)
{
	const struct metric *m;

	for (unsigned i = 0; (m = metrics_at(i)); i++) {
		size_t name = strlen(m->name), unit = strlen(m->unit);

		assert_true(name > unit && !strcmp(m->name + name - unit, m->unit));
		assert_true(!strstr(m->name, "_total"));
		assert_true(m->print || m->values[0].path);
		for (unsigned v = 0; v < METRICS_VALUES && m->values[v].path; v++)
			assert_true(m->print || !m->label == !m->values[v].label);
		for (unsigned j = 0; j < i; j++)
			assert_string_not_equal(metrics_at(j)->name, m->name);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fakevm_setup, fakevm_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_reader_is_strict),
		T(numbers_have_their_units),
		T(status_tells_what_epochs_were_sealed_for),
		T(all_vms_of_the_host),
		T(silence_is_told),
		cmocka_unit_test(a_vm_says_what_the_table_names),
		cmocka_unit_test(names_end_with_their_unit),
	};

	return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
