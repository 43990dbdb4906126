#include "vmm/base/log_line.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "vmm/base/utf8.h"

static const struct {
	const char *name;
	int priority; /* of syslog */
} levels[] = {
	[LOG_ERROR] = {"error", 3},
	[LOG_WARN] = {"warning", 4},
	[LOG_INFO] = {"info", 6},
	[LOG_DEBUG] = {"debug", 7},
};

void log_line_time(char *ret, size_t cap)
{
	struct timespec now;
	struct tm utc;
	char day[24];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(ret, cap, "%s.%06ldZ", day, now.tv_nsec / 1000);
}

bool log_line_is_journal(const char *journal_stream, int fd)
{
	unsigned long long dev, ino;
	struct stat st;

	return journal_stream && sscanf(journal_stream, "%llu:%llu", &dev, &ino) == 2 &&
	       !fstat(fd, &st) && st.st_dev == dev && st.st_ino == ino;
}

static void one_line(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = ' ';
}

/* As a string in JSON, cut off before `last`; returns where it ends. text is UTF-8. */
static char *quote(char *to, const char *last, const char *text)
{
	*to++ = '"';
	while (*text) {
		size_t n = 1; /* of a character, which is put whole or not at all */

		while (((unsigned char)text[n] & 0xc0) == 0x80)
			n++;
		if (to + n + 2 >= last)
			break;
		if (*text == '"' || *text == '\\')
			*to++ = '\\';
		memcpy(to, text, n);
		to += n;
		text += n;
	}
	*to++ = '"';
	return to;
}

static size_t as_json(const struct log_style *s, enum log_level level, char *text, char *line)
{
	const char *last = line + LOG_LINE_MAX - 2; /* the brace and the newline */
	char *at = line, time[32], name[sizeof(s->name)];

	log_line_time(time, sizeof(time));
	memcpy(name, s->name, sizeof(name));
	one_line(name);
	utf8_mend(name);
	utf8_mend(text);
	if (s->journal)
		at += sprintf(at, "<%d>", levels[level].priority);
	at += sprintf(at, "{\"time\":\"%s\",\"level\":\"%s\",\"name\":", time, levels[level].name);
	at = quote(at, last, name);
	at += sprintf(at, ",\"text\":");
	at = quote(at, last, text);
	*at++ = '}';
	*at++ = '\n';
	return (size_t)(at - line);
}

size_t log_line(const struct log_style *s, enum log_level level, char *text, char *line)
{
	char before[40] = "";
	int n;

	one_line(text);
	if (s->form == LOG_JSON)
		return as_json(s, level, text, line);
	if (s->journal)
		snprintf(before, sizeof(before), "<%d>", levels[level].priority);
	else if (s->form == LOG_TEXT)
		log_line_time(before, sizeof(before) - 1);
	n = snprintf(line, LOG_LINE_MAX - 1, "%s%sftvmm%s%s%s %s: %s", before,
		     *before && !s->journal ? " " : "", *s->name ? "[" : "", s->name,
		     *s->name ? "]" : "", levels[level].name, text);
	if (n > LOG_LINE_MAX - 2)
		n = LOG_LINE_MAX - 2;
	line[n++] = '\n';
	return (size_t)n;
}
