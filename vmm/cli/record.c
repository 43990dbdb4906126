#include "vmm/cli/record.h"

#include <errno.h>

#include "ft/common/marks.h"
#include "ft/common/side.h"

/* A VM that may be running elsewhere, or an image that may be the older one, needs force. */
static int check(const struct config *cfg, const struct arbiter_record *rec, uint64_t side,
		 struct err *e)
{
	if (!rec->generation || cfg->claim)
		return 0;
	/* Of old versions: who the secondary was is not said. */
	if (rec->end == ARBITER_RELEASED && (!rec->peer || side == rec->side || side == rec->peer))
		return 0;
	if (rec->end == ARBITER_HELD)
		return err_set(e, -ESTALE,
			       "arbiter: generation %llu of '%s' is held by '%s' and was not given "
			       "back: it may be running. Start this side with --secondary, or, if "
			       "you are sure that it is dead and this image is the latest, add "
			       "--claim",
			       (unsigned long long)rec->generation, cfg->name, rec->holder);
	if (rec->end == ARBITER_RELEASED)
		return err_set(e, -ESTALE,
			       "arbiter: '%s' was stopped last by '%s', and this side was not its "
			       "secondary then: the image here is older than theirs. Start one of "
			       "those with --primary, and this one with --secondary; if these are "
			       "its images, moved or copied, or both are lost, --claim starts from "
			       "what is here",
			       cfg->name, rec->holder);
	if (rec->side && rec->side == side)
		return 0;
	return err_set(e, -ESTALE,
		       "arbiter: '%s' was stopped last by '%s', the other side, without "
		       "a secondary in step: the image there is newer than this one. Start that "
		       "side with --primary, and this one with --secondary; if these are its "
		       "images, moved "
		       "or copied, or it is lost, --claim starts from what is here",
		       cfg->name, rec->holder);
}

int record_allows(const struct config *cfg, struct arbiter *a, struct arbiter_record *ret,
		  struct err *e)
{
	uint64_t side;
	int code = side_identity(cfg, &side, e);

	if (code)
		return code;
	arbiter_set_side(a, side);
	code = arbiter_read(a, ret, e);
	if (!code)
		code = check(cfg, ret, side, e);
	return code ? code : marks_allow(cfg, arbiter_is_shared(a) ? ret : NULL, e);
}
