/* The subcommand table, nothing else. */
#include <stdio.h>
#include <string.h>

#include "vmm/cli/cmd_run.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/wire/stream.h"

#define FTVMM_VERSION "0.1"

static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *help;
} commands[] = {
	{"run", cmd_run, "run a VM: plain, --primary, --secondary, or --restore FILE"},
	{"status", ctl_main, "show one VM, or all"},
	{"events", ctl_main, "follow the state changes of a VM"},
	{"pause", ctl_main, "stop the vCPUs"},
	{"resume", ctl_main, "let them go on"},
	{"set", ctl_main, "change a running VM: epoch=TIME, balloon=SIZE"},
	{"snapshot", ctl_main, "write a VM to a file"},
	{"console", ctl_main, "a terminal at the guest's serial port"},
	{"failover", ctl_main, "hand a protected VM over to its secondary"},
	{"stop", ctl_main, "end a VM in order"},
};

static int usage(FILE *to, int code)
{
	fprintf(to, "usage: ftvmm COMMAND [NAME] [ARGUMENTS]\n\n");
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
	fprintf(to, "\n`ftvmm run --help` lists the flags of run.\n");
	return code;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return usage(stderr, 1);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
		return usage(stdout, 0);
	if (!strcmp(argv[1], "--version")) {
		printf("ftvmm %s, stream version %d\n", FTVMM_VERSION, STREAM_VERSION);
		return 0;
	}
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].main(argc - 1, argv + 1);
	fprintf(stderr, "ftvmm: no command '%s'; `ftvmm --help` lists them\n", argv[1]);
	return 1;
}
