/* What a VM runs without, and had better not: warned of by `run` in its log, and by `check`. */
#ifndef VMM_ADVICE_H
#define VMM_ADVICE_H

#include "vmm/conf/config.h"

/* Calls say once for each; what: the option it is about. */
void advise(const struct config *cfg, void (*say)(void *arg, const char *what, const char *text),
	    void *arg);

#endif
