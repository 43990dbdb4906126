/*
 * hostile: the other end of a fault tolerance link, breaking the rules. See README.md.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/hostile/hostile.h"

static const char usage[] =
	"usage: hostile record LISTEN TO FILE              a proxy that records a primary's "
	"session\n"
	"       hostile primary [-s SEED] [-x TIMES] URI FILE [ATTACK]...\n"
	"       hostile once [-s SEED] URI FILE DAMAGE EPOCH   one damaged session\n"
	"       hostile secondary [-h HOLD_MS] [-e EPOCH_MS] LISTEN WAY...   one way per "
	"connection\n"
	"       hostile ways | attacks                     list them\n";

int main(int argc, char **argv)
{
	uint64_t seed = (uint64_t)time(NULL) * 2654435761u;
	unsigned scale = 1, hold_ms = 200, epoch_ms = 200;
	const char *what = argc > 1 ? argv[1] : "";
	int c;

	if (argc < 2) {
		fputs(usage, stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	optind = 2;
	while ((c = getopt(argc, argv, "+s:x:h:e:")) > 0) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'x')
			scale = (unsigned)atoi(optarg);
		else if (c == 'h')
			hold_ms = (unsigned)atoi(optarg);
		else if (c == 'e')
			epoch_ms = (unsigned)atoi(optarg);
	}
	random_seed(seed);
	argv += optind;
	argc -= optind;
	if (!strcmp(what, "record") && argc == 3)
		return tape_record(argv[0], argv[1], argv[2]);
	if (!strcmp(what, "primary") && argc >= 2)
		return attack_run(argv[0], argv[1], scale, argv + 2, argc - 2);
	if (!strcmp(what, "once") && argc == 4)
		return attack_once(argv[0], argv[1], argv[2], (unsigned)atoi(argv[3]));
	if (!strcmp(what, "secondary") && argc >= 2)
		return badpeer_run(argv[0], hold_ms, epoch_ms, argv + 1, argc - 1);
	if (!strcmp(what, "ways"))
		return badpeer_list();
	if (!strcmp(what, "attacks"))
		return attack_list();
	fputs(usage, stderr);
	return 2;
}
