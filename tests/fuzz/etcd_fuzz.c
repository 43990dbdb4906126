/*
 * What an etcd says: whole answers, answers with edits, bytes as they come, none at all; to a read,
 * then a claim or an end. A claim is won only by a transaction that says so, or when the record
 * that was seen last is one's own.
 *
 * Input: what is asked and of which generation, then answers {kind, bytes...} (see say()).
 */
#include <errno.h>
#include <jansson.h>

#include "tests/fuzz/fuzz.h"

#include "ft/common/arbiter_etcd.h"
#include "ft/common/base64.h"
#include "ft/common/http.h"
#include "vmm/base/log.h"

#define MINE	0x11
#define CLUSTER "\"header\":{\"cluster_id\":\"7\"}"

static struct input in;
static struct arbiter_backend etcd;
static struct http_answer last;

int __wrap_http_load(struct http **ret, struct err *e);
void __wrap_http_free(struct http *h);
int __wrap_http_post(const struct http *h, const char *url, const char *body, unsigned timeout_ms,
		     struct http_answer *ret, struct err *e);

int __wrap_http_load(struct http **ret, struct err *e)
{
	*ret = NULL;
	return 0;
}

void __wrap_http_free(struct http *h)
{
}

/* Small generations, so that they meet. */
static size_t record(char *text, size_t cap)
{
	static const char *const more[] = {"", ",\"stopped\":true",
					   ",\"claim\":\"0000000000000011\"",
					   ",\"claim\":\"0000000000000011\",\"stopped\":true"};
	unsigned c = (unsigned)take(&in, 1);

	return (size_t)snprintf(text, cap,
				"{\"vm\":\"%s\",\"generation\":%u,\"holder\":\"me\",\"time\":1,"
				"\"released\":%s%s}",
				c & 128 ? "other" : "vm", c & 7, c & 64 ? "true" : "false",
				more[c >> 3 & 3]);
}

/* The key, or none. */
static void kvs(char *text, size_t cap)
{
	char value[6000], encoded[BASE64_SIZE(sizeof(value))];
	unsigned c = (unsigned)take(&in, 1);
	size_t n = take(&in, 2) % sizeof(value);

	if (c % 4 == 3) {
		memset(value, ' ', n);
		memcpy(value, in.p, n < in.left ? n : in.left);
		take_bytes(&in, &(size_t){n});
	} else {
		n = record(value, sizeof(value));
	}
	base64_encode(value, n, encoded);
	if (c % 4)
		snprintf(text, cap,
			 ",\"kvs\":[{\"key\":\"ZnR2bW0vdm0=\",\"mod_revision\":\"%u\",\"value\":"
			 "\"%s\"}]",
			 c >> 2, encoded);
	else
		*text = 0;
}

static void say(struct http_answer *to)
{
	unsigned c = (unsigned)take(&in, 1);
	static char key[9000];
	size_t n = take(&in, 2) % (sizeof(to->body) - 1);

	kvs(key, sizeof(key));
	to->status = c & 32 && c & 16 ? 500 : 200;
	if (c % 4 == 0)
		n = (size_t)snprintf(to->body, sizeof(to->body), "{" CLUSTER "%s}", key);
	else if (c % 4 == 1)
		n = (size_t)snprintf(to->body, sizeof(to->body),
				     "{" CLUSTER
				     ",\"succeeded\":%s,\"responses\":[{\"response_put\":{}}]}",
				     c & 64 ? "true" : "false");
	else if (c % 4 == 2)
		n = (size_t)snprintf(
			to->body, sizeof(to->body),
			"{" CLUSTER ",\"responses\":[{\"response_range\":{" CLUSTER "%s}}]}", key);
	else
		memcpy(to->body, take_bytes(&in, &n), n);
	for (unsigned edits = c & 128 ? 1 + (unsigned)take(&in, 1) % 4 : 0; edits && n; edits--)
		to->body[take(&in, 2) % n] = (char)take(&in, 1);
	to->body[n] = 0;
	to->len = n;
}

int __wrap_http_post(const struct http *h, const char *url, const char *body, unsigned timeout_ms,
		     struct http_answer *ret, struct err *e)
{
	json_t *root = json_loads(body, 0, NULL);

	/* What we say is whole, whatever we heard. */
	require(json_is_object(root) && timeout_ms && !strncmp(url, "http://h:1/v3/kv/", 17));
	json_decref(root);
	if (!in.left)
		return err_set(e, -EIO, "no answer");
	say(ret);
	last = *ret;
	return 0;
}

/* Is it the last thing that was heard? */
static bool said_succeeded(void)
{
	json_t *root = json_loadb(last.body, last.len, JSON_REJECT_DUPLICATES, NULL);
	bool yes = last.status == 200 && json_is_true(json_object_get(root, "succeeded"));

	json_decref(root);
	return yes;
}

static void ask(unsigned what, uint64_t from)
{
	struct arbiter_question q = {.what = what % 3 == 1   ? ARBITER_CLAIM
					     : what % 3 == 2 ? ARBITER_END
							     : ARBITER_READ,
				     .why = what & 64 ? ARBITER_START : ARBITER_GO_ON,
				     .record = {.generation = from, .holder = "me", .claim = MINE}};
	struct arbiter_record r = {0};
	struct err e = {0};
	int code;

	if (q.what == ARBITER_END)
		q.record.end = ARBITER_STOPPED;
	else
		q.record.generation++;
	code = etcd.ops->answer(etcd.self, &q, &r, &e);
	require(code ? code < 0 && e.msg[0] : r.generation < INT64_MAX);
	if (code || q.what == ARBITER_READ)
		return;
	require(r.generation == q.record.generation && r.claim == MINE && r.end == q.record.end);
	require(said_succeeded() || (q.what == ARBITER_CLAIM && strstr(last.body, "kvs")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned what;

	log_init(LOG_ERROR, "fuzz");
	in = (struct input){data, size};
	what = (unsigned)take(&in, 1);
	require(!arbiter_etcd_open(&etcd, "http://h:1", "vm", NULL));
	ask(what, take(&in, 1) % 8);
	etcd.ops->close(etcd.self);
	return 0;
}
