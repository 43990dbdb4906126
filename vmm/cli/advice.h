/* What a VM runs without, and had better not: warned of by `run` in its log, and by `check`. */
#ifndef VMM_ADVICE_H
#define VMM_ADVICE_H

#include "vmm/conf/config.h"

/* what: the option, or the thing of the host, that it is about. */
typedef void advice_say(void *arg, const char *what, const char *text);

/* Of what is configured: calls say once for each. */
void advise(const struct config *cfg, advice_say *say, void *arg);
/* The loop has no real-time priority; code: why. */
void advise_priority(int code, advice_say *say, void *arg);
/* Memory cannot come here while the guest runs; why: of pager_probe(). */
void advise_precopy(const struct err *why, advice_say *say, void *arg);

#endif
