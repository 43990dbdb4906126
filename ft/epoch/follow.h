/* What the engine tells its follower (ft/epoch/follow.c); what others ask of that is in engine.h.
 */
#ifndef FT_FOLLOW_H
#define FT_FOLLOW_H

#include "ft/epoch/engine.h"

/* Its sender may have said something. */
void follow_notified(struct engine *g);
/* The epoch of this job is sealed, the VM stands: it is the follower's first one, too. */
void follow_feed(struct engine *g, const struct send_job *j);

#endif
