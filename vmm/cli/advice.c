#include "vmm/cli/advice.h"

#include <stdio.h>
#include <string.h>

void advise_priority(int code, advice_say *say, void *arg)
{
	char text[256];

	snprintf(
		text, sizeof(text),
		"no real-time priority (%s): on a busy host heartbeats may be late; run as root or "
		"with CAP_SYS_NICE, in a cgroup that allows it, or give a longer --peer-timeout",
		strerror(-code));
	say(arg, "priority", text);
}

void advise_precopy(const struct err *why, advice_say *say, void *arg)
{
	char text[sizeof(why->msg) + 40];

	snprintf(text, sizeof(text), "only precopy can come in here: %s", why->msg);
	say(arg, "userfaultfd", text);
}

void advise(const struct config *cfg, advice_say *say, void *arg)
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
