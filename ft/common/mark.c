#include "ft/common/mark.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FORMAT "1 %s %" PRIu64 " %s"

static const char *const names[MARK_WORDS] = {
	[MARK_NONE] = "none", [MARK_HALF] = "half",   [MARK_BEHIND] = "behind",
	[MARK_RUN] = "run",   [MARK_WHOLE] = "whole",
};

const char *mark_word_name(enum mark_word w)
{
	return names[w];
}

static int parse(const char *text, struct mark *ret)
{
	char word[8], again[sizeof(ret->vm) + 48];

	if (sscanf(text, "1 %63s %" SCNu64 " %7s", ret->vm, &ret->generation, word) != 3)
		return -EBADMSG;
	for (enum mark_word w = MARK_HALF; w < MARK_WORDS; w++)
		if (!strcmp(word, names[w]))
			ret->word = w;
	snprintf(again, sizeof(again), FORMAT, ret->vm, ret->generation, word);
	return ret->word && !strcmp(again, text) ? 0 : -EBADMSG;
}

int mark_read(const char *path, struct mark *ret, struct err *e)
{
	char text[sizeof(ret->vm) + 48];
	ssize_t n = getxattr(path, MARK_ATTRIBUTE, text, sizeof(text) - 1);

	*ret = (struct mark){0};
	if (n < 0 && (errno == ENODATA || errno == EOPNOTSUPP || errno == ENOENT))
		return 0;
	if (n < 0 && errno != ERANGE)
		return err_sys(e, "'%s': attribute " MARK_ATTRIBUTE, path);
	text[n < 0 ? 0 : n] = 0;
	if (!parse(text, ret))
		return 0;
	*ret = (struct mark){0};
	return err_set(e, -EBADMSG,
		       "'%s': attribute " MARK_ATTRIBUTE " is damaged, or of a later version; "
		       "setfattr -x " MARK_ATTRIBUTE " takes it off",
		       path);
}

/* What cannot have one says so in several ways. */
static int code_of(int error)
{
	return error == EPERM || error == ENOSYS ? -EOPNOTSUPP : -error;
}

int mark_write(int fd, const struct mark *m)
{
	char text[sizeof(m->vm) + 48];
	int n = snprintf(text, sizeof(text), FORMAT, m->vm, m->generation, names[m->word]);

	if (m->word == MARK_NONE) {
		if (fremovexattr(fd, MARK_ATTRIBUTE) < 0 && errno != ENODATA)
			return code_of(errno);
	} else if (fsetxattr(fd, MARK_ATTRIBUTE, text, (size_t)n, 0) < 0) {
		return code_of(errno);
	}
	return m->word == MARK_HALF && fsync(fd) < 0 ? -errno : 0;
}
