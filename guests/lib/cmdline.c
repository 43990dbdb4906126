/* The command line: words separated by blanks. */
#include "guests/lib/sys.h"

static const char *cmdline;

void cmdline_init(const char *text)
{
	cmdline = text;
}

const char *cmdline_text(void)
{
	return cmdline;
}

const char *cmdline_next(const char *pos, const char *prefix)
{
	size_t len = strlen(prefix);

	if (!pos)
		pos = cmdline;
	else
		while (*pos && *pos != ' ')
			pos++;
	while (*pos) {
		while (*pos == ' ')
			pos++;
		if (!strncmp(pos, prefix, len))
			return pos + len;
		while (*pos && *pos != ' ')
			pos++;
	}
	return NULL;
}

/* The value of the last `key` or `key=value`: at its NUL or blank if there is no `=`. */
static const char *cmdline_find(const char *key)
{
	const char *found = NULL;

	for (const char *p = cmdline_next(NULL, key); p; p = cmdline_next(p, key)) {
		if (*p == '=')
			found = p + 1;
		else if (!*p || *p == ' ')
			found = p;
	}
	return found;
}

bool cmdline_str(const char *key, char *buf, size_t cap)
{
	const char *p = cmdline_find(key);
	size_t n = 0;

	for (; p && p[n] && p[n] != ' ' && n + 1 < cap; n++)
		buf[n] = p[n];
	buf[n] = 0;
	return p;
}

bool cmdline_is(const char *key, const char *value)
{
	char text[64];

	return cmdline_str(key, text, sizeof(text)) && !strcmp(text, value);
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 32) >= 'a' && (c | 32) <= 'f')
		return (c | 32) - 'a' + 10;
	return 16;
}

bool text_u64(const char *s, const char *ends, uint64_t *ret_value, const char **ret_end)
{
	int base = s[0] == '0' && (s[1] | 32) == 'x' ? 16 : 10;
	const char *p = base == 16 ? s + 2 : s;
	unsigned shift = 0;
	uint64_t v = 0;

	if (digit_value(*p) >= base)
		return false;
	for (; digit_value(*p) < base; p++) {
		if (v > (UINT64_MAX - (uint64_t)digit_value(*p)) / (uint64_t)base)
			return false;
		v = v * (uint64_t)base + (uint64_t)digit_value(*p);
	}
	if ((*p | 32) == 'k')
		shift = 10;
	else if ((*p | 32) == 'm')
		shift = 20;
	else if ((*p | 32) == 'g')
		shift = 30;
	p += shift != 0;
	if (v > UINT64_MAX >> shift)
		return false;
	for (const char *e = ends; *p && *p != ' ' && *p != *e; e++) {
		if (!*e)
			return false;
	}
	*ret_value = v << shift;
	if (ret_end)
		*ret_end = p;
	return true;
}

uint64_t cmdline_u64(const char *key, uint64_t fallback)
{
	const char *p = cmdline_find(key);
	uint64_t v;

	return p && text_u64(p, "", &v, NULL) ? v : fallback;
}
