#include "vmm/cli/advice.h"

#include <stdio.h>
#include <string.h>

void advise(const struct config *cfg, void (*say)(void *arg, const char *what, const char *text),
	    void *arg)
{
	bool secondary = cfg->role == ROLE_SECONDARY;
	char text[256];

	if (cfg->role != ROLE_PLAIN && !strcmp(cfg->arbiter, "none"))
		say(arg, "arbiter",
		    "no arbiter: a link that breaks makes two VMs of one (--arbiter file:PATH)");
	if (secondary && !cfg->kernel[0] && !cfg->no_reboot)
		say(arg, "kernel",
		    "no kernel (-k): after a takeover the guest's first reboot ends the VM; give "
		    "the primary's -k and -i here, too");
	if (cfg->incoming[0] && !cfg->kernel[0] && !cfg->no_reboot)
		say(arg, "kernel",
		    "no kernel (-k): the guest's first reboot here ends the VM; give the source's "
		    "-k and -i here, too");
	if (!secondary || cfg->npeers)
		return;
	snprintf(text, sizeof(text),
		 "no --peer: after a takeover this side finds nobody who protects the VM; give the "
		 "addresses of the hosts that may stand by then, or then: ftvmm set %s peer=URI",
		 cfg->name);
	say(arg, "peer", text);
}
