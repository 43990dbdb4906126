#define _GNU_SOURCE
#include "ft/common/http.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Of headers; more is no server that we know. */
#define HEADERS_MAX 8192

struct http {
	__typeof__(curl_global_init) *global_init;
	__typeof__(curl_easy_init) *init;
	__typeof__(curl_easy_setopt) *set;
	__typeof__(curl_easy_perform) *perform;
	__typeof__(curl_easy_getinfo) *get;
	__typeof__(curl_easy_strerror) *strerror;
	__typeof__(curl_easy_cleanup) *cleanup;
	__typeof__(curl_slist_append) *append;
	__typeof__(curl_slist_free_all) *free_all;
};

/* It stays loaded: a job that was abandoned may still be in it. */
static int load(struct http *h, struct err *e)
{
	const struct {
		const char *name;
		void *at;
	} names[] = {
		{"curl_global_init", &h->global_init}, {"curl_easy_init", &h->init},
		{"curl_easy_setopt", &h->set},	       {"curl_easy_perform", &h->perform},
		{"curl_easy_getinfo", &h->get},	       {"curl_easy_strerror", &h->strerror},
		{"curl_easy_cleanup", &h->cleanup},    {"curl_slist_append", &h->append},
		{"curl_slist_free_all", &h->free_all},
	};
	void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return err_set(e, -ENOENT, "HTTP needs libcurl (apt-get install libcurl4): %s",
			       dlerror());
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		void *f = dlsym(library, names[i].name);

		if (!f)
			return err_set(e, -ENOSYS, "libcurl.so.4 lacks %s; is it libcurl?",
				       names[i].name);
		memcpy(names[i].at, &f, sizeof(f));
	}
	/* For http:// alone; versions of today set TLS up all the same. */
	if (h->global_init(CURL_GLOBAL_NOTHING))
		return err_set(e, -ENOMEM, "libcurl cannot be set up");
	return 0;
}

int http_load(struct http **ret, struct err *e)
{
	struct http *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return err_set(e, -ENOMEM, "HTTP: out of memory");
	r = load(h, e);
	if (r) {
		free(h);
		return r;
	}
	*ret = h;
	return 0;
}

void http_free(struct http *h)
{
	free(h);
}

/* --- one request ------------------------------------------------------------------------------ */

struct request {
	struct http_answer *to;
	size_t headers;
	bool too_long;
	char trouble[CURL_ERROR_SIZE]; /* libcurl may write it as late as in its cleanup */
};

static size_t take_body(char *data, size_t size, size_t n, void *arg)
{
	struct request *q = arg;
	size_t len = size * n;

	if (len >= sizeof(q->to->body) - q->to->len) {
		q->too_long = true;
		return 0;
	}
	memcpy(q->to->body + q->to->len, data, len);
	q->to->len += len;
	return len;
}

static size_t take_header(char *data, size_t size, size_t n, void *arg)
{
	struct request *q = arg;

	q->headers += size * n;
	if (q->headers <= HEADERS_MAX)
		return size * n;
	q->too_long = true;
	return 0;
}

static void set_up(const struct http *h, CURL *c, struct request *q, unsigned timeout_ms)
{
	/* No signals: other threads have better things to do. */
	h->set(c, CURLOPT_NOSIGNAL, 1L);
	h->set(c, CURLOPT_PROTOCOLS_STR, "http");
	h->set(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	h->set(c, CURLOPT_PROXY, "");
	h->set(c, CURLOPT_FOLLOWLOCATION, 0L);
	h->set(c, CURLOPT_FORBID_REUSE, 1L);
	h->set(c, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	h->set(c, CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms);
	h->set(c, CURLOPT_WRITEFUNCTION, take_body);
	h->set(c, CURLOPT_WRITEDATA, q);
	h->set(c, CURLOPT_HEADERFUNCTION, take_header);
	h->set(c, CURLOPT_HEADERDATA, q);
}

static int perform(const struct http *h, CURL *c, struct request *q, unsigned timeout_ms,
		   struct err *e)
{
	CURLcode r;

	h->set(c, CURLOPT_ERRORBUFFER, q->trouble);
	r = h->perform(c);
	if (!r)
		r = h->get(c, CURLINFO_RESPONSE_CODE, &q->to->status);
	if (q->too_long)
		return err_set(e, -EIO, "an answer that is too long");
	if (r == CURLE_OPERATION_TIMEDOUT)
		return err_set(e, -EIO, "no answer within %u ms", timeout_ms);
	if (r)
		return err_set(e, -EIO, "%s", q->trouble[0] ? q->trouble : h->strerror(r));
	q->to->body[q->to->len] = 0;
	return 0;
}

int http_post(const struct http *h, const char *url, const char *body, unsigned timeout_ms,
	      struct http_answer *ret, struct err *e)
{
	struct request q = {.to = ret};
	struct curl_slist *headers = h->append(NULL, "Content-Type: application/json");
	CURL *c = h->init();
	int r;

	ret->len = 0;
	ret->status = 0;
	if (c && headers && h->append(headers, "Expect:")) {
		set_up(h, c, &q, timeout_ms);
		h->set(c, CURLOPT_URL, url);
		h->set(c, CURLOPT_POSTFIELDS, body);
		h->set(c, CURLOPT_HTTPHEADER, headers);
		r = perform(h, c, &q, timeout_ms, e);
	} else {
		r = err_set(e, -ENOMEM, "HTTP: out of memory");
	}
	if (c)
		h->cleanup(c);
	h->free_all(headers);
	return r;
}
