/* Before a start: may an image be used, by what it says of itself? */
#include <errno.h>
#include <string.h>

#include "ft/common/marks.h"

static int for_secondary(const struct config *cfg, const struct config_disk *cd,
			 const struct mark *m, struct err *e)
{
	if (!strcmp(m->vm, cfg->name))
		return 0;
	return err_set(
		e, -ESTALE,
		"disk '%s': '%s' is an image of the VM '%s', and '%s' would overwrite it: is "
		"--name right? If nobody needs it any more, remove it",
		cd->id, cd->path, m->vm, cfg->name);
}

static int for_primary(const struct config *cfg, const struct config_disk *cd, const struct mark *m,
		       const struct arbiter_record *known, struct err *e)
{
	const char *name = cd->id;

	if (strcmp(m->vm, cfg->name))
		return err_set(e, -ESTALE,
			       "disk '%s': '%s' is an image of the VM '%s', not of '%s': is --name "
			       "right? --claim takes it",
			       name, cd->path, m->vm, cfg->name);
	if (m->word == MARK_HALF)
		return err_set(
			e, -ESTALE,
			"disk '%s': '%s' is neither an old image nor a new one: a first sync, or "
			"a merge of what a twin had written, was broken off. Start the other side "
			"with --primary, and this one with "
			"--secondary; --claim starts from what is here",
			name, cd->path);
	if (known && m->generation > known->generation)
		return err_set(
			e, -ESTALE,
			"disk '%s': '%s' is of generation %llu, and the arbiter knows none after "
			"%llu: is its storage mounted, or an old copy? If it was made anew, and "
			"this image is the latest, add --claim",
			name, cd->path, (unsigned long long)m->generation,
			(unsigned long long)known->generation);
	if (!known && m->word == MARK_BEHIND)
		return err_set(
			e, -ESTALE,
			"disk '%s': '%s' was a secondary's: the other side's image may be newer, "
			"and without --arbiter nobody knows. Start that side with --primary, and "
			"this one with --secondary; if it is lost, --claim starts from what is "
			"here",
			name, cd->path);
	return 0;
}

int mark_allows(const struct config *cfg, const struct config_disk *cd,
		const struct arbiter_record *known, struct err *e)
{
	struct mark m;
	int r;

	if (cfg->claim || cd->readonly || cd->ft == DISK_FT_SHARED)
		return 0;
	r = mark_read(cd->path, &m, e);
	if (r || m.word == MARK_NONE)
		return r ? err_wrap(e, "disk '%s'", cd->id) : 0;
	if (cfg->role == ROLE_SECONDARY)
		return for_secondary(cfg, cd, &m, e);
	if (cfg->role == ROLE_PRIMARY)
		return for_primary(cfg, cd, &m, known, e);
	return err_set(
		e, -ESTALE,
		"disk '%s': '%s' is one of the two images of the VM '%s' (generation %llu): the "
		"other side may be running it. %s",
		cd->id, cd->path, m.vm, (unsigned long long)m.generation,
		cfg->incoming[0] ? "If nobody needs it any more, remove it"
				 : "Start it with --primary or --secondary; for a VM of its own, "
				   "add --claim");
}

int marks_allow(const struct config *cfg, const struct arbiter_record *known, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < cfg->ndisks && !r; i++)
		r = mark_allows(cfg, &cfg->disks[i], known, e);
	return r;
}
