/* An arbiter that is a key of etcd: endpoints that are slow, silent, wrong, lose what they say. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/arbiter.h"
#include "ft/common/base64.h"
#include "tests/unit/libmocketcd.h"

#define CLUSTER "\"header\":{\"cluster_id\":\"14841639068965178418\"}"
#define KEY	"\"key\":\"ZnR2bW0vd2ViMQ==\""

struct world {
	struct mock_store store;
	struct mock m[3];
	char uri[128];
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	pthread_mutex_init(&w->store.lock, NULL);
	for (int i = 0; i < 3; i++)
		mock_start(&w->m[i], &w->store);
	snprintf(w->uri, sizeof(w->uri), "etcd:http://127.0.0.1:%u,127.0.0.1:%u,127.0.0.1:%u",
		 w->m[0].port, w->m[1].port, w->m[2].port);
	/* Not to be used. */
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("all_proxy", "http://127.0.0.1:1", 1);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 3; i++)
		mock_stop(&w->m[i]);
	free(w);
	return 0;
}

static struct arbiter *open_uri(const char *uri, const char *holder)
{
	struct arbiter *a = NULL;
	struct err e = {0};

	if (arbiter_open(&a, NULL, uri, "web1", holder, &e))
		fail_msg("%s", e.msg);
	return a;
}

static void all(struct world *w, int mode)
{
	for (int i = 0; i < 3; i++)
		w->m[i].mode = mode;
}

static void store_text(struct world *w, const char *text)
{
	base64_encode(text, strlen(text), w->store.value);
	w->store.revision = 7;
}

static void claims_and_ends(void **state)
{
	struct world *w = *state;
	struct arbiter *a = open_uri(w->uri, "hostA"), *b = open_uri(w->uri, "hostB");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;

	assert_true(arbiter_is_shared(a));
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.generation, 0);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(gen, 1);
	assert_int_equal(arbiter_claim(b, 0, ARBITER_START, &gen, &e), -ESTALE);
	assert_string_equal(e.msg, "generation 1 of VM 'web1' is held by 'hostA'");
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, NULL), 0);
	assert_int_equal(gen, 2);
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, NULL), -ESTALE);
	assert_int_equal(arbiter_end(b, 2, ARBITER_RELEASED, NULL), 0);
	assert_int_equal(arbiter_read(a, &rec, NULL), 0);
	assert_int_equal(rec.end, ARBITER_RELEASED);
	assert_string_equal(rec.holder, "hostB");
	/* All at the first endpoint: no needless question. */
	assert_int_equal(w->m[1].requests + w->m[2].requests, 0);
	arbiter_close(a);
	arbiter_close(b);
}

/* Two that claim at once, from one revision: the second one's transaction says who won. */
static void one_of_many_claims_wins(void **state)
{
	struct world *w = *state;
	struct arbiter *a = open_uri(w->uri, "hostA"), *b = open_uri(w->uri, "hostB");
	uint64_t gen;

	for (unsigned i = 0; i < 20; i++) {
		struct arbiter *first = i & 1 ? a : b, *second = i & 1 ? b : a;

		assert_int_equal(arbiter_claim(first, i, ARBITER_GO_ON, &gen, NULL), 0);
		assert_int_equal(arbiter_claim(second, i, ARBITER_GO_ON, &gen, NULL), -ESTALE);
	}
	assert_int_equal(w->store.puts, 20);
	arbiter_close(a);
	arbiter_close(b);
}

static void another_endpoint_answers(void **state)
{
	static const int bad[] = {MOCK_SILENT, MOCK_LOSE,    MOCK_HANG,	   MOCK_TRICKLE, MOCK_RAW,
				  MOCK_BYTES,  MOCK_ENDLESS, MOCK_HEADERS, MOCK_OTHER};
	struct world *w = *state;
	struct arbiter *a = NULL;
	uint64_t gen = 0, have = 0;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		unsigned asked;

		all(w, MOCK_GOOD);
		arbiter_close(a);
		a = open_uri(w->uri, "hostA");
		assert_int_equal(arbiter_claim(a, have++, ARBITER_START, &gen, NULL), 0);
		w->m[0].raw = "{\"header\":";
		w->m[0].mode = bad[i];
		asked = w->m[0].requests;
		assert_int_equal(arbiter_claim(a, have++, ARBITER_GO_ON, &gen, NULL), 0);
		assert_int_equal(gen, have);
		/* The one that answered last is the first to be asked. */
		assert_int_equal(w->m[0].requests, asked + 1);
	}
	mock_stop(&w->m[0]);
	mock_stop(&w->m[1]);
	assert_int_equal(arbiter_claim(a, have, ARBITER_GO_ON, &gen, NULL), 0);
	arbiter_close(a);
}

/* It was carried out; asked anew, at another endpoint and later, it is known as one's own. */
static void a_claim_whose_answer_was_lost_is_won(void **state)
{
	static const int lost[] = {MOCK_LOSE, MOCK_HANG};
	struct world *w = *state;
	struct arbiter *b = open_uri(w->uri, "hostB");
	uint64_t have = 0, gen = 0;

	for (unsigned i = 0; i < 2; i++) {
		struct arbiter *a = open_uri(w->uri, "hostA");
		unsigned puts = w->store.puts;
		struct err e = {0};

		/* Reading tells nothing: only a transaction's answer is awaited in vain. */
		assert_int_equal(arbiter_read(a, &(struct arbiter_record){0}, NULL), 0);
		all(w, lost[i]);
		assert_int_equal(arbiter_claim(a, have, ARBITER_START, &gen, &e), -EIO);
		all(w, MOCK_GOOD);
		assert_int_equal(arbiter_claim(a, have, ARBITER_START, &gen, NULL), 0);
		assert_int_equal(gen, ++have);
		assert_int_equal(w->store.puts, puts + 1);
		assert_int_equal(arbiter_claim(b, have - 1, ARBITER_START, &gen, NULL), -ESTALE);
		arbiter_close(a);
	}
	arbiter_close(b);
}

static void nobody_goes_on_when_none_answers(void **state)
{
	struct world *w = *state;
	struct arbiter *a = open_uri(w->uri, "hostA");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;
	char said[64];

	w->m[0].mode = MOCK_SILENT;
	w->m[1].raw = "HTTP/1.1 503 Unavailable\r\nContent-Length: 40\r\n\r\n"
		      "{\"message\":\"etcdserver: no leader\\n\"}     ";
	w->m[1].mode = MOCK_BYTES;
	snprintf(said, sizeof(said), "127.0.0.1:%u: Failed to connect", w->m[2].port);
	mock_stop(&w->m[2]);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_int_equal(gen, 0);
	assert_int_equal(w->store.puts, 0);
	assert_non_null(strstr(e.msg, "nobody goes on without a majority of it"));
	assert_non_null(strstr(e.msg, "no answer within"));
	assert_non_null(strstr(e.msg, "HTTP status 503: etcdserver: no leader?;"));
	assert_non_null(strstr(e.msg, said));
	assert_int_equal(arbiter_read(a, &rec, NULL), -EIO);
	for (int mode = MOCK_ENDLESS; mode <= MOCK_HEADERS; mode++) {
		w->m[0].mode = mode;
		e.code = 0;
		assert_int_equal(arbiter_read(a, &rec, &e), -EIO);
		assert_non_null(strstr(e.msg, "an answer that is too long"));
	}
	arbiter_close(a);
}

/* Made anew, perhaps from a copy that does not know who won. */
static void another_cluster_is_none_to_go_on_by(void **state)
{
	struct world *w = *state;
	struct arbiter *a = open_uri(w->uri, "hostA");
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	all(w, MOCK_OTHER);
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -EIO);
	assert_non_null(strstr(e.msg, "cluster 666, not 14841639068965178418"));
	assert_int_equal(w->store.puts, 1);
	arbiter_close(a);
	/* Who has just started knows no other. */
	a = open_uri(w->uri, "hostA");
	assert_int_equal(arbiter_claim(a, 1, ARBITER_START, &gen, NULL), 0);
	arbiter_close(a);
}

static void forgotten_records_stop_everybody(void **state)
{
	struct world *w = *state;
	struct arbiter *a = open_uri(w->uri, "hostA");
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(a, 4, ARBITER_GO_ON, &gen, &e), -ENODATA);
	assert_string_equal(e.msg, "etcd key 'ftvmm/web1' has generation 0 of VM 'web1', 4 was "
				   "expected; was etcd made anew, or is it another?");
	assert_int_equal(w->store.puts, 0);
	arbiter_close(a);
}

static void every_field_is_looked_at(void **state)
{
	static const char *const texts[] = {
		"",
		"[]",
		"null",
		"{}",
		"{\"header\":{}}",
		"{\"header\":{\"cluster_id\":1}}",
		"{\"header\":{\"cluster_id\":\"\"}}",
		"{\"header\":{\"cluster_id\":\"-1\"}}",
		"{\"header\":{\"cluster_id\":\"123456789012345678901\"}}",
		"{" CLUSTER "," CLUSTER "}",
		"{" CLUSTER ",\"kvs\":{}}",
		"{" CLUSTER ",\"kvs\":[1]}",
		"{" CLUSTER ",\"kvs\":[{" KEY "}]}",
		"{" CLUSTER
		",\"kvs\":[{\"key\":\"eA==\",\"mod_revision\":\"1\",\"value\":\"e30=\"}]}",
		"{" CLUSTER ",\"kvs\":[{" KEY ",\"mod_revision\":1,\"value\":\"e30=\"}]}",
		"{" CLUSTER ",\"kvs\":[{" KEY ",\"mod_revision\":\"0\",\"value\":\"e30=\"}]}",
		"{" CLUSTER ",\"kvs\":[{" KEY ",\"mod_revision\":\"-1\",\"value\":\"e30=\"}]}",
		"{" CLUSTER ",\"kvs\":[{" KEY ",\"mod_revision\":\"1x\",\"value\":\"e30=\"}]}",
		"{" CLUSTER ",\"kvs\":[{" KEY ",\"mod_revision\":\"9223372036854775808\",\"value\":"
		"\"e30=\"}]}",
		"{" CLUSTER ",\"kvs\":[{" KEY ",\"mod_revision\":\"1\",\"value\":\"e30=\"},{" KEY
		",\"mod_revision\":\"1\",\"value\":\"e30=\"}]}",
	};
	struct world *w = *state;

	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct arbiter *a = open_uri(w->uri, "hostA");
		struct arbiter_record rec;
		struct err e = {0};

		all(w, MOCK_RAW);
		for (int j = 0; j < 3; j++)
			w->m[j].raw = texts[i];
		if (arbiter_read(a, &rec, &e) != -EIO || !strstr(e.msg, "not etcd's"))
			fail_msg("%s: %s", texts[i], e.msg);
		arbiter_close(a);
	}
}

/* A transaction's answer that does not say so is none that was won. */
static void what_a_transaction_says_is_looked_at(void **state)
{
	static const struct {
		const char *text;
		int code;
	} cases[] = {
		{"{" CLUSTER "}", -EIO},
		{"{" CLUSTER ",\"succeeded\":true}", -EIO},
		{"{" CLUSTER ",\"succeeded\":true,\"responses\":[]}", -EIO},
		{"{" CLUSTER ",\"succeeded\":true,\"responses\":[{}]}", -EIO},
		{"{" CLUSTER ",\"succeeded\":1,\"responses\":[{\"response_put\":{}}]}", -EIO},
		{"{" CLUSTER ",\"succeeded\":\"true\",\"responses\":[{\"response_put\":{}}]}",
		 -EIO},
		{"{" CLUSTER ",\"responses\":[{\"response_put\":{}}]}", -EIO},
		{"{" CLUSTER ",\"succeeded\":true,\"responses\":[{\"response_range\":{}}]}", -EIO},
		{"{" CLUSTER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}},{}]}", -EIO},
		/* Changed meanwhile, and there is none: as at first, for ever. */
		{"{" CLUSTER ",\"responses\":[{\"response_range\":{}}]}", -EBUSY},
		{"{" CLUSTER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}", 0},
	};
	struct world *w = *state;

	/* These answer a range, too: no key. */
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct arbiter *a = open_uri(w->uri, "hostA");
		uint64_t gen = 0;
		int r;

		all(w, MOCK_RAW);
		for (int j = 0; j < 3; j++)
			w->m[j].raw = cases[i].text;
		r = arbiter_claim(a, 0, ARBITER_START, &gen, NULL);
		if (r != cases[i].code || gen != !r)
			fail_msg("%s: %d", cases[i].text, r);
		arbiter_close(a);
	}
}

static void a_value_that_is_no_record_is_damage(void **state)
{
	static const char *const values[] = {"", "e30=", "e30", "e31=", "!!!!", "====", "AAAA"};
	struct world *w = *state;
	struct arbiter *a = open_uri(w->uri, "hostA");
	struct arbiter_record rec;
	struct err e = {0};

	w->store.revision = 7;
	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		e.code = 0;
		strcpy(w->store.value, values[i]);
		assert_int_equal(arbiter_read(a, &rec, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "'etcd key 'ftvmm/web1'' is damaged"));
	}
	memset(w->store.value, 'A', 8000);
	assert_int_equal(arbiter_read(a, &rec, NULL), -EBADMSG);
	store_text(w, "{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":"
		      "false}");
	memset(w->store.value + strlen(w->store.value), 0, 8);
	assert_int_equal(arbiter_read(a, &rec, NULL), 0);
	assert_int_equal(rec.generation, 5);
	arbiter_close(a);
}

/* To a server that the list does not name. */
static void nobody_is_sent_elsewhere(void **state)
{
	struct world *w = *state;
	struct arbiter_record rec;
	struct arbiter *a;
	char uri[64], raw[160];
	struct err e = {0};

	snprintf(uri, sizeof(uri), "etcd:http://127.0.0.1:%u", w->m[0].port);
	snprintf(raw, sizeof(raw),
		 "HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:%u/v3/kv/range\r\n"
		 "Content-Length: 0\r\n\r\n",
		 w->m[1].port);
	w->m[0].raw = raw;
	w->m[0].mode = MOCK_BYTES;
	a = open_uri(uri, "hostA");
	assert_int_equal(arbiter_read(a, &rec, &e), -EIO);
	assert_non_null(strstr(e.msg, "HTTP status 307"));
	assert_int_equal(w->m[1].requests, 0);
	arbiter_close(a);
}

static void who_may_be_asked(void **state)
{
	static const char *const bad[] = {
		"etcd:",
		"etcd:x",
		"etcd:http://",
		"etcd:http://x",
		"etcd:http://x:",
		"etcd:http://:1",
		"etcd:http://x:0",
		"etcd:http://x:65536",
		"etcd:http://x:1/",
		"etcd:http://u@x:1",
		"etcd:http://x:1,",
		"etcd:http://x:1,,y:1",
		"etcd:https://x:1",
		"etcd:http://x:1,https://y:1",
		"etcd:http://x:1 ",
		"etcd:http://x:+1",
		"etcd:http://[]:1",
		"etcd:http://[x]:1",
		"etcd:http://x:1?a",
		"etcd:http://x#:1",
		"etcd:http://http://x:1",
		"etcd:x:1",
		"etcd:http://1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1",
	};
	static const char *const good[] = {"etcd:http://x:1", "etcd:http://a.b-c:2379,10.0.0.1:1",
					   "etcd:http://a:1,http://b:1", "etcd:http://[fe80::1]:1",
					   "etcd:http://1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1"};
	struct arbiter *a;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = {0};

		if (arbiter_open(&a, NULL, bad[i], "web1", "h", &e) != -EINVAL)
			fail_msg("%s", bad[i]);
		assert_non_null(strstr(e.msg, "must be etcd:http://HOST:PORT"));
	}
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		arbiter_close(open_uri(good[i], "h"));
}

static void base64(void **state)
{
	static const char *const pairs[][2] = {{"", ""},
					       {"f", "Zg=="},
					       {"fo", "Zm8="},
					       {"foo", "Zm9v"},
					       {"foob", "Zm9vYg=="},
					       {"fooba", "Zm9vYmE="},
					       {"\xff\xfe\xfb", "//77"}};
	static const char *const bad[] = {"Z",	      "Zg",   "Zg=",	"Z===", "Zh==", "Zm9=",
					  "Zg==Zg==", "Zm 9", "Zm9v\n", "Zm=v", "-_-_"};
	char text[16], back[16];
	size_t len;

	for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		base64_encode(pairs[i][0], strlen(pairs[i][0]), text);
		assert_string_equal(text, pairs[i][1]);
		assert_int_equal(base64_decode(text, back, sizeof(back), &len), 0);
		assert_int_equal(len, strlen(pairs[i][0]));
		assert_memory_equal(back, pairs[i][0], len);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(base64_decode(bad[i], back, sizeof(back), &len), -EBADMSG);
	assert_int_equal(base64_decode("Zm9v", back, 2, &len), -EBADMSG);
	assert_int_equal(base64_decode("Zm8=", back, 2, &len), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(claims_and_ends),
		TEST(one_of_many_claims_wins),
		TEST(another_endpoint_answers),
		TEST(a_claim_whose_answer_was_lost_is_won),
		TEST(nobody_goes_on_when_none_answers),
		TEST(another_cluster_is_none_to_go_on_by),
		TEST(forgotten_records_stop_everybody),
		TEST(every_field_is_looked_at),
		TEST(what_a_transaction_says_is_looked_at),
		TEST(a_value_that_is_no_record_is_damage),
		TEST(nobody_is_sent_elsewhere),
		TEST(who_may_be_asked),
		cmocka_unit_test(base64),
	};

	return cmocka_run_group_tests_name("arbiter_etcd", tests, NULL, NULL);
}
