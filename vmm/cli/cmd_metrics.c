#include "vmm/cli/cmd_metrics.h"

#include <stdio.h>

#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/metrics.h"

int cmd_metrics(const struct command_words *w)
{
	struct vms all = {.n = 0};
	struct err e = {0};
	int r = w->name ? vms_ask_one(&all, w->name, CTL_SHORT_MS, &e)
			: vms_ask(&all, CTL_SHORT_MS, &e);

	if (r)
		return cmd_fail(&e);
	metrics_print(stdout, &all);
	vms_free(&all);
	/* Whoever reads half of it is to know. */
	if (!fflush(stdout) && !ferror(stdout))
		return EXIT_DONE;
	fprintf(stderr, "ftvmm: metrics: the output does not take all of it\n");
	return EXIT_FAILED;
}
