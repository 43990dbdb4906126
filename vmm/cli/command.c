#include "vmm/cli/command.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "vmm/cli/cmd_check.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/cmd_dump.h"
#include "vmm/cli/cmd_failover.h"
#include "vmm/cli/cmd_key.h"
#include "vmm/cli/cmd_metrics.h"
#include "vmm/cli/cmd_migrate.h"
#include "vmm/cli/cmd_run.h"
#include "vmm/cli/cmd_status.h"
#include "vmm/cli/cmd_top.h"
#include "vmm/cli/cmd_trace.h"
#include "vmm/cli/cmd_trial.h"
#include "vmm/cli/cmd_wait.h"
#include "vmm/cli/completion.h"
#include "vmm/cli/run_command.h"
#include "vmm/cli/run_snapshot.h"
#include "vmm/cli/run_trace.h"
#include "vmm/conf/migrate_conf.h"
#include "vmm/wire/stream.h"

#define FTVMM_VERSION "0.1"

static int print_help(int argc, char **argv);
static int print_version(int argc, char **argv);

/* clang-format off */
static const struct command commands[] = {
	{ "run", "[VM.json] [options]",
	  "run a VM: plain, --primary, --secondary, or --restore FILE", .main = cmd_run },
	{ "check", "[VM.json] [options of run] [--json]",
	  "would run, with the same words, run here? what is missing, and what to do",
	  .main = cmd_check },
	{ "status", "[NAME] [--json]", "show one VM, or all",
	  .ask = cmd_status, .serve = serve_status, .after_end = true },
	{ "top", "[NAME] [--once]", "all VMs of the host, or more of one, anew each second",
	  .ask = cmd_top, .max_args = 1, .takes_options = true },
	{ "events", "NAME", "follow the state changes of a VM",
	  .ask = cmd_events, .serve = serve_events, .after_end = true },
	{ "wait", "NAME STATE[,STATE...] [--timeout TIME] [--json]",
	  "until a VM, which need not be there yet, is in one of these states",
	  .ask = cmd_wait, .min_args = 1, .max_args = COMMAND_ARGS_MAX, .takes_options = true,
	  .print_options = cmd_wait_print_options },
	{ "metrics", "[NAME]", "numbers of one VM, or all, as OpenMetrics text",
	  .ask = cmd_metrics },
	{ "trace", "NAME FILE [--seconds N] [--json]",
	  "what a VM does when, epochs, takeover, migration, as a file for Perfetto or Chrome",
	  .ask = cmd_trace, .min_args = 1, .max_args = 3, .takes_options = true,
	  .print_options = cmd_trace_print_options, .serve = serve_trace },
	{ "pause", "NAME [--json]", "stop the vCPUs", .ask = cmd_send, .serve = serve_pause },
	{ "resume", "NAME [--json]", "let them go on", .ask = cmd_send, .serve = serve_resume },
	{ "set", "NAME [ft=MODE] [epoch=TIME] [output-limit=SIZE] [peer=URI[,URI]] [balloon=SIZE] [limit=id=ID[,rate=SIZE][,ops=N]] [--json]",
	  "change a running VM: ft=mc|kemari|auto|colo|off, epoch=TIME, output-limit=SIZE, peer=URI[,URI], "
	  "balloon=SIZE, limit=id=ID[,rate=SIZE][,ops=N]",
	  .ask = cmd_set, .min_args = 1, .max_args = COMMAND_ARGS_MAX, .serve = serve_set },
	{ "snapshot", "NAME FILE [staging=SIZE|arrived] [--json]", "write memory and devices of a VM, not its disks, to a file; arrived: what has come of one whose source died",
	  .ask = cmd_snapshot, .min_args = 1, .max_args = 2, .serve = serve_snapshot },
	{ "dump", "NAME|FILE|--diff NAME|FILE NAME|FILE [--json]",
	  "show all device and vCPU state of a VM or of a snapshot; --diff: what differs between two, exit code 4 when something does",
	  .ask = cmd_dump, .max_args = 2, .takes_options = true, .serve = serve_dump },
	{ "console", "NAME", "a terminal at the guest's serial port", .ask = cmd_console },
	{ "failover", "NAME [--test] [--timeout TIME] [--json]",
	  "hand a protected VM over to its secondary; --test: a drill, until it is protected again",
	  .ask = cmd_failover, .max_args = 3, .takes_options = true,
	  .print_options = cmd_failover_print_options, .serve = serve_failover },
	{ "migrate", "NAME --precopy URI|--postcopy URI|--auto URI|--secondary URI|--cancel|--recover URI "
		     "[--downtime TIME] "
		     "[--timeout TIME] [--passes N] [--bandwidth SIZE] [--copy-disks] "
		     "[--no-background] [--insecure] [--force] [--json]",
	  "move a VM to an ftvmm run --incoming, or its place of standby to an ftvmm run --secondary; "
	  "give that up, or go on over another address or by a file",
	  .ask = cmd_migrate, .min_args = 1, .max_args = COMMAND_ARGS_MAX, .takes_options = true,
	  .print_options = migrate_conf_print_help,
	  .serve = serve_migrate },
	{ "stop", "NAME [timeout=TIME] [--json]", "end a VM in order",
	  .ask = cmd_stop, .max_args = 1, .serve = serve_stop },
	{ "key", "FILE", "make a key for both sides of tls: addresses (run --tls-psk FILE)",
	  .main = cmd_key },
	{ "trial", "[--name NAME] [shell HOST|run HOST COMMAND...|tmux|end]",
	  "two hosts and a client on this machine, to try a pair on", .main = cmd_trial },
	{ "completion", "bash", "print what completes a command line in bash",
	  .main = completion_main },
	{ "help", "", "list the commands", .main = print_help },
	{ "version", "", "print the versions of program and stream", .main = print_version },
};
/* clang-format on */

const struct command *command_at(unsigned i)
{
	return i < sizeof(commands) / sizeof(commands[0]) ? &commands[i] : NULL;
}

const struct command *command_find(const char *name)
{
	const struct command *c = commands;

	for (unsigned i = 0; c && strcmp(c->name, name); i++)
		c = command_at(i);
	return c;
}

void command_list_served(char *ret, size_t cap)
{
	const struct command *c;
	size_t n = 0;

	*ret = 0;
	for (unsigned i = 0; (c = command_at(i)); i++)
		if (c->serve && n < cap)
			n += snprintf(ret + n, cap - n, "%s%s", n ? ", " : "", c->name);
}

static int usage(FILE *to, int code)
{
	const struct command *c;

	fprintf(to, "usage: ftvmm COMMAND [NAME] [ARGUMENTS]\n\n");
	for (unsigned i = 0; (c = command_at(i)); i++)
		fprintf(to, "  %-10s %s\n", c->name, c->help);
	fprintf(to, "\n`ftvmm run --help` lists the flags of run.\n");
	return code;
}

/* For the documentation. */
static void print_markdown(void)
{
	const struct command *c;

	printf("| command | meaning |\n| --- | --- |\n");
	for (unsigned i = 0; (c = command_at(i)); i++)
		printf("| `ftvmm %s%s%s` | %s |\n", c->name, *c->args ? " " : "", c->args, c->help);
}

static int print_help(int argc, char **argv)
{
	if (strcmp(argv[0], "--help-md"))
		return usage(stdout, EXIT_DONE);
	print_markdown();
	return EXIT_DONE;
}

static int print_version(int argc, char **argv)
{
	printf("ftvmm %s, stream version %d\n", FTVMM_VERSION, STREAM_VERSION);
	return EXIT_DONE;
}

static int misused(const struct command *c, const char *why, const char *word)
{
	fprintf(stderr, "ftvmm: %s: %s%.40s; usage: ftvmm %s %s\n", c->name, why, word, c->name,
		c->args);
	return EXIT_USAGE;
}

static int command_usage(const struct command *c)
{
	printf("usage: ftvmm %s %s\n%s\n", c->name, c->args, c->help);
	if (c->print_options)
		c->print_options();
	return EXIT_DONE;
}

static int ask_vm(const struct command *c, int argc, char **argv)
{
	struct command_words w = {.cmd = c->name};

	signal(SIGPIPE, SIG_IGN);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return command_usage(c);
		if (!strcmp(argv[i], "--json"))
			w.json = true;
		else if (argv[i][0] == '-' && !c->takes_options)
			return misused(c, "unknown option ", argv[i]);
		else if (!w.name && (argv[i][0] != '-' || c->args[0] != '['))
			w.name = argv[i];
		else if (w.nargs < c->max_args)
			w.args[w.nargs++] = argv[i];
		else
			return misused(c, "too many arguments", "");
	}
	if (!w.name && c->args[0] != '[')
		return misused(c, "the name of the VM is missing", "");
	if (w.nargs < c->min_args)
		return misused(c, "an argument is missing", "");
	return c->ask(&w);
}

/* The spellings that are usual elsewhere. */
static const char *plain_word(const char *word)
{
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "--help-md"))
		return "help";
	return strcmp(word, "--version") ? word : "version";
}

int command_main(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2)
		return usage(stderr, EXIT_USAGE);
	c = command_find(plain_word(argv[1]));
	if (c)
		return c->main ? c->main(argc - 1, argv + 1) : ask_vm(c, argc - 1, argv + 1);
	fprintf(stderr, "ftvmm: no command '%s'; `ftvmm --help` lists them\n", argv[1]);
	return EXIT_USAGE;
}
