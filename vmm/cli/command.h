/*
 * The commands, each once. From this table come the dispatch of the command line and its help, the
 * words that a client takes, what the control socket of a VM answers, the commands' section of the
 * manual and what completes a command line in a shell.
 */
#ifndef VMM_COMMAND_H
#define VMM_COMMAND_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm/base/err.h"

#define COMMAND_ARGS_MAX 16

/* Of every command but `run`. */
enum command_exit {
	EXIT_DONE,
	EXIT_USAGE,
	EXIT_FAILED,
	EXIT_GONE,
	EXIT_UNPROTECTED,
	EXIT_FENCED,
	EXIT_DIFFERS = EXIT_UNPROTECTED, /* of dump --diff */
};

struct run;

/* The words behind a command that asks a VM, without --json. */
struct command_words {
	const char *cmd, *name, *args[COMMAND_ARGS_MAX]; /* name: NULL when none was given */
	int nargs;
	bool json;
};

struct command {
	const char *name, *args, *help; /* args that begin with [NAME]: it may be left out */
	/* In the caller's process; one of the two. argv[0] is the command. An exit code. */
	int (*main)(int argc, char **argv);
	int (*ask)(const struct command_words *w);
	int min_args, max_args;	     /* of ask, behind NAME */
	bool takes_options;	     /* words with a dash are arguments of ask, too; */
	void (*print_options)(void); /* of --help, or NULL */
	/*
	 * In the VM's process, for the control socket: a new reference, or NULL with e set. NULL:
	 * it is not asked that.
	 */
	json_t *(*serve)(struct run *r, json_t *request, struct err *e);
	bool after_end; /* also while the last writes of a VM that has ended go to the images */
};

/* Whole command line, argv[0] being the program. Returns the exit code of the process. */
int command_main(int argc, char **argv);
const struct command *command_at(unsigned i); /* NULL behind the last */
const struct command *command_find(const char *name);
/* "status, events, ...": those that a VM serves. Cut off at cap. */
void command_list_served(char *ret, size_t cap);

#endif
