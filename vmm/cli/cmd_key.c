#include "vmm/cli/cmd_key.h"

#include <stdio.h>
#include <string.h>

#include "vmm/cli/command.h"
#include "vmm/wire/tls.h"

int cmd_key(int argc, char **argv)
{
	bool help = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
	struct err e = {0};

	if (help || argc != 2 || argv[1][0] == '-') {
		fprintf(help ? stdout : stderr,
			"usage: ftvmm key FILE\n"
			"Make a key. Copy FILE to the other host, and give both sides --tls-psk "
			"FILE.\n");
		return help ? EXIT_DONE : EXIT_USAGE;
	}
	if (tls_make_key(argv[1], &e)) {
		fprintf(stderr, "ftvmm: %s\n", e.msg);
		return EXIT_FAILED;
	}
	return EXIT_DONE;
}
