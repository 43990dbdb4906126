/*
 * kvcheck: does a history, recorded by kvclient, look like one correct kv server that never lost
 * anything? See README.md for what is checked. Exit codes: enum check_verdict.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lin/check.h"

static const char usage[] =
	"usage: kvcheck [options] HISTORY...\n"
	"  --image DISK       the kv journal in this raw image must hold every acknowledged write\n"
	"  --steps N          give up on a key after N search steps (exit 3)\n"
	"  --memo MIB         memory of the search\n"
	"  --allow-conn-lost  lost TCP connections are no violation\n"
	"  --allow-foreign    journal records of clients not in the histories are none either\n"
	"  --dump             print the histories instead\n"
	"exit: 0 correct, 1 violation, 2 bad input, 3 undecided\n";

enum { OPT_IMAGE = 1, OPT_STEPS, OPT_MEMO, OPT_LOST, OPT_FOREIGN, OPT_DUMP, OPT_HELP };

static const struct option options[] = {
	{"image", required_argument, NULL, OPT_IMAGE},
	{"steps", required_argument, NULL, OPT_STEPS},
	{"memo", required_argument, NULL, OPT_MEMO},
	{"allow-conn-lost", no_argument, NULL, OPT_LOST},
	{"allow-foreign", no_argument, NULL, OPT_FOREIGN},
	{"dump", no_argument, NULL, OPT_DUMP},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

struct kvcheck_args {
	struct check_options check;
	const char *image;
	bool dump;
};

/* 0 go on, 1 help, -1 usage error. */
static int kvcheck_parse(int argc, char **argv, struct kvcheck_args *a)
{
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case OPT_IMAGE:
			a->image = optarg;
			break;
		case OPT_STEPS:
			a->check.steps = strtoull(optarg, NULL, 0);
			break;
		case OPT_MEMO:
			a->check.memo_bytes = (size_t)strtoull(optarg, NULL, 0) << 20;
			break;
		case OPT_LOST:
			a->check.allow_conn_lost = true;
			break;
		case OPT_FOREIGN:
			a->check.allow_foreign = true;
			break;
		case OPT_DUMP:
			a->dump = true;
			break;
		case 'h':
		case OPT_HELP:
			return 1;
		default:
			return -1;
		}
	}
	return optind < argc ? 0 : -1;
}

static void kvcheck_dump(const struct history *h)
{
	char line[320];

	for (size_t i = 0; i < h->n; i++) {
		history_print(&h->recs[i], h->start_ns, line, sizeof(line));
		puts(line);
	}
}

static void kvcheck_print(const struct check_report *r, const char *image)
{
	static const char *const word[] = {"OK", "VIOLATION", "BAD INPUT", "UNDECIDED"};

	if (r->verdict != CHECK_OK)
		printf("%s: %s\n", word[r->verdict], r->why);
	else if (image)
		printf("OK: %" PRIu64 " operations on %" PRIu64 " keys, %" PRIu64
		       " journal records\n",
		       r->ops, r->keys, r->records);
	else
		printf("OK: %" PRIu64 " operations on %" PRIu64 " keys\n", r->ops, r->keys);
	for (unsigned i = 0; i < r->nevidence; i++)
		printf("  %s\n", r->evidence[i]);
}

int main(int argc, char **argv)
{
	struct kvcheck_args args = {.check = check_defaults};
	struct check_report report = {0};
	struct history h = {0};
	int rc = kvcheck_parse(argc, argv, &args);

	if (rc) {
		fputs(usage, rc > 0 ? stdout : stderr);
		return rc > 0 ? 0 : CHECK_BAD_INPUT;
	}
	for (int i = optind; i < argc && !report.verdict; i++)
		if (history_load(&h, argv[i], report.why, sizeof(report.why)))
			report.verdict = CHECK_BAD_INPUT;
	if (args.dump && !report.verdict) {
		kvcheck_dump(&h);
	} else {
		if (!report.verdict)
			check_history(&h, &args.check, &report);
		if (args.image && report.verdict != CHECK_BAD_INPUT)
			journal_check(&h, args.image, &args.check, &report);
		kvcheck_print(&report, args.image);
	}
	history_free(&h);
	return (int)report.verdict;
}
