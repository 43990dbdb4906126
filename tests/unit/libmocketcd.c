#define _GNU_SOURCE
#include "tests/unit/libmocketcd.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <jansson.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void say(int fd, const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		text += n;
		len -= n;
	}
}

static void say_json(int fd, const char *json)
{
	char head[128];

	snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n",
		 strlen(json));
	say(fd, head);
	say(fd, json);
}

static bool read_request(int fd, char *buf, size_t cap)
{
	size_t len = 0;

	for (;;) {
		const char *end = strstr(buf, "\r\n\r\n"), *field = strstr(buf, "Content-Length: ");
		ssize_t n;

		if (end && field && len >= end + 4 - buf + strtoul(field + 16, NULL, 10))
			return true;
		n = read(fd, buf + len, cap - 1 - len);
		if (n <= 0)
			return false;
		len += n;
		buf[len] = 0;
	}
}

static json_t *kvs(const struct mock_store *s, const char *key)
{
	char revision[24];

	snprintf(revision, sizeof(revision), "%" PRId64, s->revision);
	return s->revision ? json_pack("[{ss ss ss}]", "key", key, "mod_revision", revision,
				       "value", s->value)
			   : json_array();
}

/* Carried out, as etcd would. */
static json_t *serve(struct mock_store *s, const char *path, json_t *body, const char *cluster)
{
	const char *key = NULL, *target, *result, *revision = "", *value, *put, *range;
	json_t *answer;

	if (!strncmp(path, "/v3/kv/range ", 13)) {
		if (json_unpack(body, "{ss!}", "key", &key))
			return NULL;
		return json_pack("{s{ss} so}", "header", "cluster_id", cluster, "kvs", kvs(s, key));
	}
	if (strncmp(path, "/v3/kv/txn ", 11) ||
	    json_unpack(body, "{s[{ss ss ss ss !}!] s[{s{ss ss !}!}!] s[{s{ss!}!}!]}", "compare",
			"key", &key, "target", &target, "result", &result, "mod_revision",
			&revision, "success", "request_put", "key", &put, "value", &value,
			"failure", "request_range", "key", &range) ||
	    strcmp(target, "MOD") || strcmp(result, "EQUAL") || strcmp(key, put) ||
	    strcmp(key, range))
		return NULL;
	if (strtoll(revision, NULL, 10) != s->revision)
		return json_pack("{s{ss} s[{s{so}}]}", "header", "cluster_id", cluster, "responses",
				 "response_range", "kvs", kvs(s, key));
	answer = json_pack("{s{ss} sb s[{s{}}]}", "header", "cluster_id", cluster, "succeeded", 1,
			   "responses", "response_put");
	snprintf(s->value, sizeof(s->value), "%s", value);
	s->revision += 3;
	s->puts++;
	return answer;
}

static char *carry_out(struct mock *m, char *request)
{
	const char *body = strstr(request, "\r\n\r\n") + 4;
	json_t *root = json_loads(body, 0, NULL), *answer = NULL;
	bool post = !strncmp(request, "POST ", 5) &&
		    strstr(request, "Content-Type: application/json\r\n");
	char *text;

	pthread_mutex_lock(&m->store->lock);
	if (post && root)
		answer = serve(m->store, request + 5, root,
			       m->mode == MOCK_OTHER ? "666" : "14841639068965178418");
	pthread_mutex_unlock(&m->store->lock);
	text = answer ? json_dumps(answer, 0) : strdup("{\"message\":\"mock: not understood\"}");
	json_decref(root);
	json_decref(answer);
	return text;
}

static void for_ever(int fd, const char *head, const char *text, unsigned pause_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	say(fd, head);
	/* Until the other side ends it: then it can be read. */
	while (poll(&p, 1, pause_ms) == 0)
		say(fd, text);
}

/* false: the connection stays as it is. */
static bool answer(struct mock *m, int fd, char *request, int mode)
{
	bool does =
		mode == MOCK_GOOD || mode == MOCK_LOSE || mode == MOCK_HANG || mode == MOCK_OTHER;
	char *text = does ? carry_out(m, request) : NULL;

	if (mode == MOCK_GOOD || mode == MOCK_OTHER)
		say_json(fd, text);
	else if (mode == MOCK_RAW)
		say_json(fd, m->raw);
	else if (mode == MOCK_BYTES)
		say(fd, m->raw);
	else if (mode == MOCK_TRICKLE)
		for_ever(fd, "HTTP/1.1 200 OK\r\n\r\n", "{", 50);
	else if (mode == MOCK_ENDLESS)
		for_ever(fd, "HTTP/1.1 200 OK\r\n\r\n", "                                ", 0);
	else if (mode == MOCK_HEADERS)
		for_ever(fd, "HTTP/1.1 200 OK\r\n", "X-More: and more, and more, and more\r\n", 0);
	free(text);
	return mode != MOCK_SILENT && mode != MOCK_HANG;
}

static void *mock_main(void *arg)
{
	struct mock *m = arg;
	int fd;

	while ((fd = accept(m->listening, NULL, NULL)) >= 0) {
		char request[16384] = "";

		atomic_fetch_add(&m->requests, 1);
		if (read_request(fd, request, sizeof(request)) &&
		    !answer(m, fd, request, m->mode) && m->nheld < 64)
			m->held[m->nheld++] = fd;
		else
			close(fd);
	}
	return NULL;
}

void mock_start(struct mock *m, struct mock_store *s)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	m->store = s;
	m->nheld = 0;
	m->mode = MOCK_GOOD;
	m->requests = 0;
	m->listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(m->listening, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(m->listening, 16), 0);
	assert_int_equal(getsockname(m->listening, (struct sockaddr *)&a, &len), 0);
	m->port = ntohs(a.sin_port);
	assert_int_equal(pthread_create(&m->thread, NULL, mock_main, m), 0);
}

void mock_stop(struct mock *m)
{
	if (m->listening < 0)
		return;
	shutdown(m->listening, SHUT_RDWR);
	pthread_join(m->thread, NULL);
	close(m->listening);
	m->listening = -1;
	while (m->nheld)
		close(m->held[--m->nheld]);
}
