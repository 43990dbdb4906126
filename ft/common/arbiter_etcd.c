#define _GNU_SOURCE
#include "ft/common/arbiter_etcd.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/arbiter_cell.h"
#include "ft/common/base64.h"
#include "ft/common/http.h"

#define ENDPOINTS_MAX 9
#define HTTP	      "http://"

struct arbiter_etcd {
	struct arbiter_cell cell;
	struct http *http;
	char key[BASE64_SIZE(80)];
	char endpoint[ENDPOINTS_MAX][264]; /* HOST:PORT */
	unsigned n, first;		   /* first: to be asked */
	char cluster[21];		   /* id of the one that has answered; empty: none yet */
};

static struct arbiter_etcd *etcd_of(struct arbiter_cell *c)
{
	return (struct arbiter_etcd *)c;
}

/* --- one endpoint ----------------------------------------------------------------------------- */

/* What etcd says of its trouble, for people. */
static int status_error(const struct http_answer *a, struct err *e)
{
	json_t *root = json_loadb(a->body, a->len, 0, NULL);
	const char *said = "is it etcd, 3.4 or newer?";
	char text[81];
	int r;

	json_unpack(root, "{ss}", "message", &said);
	snprintf(text, sizeof(text), "%s", said);
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
			*c = '?';
	r = err_set(e, -EIO, "HTTP status %ld: %s", a->status, text);
	json_decref(root);
	return r;
}

/*
 * A cluster that was made anew, from an old copy perhaps, has another id: it may have forgotten who
 * won. As two clusters that one list names, it is none to go on by.
 */
static int check_cluster(struct arbiter_etcd *t, const json_t *root, struct err *e)
{
	const char *id;

	if (json_unpack((json_t *)root, "{s{ss}}", "header", "cluster_id", &id) || !*id ||
	    strlen(id) >= sizeof(t->cluster) || id[strspn(id, "0123456789")])
		return err_set(e, -EIO, "an answer that is not etcd's");
	if (!t->cluster[0])
		memcpy(t->cluster, id, strlen(id) + 1);
	if (!strcmp(t->cluster, id))
		return 0;
	return err_set(e, -EIO, "cluster %s, not %s that answered before", id, t->cluster);
}

static int ask_one(struct arbiter_etcd *t, const char *url, const char *body, unsigned ms,
		   json_t **ret, struct err *e)
{
	struct http_answer a;
	int r = http_post(t->http, url, body, ms, &a, e);

	if (r)
		return r;
	if (a.status != 200)
		return status_error(&a, e);
	*ret = json_loadb(a.body, a.len, JSON_REJECT_DUPLICATES, NULL);
	r = check_cluster(t, *ret, e);
	if (r)
		json_decref(*ret);
	return r;
}

/* --- all of them ------------------------------------------------------------------------------ */

/* The time that is left, shared by those that were not asked yet. */
static unsigned share_ms(uint64_t until, unsigned endpoints)
{
	uint64_t now = loop_now_ns();

	return now < until ? (until - now) / 1000000 / endpoints : 0;
}

/* The first good answer to what body asks for; *ret is the caller's. Takes body, NULL: no memory.
 */
static int ask(struct arbiter_etcd *t, const char *path, json_t *body, uint64_t until, json_t **ret,
	       struct err *e)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL, why[400] = "", url[320];
	size_t used = 0;
	int r = -ENOMEM;

	json_decref(body);
	if (!text)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	for (unsigned i = 0; i < t->n && r; i++) {
		unsigned which = (t->first + i) % t->n, ms = share_ms(until, t->n - i);
		struct err one = {0};

		snprintf(url, sizeof(url), HTTP "%s%s", t->endpoint[which], path);
		r = ms ? ask_one(t, url, text, ms, ret, &one)
		       : err_set(&one, -EIO, "no time left to ask");
		if (!r)
			t->first = which;
		else if (used < sizeof(why))
			used += snprintf(why + used, sizeof(why) - used, "%s%s: %s", i ? "; " : "",
					 t->endpoint[which], one.msg);
	}
	free(text);
	if (!r)
		return 0;
	return err_set(e, -EIO, "arbiter etcd: nobody goes on without a majority of it: %s", why);
}

/* --- the key ---------------------------------------------------------------------------------- */

static int not_etcds(const struct arbiter_etcd *t, struct err *e)
{
	return err_set(e, -EIO, "arbiter etcd %s: an answer that is not etcd's",
		       t->endpoint[t->first]);
}

static int parse_key(struct arbiter_etcd *t, const json_t *kv, struct arbiter_text *ret,
		     struct err *e)
{
	const char *key, *value = "", *revision;
	char text[ARBITER_RECORD_MAX], *end;
	size_t len;

	if (json_unpack((json_t *)kv, "{ss ss s?s}", "key", &key, "mod_revision", &revision,
			"value", &value) ||
	    strcmp(key, t->key) || *revision < '1' || *revision > '9')
		return not_etcds(t, e);
	errno = 0;
	ret->revision = strtoll(revision, &end, 10);
	if (errno || *end)
		return not_etcds(t, e);
	if (base64_decode(value, text, sizeof(text) - 1, &len) || !len)
		return arbiter_record_damaged(t->cell.name, e);
	return arbiter_text_set(&t->cell, ret, text, len, e);
}

/* root: the answer to a range of our key alone. */
static int parse_range(struct arbiter_etcd *t, const json_t *root, struct arbiter_text *ret,
		       struct err *e)
{
	const json_t *kvs = json_object_get(root, "kvs");

	*ret = (struct arbiter_text){0};
	if (!json_is_object(root) || (kvs && !json_is_array(kvs)) || json_array_size(kvs) > 1)
		return not_etcds(t, e);
	return json_array_size(kvs) ? parse_key(t, json_array_get(kvs, 0), ret, e) : 0;
}

static int read_cell(struct arbiter_cell *c, uint64_t until, struct arbiter_text *ret,
		     struct err *e)
{
	struct arbiter_etcd *t = etcd_of(c);
	json_t *root;
	int r = ask(t, "/v3/kv/range", json_pack("{ss}", "key", t->key), until, &root, e);

	if (r)
		return r;
	r = parse_range(t, root, ret, e);
	json_decref(root);
	return r;
}

/* If the key is at that revision (0: there is none), it is set; if not, it is read. */
static json_t *swap_body(const struct arbiter_etcd *t, int64_t revision, const char *text)
{
	char value[BASE64_SIZE(ARBITER_RECORD_MAX)], number[24];
	json_t *body;

	base64_encode(text, strlen(text), value);
	snprintf(number, sizeof(number), "%" PRId64, revision);
	body = json_pack("{s[{ss ss ss ss}] s[{s{ss ss}}] s[{s{ss}}]}", "compare", "key", t->key,
			 "target", "MOD", "result", "EQUAL", "mod_revision", number, "success",
			 "request_put", "key", t->key, "value", value, "failure", "request_range",
			 "key", t->key);
#ifdef BUG_CLAIM_NOT_COMPARED
	json_object_del(body, "compare");
#endif
	return body;
}

static int swap_cell(struct arbiter_cell *c, uint64_t until, struct arbiter_text *is,
		     const char *text, struct err *e)
{
	struct arbiter_etcd *t = etcd_of(c);
	int succeeded = 0, r;
	json_t *root, *done;

	if (strlen(text) >= ARBITER_RECORD_MAX)
		return err_set(e, -EINVAL, "arbiter: the names of VM and holder are too long");
	r = ask(t, "/v3/kv/txn", swap_body(t, is->revision, text), until, &root, e);
	if (r)
		return r;
	if (json_unpack(root, "{s?b s[o!]}", "succeeded", &succeeded, "responses", &done))
		r = not_etcds(t, e);
	else if (!succeeded)
		r = parse_range(t, json_object_get(done, "response_range"), is, e) ?: -ESTALE;
	else if (!json_is_object(json_object_get(done, "response_put")))
		r = not_etcds(t, e);
	json_decref(root);
	return r;
}

static void close_cell(struct arbiter_cell *c)
{
	http_free(etcd_of(c)->http);
	free(c);
}

/* --- who is asked ----------------------------------------------------------------------------- */

/* HOST:PORT, HOST a name, an address, or an IPv6 address in brackets; no path, no user. */
static bool is_endpoint(const char *text, size_t len)
{
	const char *colon = memrchr(text, ':', len);
	size_t host = colon ? colon - text : 0, port = colon ? len - host - 1 : 0;
	bool v6 = host > 2 && text[0] == '[' && text[host - 1] == ']';
	char number[6] = "";

	if (!host || host > 255 || !port || port > 5)
		return false;
	memcpy(number, colon + 1, port);
	if (number[strspn(number, "0123456789")] || !atoi(number) || atoi(number) > 65535)
		return false;
	if (v6)
		return strspn(text + 1, "0123456789abcdefABCDEF:.") == host - 2;
	return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") ==
	       host;
}

static int parse_list(struct arbiter_etcd *t, const char *list, struct err *e)
{
	const char *p = list;

	if (strncmp(p, HTTP, strlen(HTTP)))
		p = "";
	do {
		size_t len;

		p += strncmp(p, HTTP, strlen(HTTP)) ? 0 : strlen(HTTP);
		len = strcspn(p, ",");
		if (t->n == ENDPOINTS_MAX || !is_endpoint(p, len))
			return err_set(e, -EINVAL,
				       "arbiter 'etcd:%.160s': must be etcd:http://HOST:PORT[,"
				       "HOST:PORT...], 1..%d of them",
				       list, ENDPOINTS_MAX);
		memcpy(t->endpoint[t->n++], p, len);
		p += len;
	} while (*p++);
	return 0;
}

int arbiter_etcd_open(struct arbiter_backend *ret, const char *list, const char *vm, struct err *e)
{
	struct arbiter_etcd *t = calloc(1, sizeof(*t));
	char key[80];
	int r;

	if (!t)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	snprintf(t->cell.vm, sizeof(t->cell.vm), "%s", vm);
	snprintf(key, sizeof(key), "ftvmm/%s", t->cell.vm);
	base64_encode(key, strlen(key), t->key);
	snprintf(t->cell.name, sizeof(t->cell.name), "etcd key '%s'", key);
	t->cell.place = (struct arbiter_place){t->cell.vm, t->cell.name,
					       "was etcd made anew, or is it another?"};
	t->cell.read = read_cell;
	t->cell.swap = swap_cell;
	t->cell.close = close_cell;
	r = parse_list(t, list, e);
	if (!r)
		r = http_load(&t->http, e);
	if (r) {
		free(t);
		return r;
	}
	arbiter_cell_backend(ret, &t->cell);
	return 0;
}
