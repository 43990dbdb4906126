/*
 * A POST of JSON over plain HTTP, by libcurl, which is loaded when it is first asked for: who does
 * not use it has neither its memory nor its start-up time. No proxy, no redirect, no connection
 * that is kept; it ends at its deadline whatever the server does, and reads a bounded answer.
 * Blocks; for a job.
 */
#ifndef FT_HTTP_H
#define FT_HTTP_H

#include <stddef.h>

#include "vmm/base/err.h"

struct http;

struct http_answer {
	long status;
	size_t len;
	char body[16384]; /* ends with a NUL */
};

int http_load(struct http **ret, struct err *e);
void http_free(struct http *h);
/* 0: there is an answer, of any status. Else it is not known what the server did; -EIO. */
int http_post(const struct http *h, const char *url, const char *body, unsigned timeout_ms,
	      struct http_answer *ret, struct err *e);

#endif
