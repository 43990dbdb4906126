/* Channels through TLS: who is let in, and that what comes is what was sent, or an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/loop.h"
#include "vmm/wire/stream.h"
#include "vmm/wire/tls_conn.h"

#define SECONDS(n) (loop_now_ns() + (n)*1000000000ull)

static char dir[] = "/tmp/tls_test.XXXXXX";

static const char *in_dir(const char *name, char *to)
{
	snprintf(to, 256, "%s/%s", dir, name);
	return to;
}

static int make_dir(void **state)
{
	char cmd[256], path[256];
	struct err e = {0};

	if (!mkdtemp(dir))
		return -1;
	snprintf(cmd, sizeof(cmd), "tests/certs.sh %s", dir);
	return system(cmd) || tls_make_key(in_dir("key", path), &e) ||
	       tls_make_key(in_dir("other-key", path), &e);
}

static int remove_dir(void **state)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	return system(cmd);
}

/* --- two ends --------------------------------------------------------------------------------- */

/* What lies between: each end has a socket of its own, and the test carries the bytes. */
struct ends {
	struct tls *tls[2];
	struct chan c[2]; /* 0 connects */
	int wire[2];	  /* the other end of each one's socket */
	size_t carried[2];
	uint8_t seen[1 << 16]; /* by 1, from 0 */
	size_t nseen;
};

static struct tls *credentials(const char *what, const char *name)
{
	char path[256];
	struct stat st;
	struct err e = {0};
	struct tls *t = NULL;
	struct tls_from from = {.name = name};

	assert_int_equal(stat(in_dir(what, path), &st), 0);
	*(S_ISDIR(st.st_mode) ? &from.dir : &from.psk) = path;
	if (tls_open(&t, &from, &e))
		fail_msg("%s: %s", what, e.msg);
	return t;
}

static void connect_ends(struct ends *s, enum tls_role zero, enum tls_role one)
{
	const enum tls_role us[2] = {zero, one};

	for (int i = 0; i < 2; i++) {
		int fd[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
		s->wire[i] = fd[1];
		assert_int_equal(tls_chan(s->tls[i], us[i], fd[0], &s->c[i], NULL), 0);
	}
}

static struct ends *new_ends(const char *zero, const char *one)
{
	struct ends *s = calloc(1, sizeof(*s));

	s->tls[0] = credentials(zero, "vm");
	s->tls[1] = credentials(one, "vm");
	connect_ends(s, TLS_PRIMARY, TLS_SECONDARY);
	return s;
}

static void close_ends(struct ends *s)
{
	for (int i = 0; i < 2; i++) {
		if (s->c[i].ops)
			chan_close(&s->c[i]);
		if (s->wire[i] >= 0)
			close(s->wire[i]);
		s->c[i].ops = NULL;
		s->wire[i] = -1;
	}
}

static void free_ends(struct ends *s)
{
	close_ends(s);
	tls_close(s->tls[0]);
	tls_close(s->tls[1]);
	free(s);
}

/* At most n bytes from one end to the other. */
static size_t carry_some(struct ends *s, int from, size_t n)
{
	uint8_t buf[1 << 16];
	ssize_t got = read(s->wire[from], buf, n < sizeof(buf) ? n : sizeof(buf));

	if (got <= 0)
		return 0;
	assert_int_equal(write(s->wire[!from], buf, (size_t)got), got);
	s->carried[from] += (size_t)got;
	if (!from && s->nseen + (size_t)got <= sizeof(s->seen)) {
		memcpy(s->seen + s->nseen, buf, (size_t)got);
		s->nseen += (size_t)got;
	}
	return (size_t)got;
}

static bool carry(struct ends *s)
{
	bool any = false;

	for (int i = 0; i < 2; i++)
		while (carry_some(s, i, SIZE_MAX))
			any = true;
	return any;
}

/* Both go on as long as something comes; what each said last. */
static void shake_hands(struct ends *s, int result[2], struct err e[2])
{
	result[0] = result[1] = -EAGAIN;
	do {
		for (int i = 0; i < 2; i++)
			if (result[i] == -EAGAIN)
				result[i] = chan_ready(&s->c[i], &e[i]);
	} while (carry(s));
}

static void reach_each_other(struct ends *s)
{
	struct err e[2] = {0};
	int r[2];

	shake_hands(s, r, e);
	if (r[0] || r[1])
		fail_msg("%d '%s', %d '%s'", r[0], e[0].msg, r[1], e[1].msg);
}

static void put(struct ends *s, int from, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	assert_int_equal(chan_write(&s->c[from], &iov, 1, SECONDS(10)), 0);
}

static ssize_t get(struct ends *s, int at, void *buf, size_t len)
{
	return s->c[at].ops->read(&s->c[at], buf, len);
}

static void speak(struct ends *s)
{
	char buf[16];

	for (int i = 0; i < 2; i++) {
		put(s, i, "hello", 6);
		carry(s);
		assert_int_equal(get(s, !i, buf, sizeof(buf)), 6);
		assert_string_equal(buf, "hello");
		assert_int_equal(get(s, !i, buf, sizeof(buf)), -EAGAIN);
	}
}

/* --- who is let in ---------------------------------------------------------------------------- */

static void those_of_one_key_or_authority_reach_each_other(void **state)
{
	static const char *const with[][2] = {
		{"key", "key"}, {"a", "b"}, {"any", "b"}, {"primary", "a"}};
	static const enum tls_role roles[][2] = {{TLS_PRIMARY, TLS_SECONDARY},
						 {TLS_SOURCE, TLS_DESTINATION}};

	for (unsigned i = 0; i < sizeof(with) / sizeof(with[0]); i++)
		for (unsigned n = 0; n < (i == 3 ? 1 : 2); n++) {
			struct ends *s = new_ends(with[i][0], with[i][1]);

			close_ends(s);
			connect_ends(s, roles[n][0], roles[n][1]);
			reach_each_other(s);
			speak(s);
			free_ends(s);
		}
}

/* At least one end says why; neither hands out a byte. */
static void refused(struct ends *s, int judge, const char *why)
{
	struct err e[2] = {0};
	char buf[16];
	int r[2];

	shake_hands(s, r, e);
	assert_int_not_equal(r[1], 0);
	if (r[judge] != -EBADMSG || !strstr(e[judge].msg, why))
		fail_msg("%d '%s', not '%s'", r[judge], e[judge].msg, why);
	assert_true(get(s, 1, buf, sizeof(buf)) <= 0);
	assert_true(get(s, 0, buf, sizeof(buf)) <= 0);
	free_ends(s);
}

static void others_are_refused(void **state)
{
	struct ends *s;

	refused(new_ends("other-key", "key"), 1, "binder");
	refused(new_ends("stranger", "a"), 0, "self-signed certificate in certificate chain");
	refused(new_ends("expired", "a"), 1, "certificate has expired");
	refused(new_ends("a", "expired"), 0, "certificate has expired");
	refused(new_ends("a", "stranger"), 0, "self-signed certificate in certificate chain");
	refused(new_ends("web", "a"), 1, "is not of ftvmm:vm/primary");
	refused(new_ends("a", "web"), 0, "is not of ftvmm:vm/secondary");
	refused(new_ends("a", "primary"), 0, "is not of ftvmm:vm/secondary");
	refused(new_ends("key", "a"), 0, "TLS: ");
	refused(new_ends("a", "key"), 1, "TLS: ");
	s = new_ends("key", "key");
	close_ends(s);
	connect_ends(s, TLS_SOURCE, TLS_SECONDARY);
	refused(s, 1, "is not ftvmm:vm/primary");
	s = new_ends("primary", "a");
	close_ends(s);
	connect_ends(s, TLS_SOURCE, TLS_DESTINATION);
	refused(s, 1, "is not of ftvmm:vm/source");
}

/* The key of one VM does not open another; nor does its certificate. */
static void another_vm_is_refused(void **state)
{
	static const char *const with[] = {"key", "b"};
	static const char *const why[] = {"is not ftvmm:vm/primary",
					  "is not of ftvmm:other/secondary"};

	for (unsigned i = 0; i < 2; i++) {
		struct ends *s = new_ends(with[i], with[i]);

		close_ends(s);
		tls_close(s->tls[0]);
		s->tls[0] = credentials(with[i], "other");
		connect_ends(s, TLS_PRIMARY, TLS_SECONDARY);
		refused(s, i == 0, why[i]);
	}
}

/* A client that asks for nothing, and has nothing to show. */
static void who_shows_nothing_is_refused(void **state)
{
	struct ends *s = new_ends("key", "a");
	struct tls *t = s->tls[0];

	close_ends(s);
	t->has_key = false;
	t->lib.SSL_CTX_set_psk_use_session_callback(t->ctx, NULL);
	t->lib.SSL_CTX_set_verify(t->ctx, SSL_VERIFY_NONE, NULL);
	connect_ends(s, TLS_PRIMARY, TLS_SECONDARY);
	refused(s, 1, "peer did not return a certificate");
}

static void older_versions_are_refused(void **state)
{
	for (int old = 0; old < 2; old++) {
		struct ends *s = new_ends("a", "b");
		const struct tls *t = s->tls[old];

		close_ends(s);
		t->lib.SSL_CTX_ctrl(t->ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
		t->lib.SSL_CTX_ctrl(t->ctx, SSL_CTRL_SET_MAX_PROTO_VERSION, TLS1_2_VERSION, NULL);
		connect_ends(s, TLS_PRIMARY, TLS_SECONDARY);
		refused(s, !old, "protocol");
	}
}

static void a_plain_client_is_refused(void **state)
{
	struct ends *s = new_ends("key", "key");
	struct stream st, plain;
	struct frame f;

	stream_init(&plain, dup(s->wire[1]), STREAM_MAIN, 7);
	assert_int_equal(stream_send_preface(&plain, SECONDS(1)), 0);
	assert_int_equal(stream_send(&plain, FRAME_HELLO, 0, NULL, 0, SECONDS(1)), 0);
	stream_init_on(&st, &s->c[1], STREAM_ANY, 0);
	s->c[1].ops = NULL;
	assert_int_equal(stream_recv(&st, &f), -EBADMSG);
	assert_non_null(strstr(st.why, "TLS: "));
	assert_int_equal(stream_recv(&st, &f), -EBADMSG);
	stream_done(&st);
	stream_done(&plain);
	free_ends(s);
}

static void a_plain_server_refuses_and_is_refused(void **state)
{
	struct ends *s = new_ends("key", "key");
	struct err e = {0};
	struct stream plain;
	struct frame f;

	assert_int_equal(chan_ready(&s->c[0], &e), -EAGAIN);
	stream_init(&plain, dup(s->wire[0]), STREAM_ANY, 0);
	assert_int_equal(stream_recv(&plain, &f), -EBADMSG);
	assert_non_null(strstr(plain.why, "not an ftvmm stream"));
	assert_int_equal(write(s->wire[0], "HTTP/1.0 400 Bad Request\r\n\r\n", 28), 28);
	assert_int_equal(chan_ready(&s->c[0], &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "TLS: "));
	stream_done(&plain);
	free_ends(s);
}

/* All that a primary said, once more: to a server that has forgotten it, and to one that has not.
 */
static void a_session_does_not_replay(void **state)
{
	static const char *const with[] = {"key", "a"};

	for (unsigned i = 0; i < 2; i++) {
		struct ends *s = new_ends(with[i], with[i]);
		char buf[16];
		ssize_t n;

		reach_each_other(s);
		speak(s);
		close_ends(s);
		connect_ends(s, TLS_PRIMARY, TLS_SECONDARY);
		assert_int_equal(write(s->wire[1], s->seen, s->nseen), s->nseen);
		n = get(s, 1, buf, sizeof(buf));
		if (n != -EBADMSG)
			fail_msg("%s: %zd", with[i], n);
		free_ends(s);
	}
}

/* A ticket would let somebody in whose certificate is not looked at again. */
static void no_ticket_is_handed_out(void **state)
{
	static const char *const with[] = {"key", "a"};

	for (unsigned i = 0; i < 2; i++) {
		struct ends *s = new_ends(with[i], with[i]);
		int r;

		while ((r = chan_ready(&s->c[1], NULL)) == -EAGAIN) {
			chan_ready(&s->c[0], NULL);
			carry(s);
		}
		assert_int_equal(r, 0);
		assert_int_equal(carry_some(s, 1, SIZE_MAX), 0);
		free_ends(s);
	}
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void slow_bytes_are_waited_for(void **state)
{
	struct ends *s = new_ends("a", "b");
	struct err e[2] = {0};
	int r[2] = {-EAGAIN, -EAGAIN};
	char buf[8];

	/* A half of a handshake, and nothing: no end, no error, nothing to be read. */
	chan_ready(&s->c[0], &e[0]);
	assert_int_equal(carry_some(s, 0, 100), 100);
	assert_int_equal(get(s, 1, buf, sizeof(buf)), -EAGAIN);
	for (int i = 0; r[0] || r[1]; i = !i) {
		r[i] = r[i] ? chan_ready(&s->c[i], &e[i]) : 0;
		carry_some(s, i, 1);
		assert_true(!r[i] || r[i] == -EAGAIN);
	}
	carry(s);
	speak(s);
	put(s, 0, "slow", 5);
	while (carry_some(s, 0, 1))
		if (get(s, 1, buf, sizeof(buf)) > 0)
			break;
	assert_string_equal(buf, "slow");
	free_ends(s);
}

/* What a poll of the socket does not tell of is handed out before it is asked again. */
static void nothing_is_left_behind(void **state)
{
	static uint8_t out[50000], in[60000];
	struct ends *s = new_ends("key", "key");
	struct pollfd p = {.fd = s->c[1].fd, .events = POLLIN};

	reach_each_other(s);
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7);
	put(s, 0, out, sizeof(out)); /* four records */
	carry(s);
	assert_int_equal(get(s, 1, in, 10), 10); /* of one that was decrypted whole */
	assert_int_equal(get(s, 1, in + 10, sizeof(in) - 10), sizeof(out) - 10);
	assert_memory_equal(in, out, sizeof(out));
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(get(s, 1, in, 1), -EAGAIN);
	for (unsigned i = 0; i < 100; i++) /* each its own record */
		put(s, 0, out + i, 1);
	carry(s);
	assert_int_equal(get(s, 1, in, sizeof(in)), 100);
	assert_memory_equal(in, out, 100);
	assert_int_equal(poll(&p, 1, 0), 0);
	free_ends(s);
}

static void parts_go_out_in_order(void **state)
{
	static uint8_t out[40000], in[40000];
	struct ends *s = new_ends("key", "key");
	struct iovec iov[6] = {{out, 40},	 {out + 40, 0},	      {out + 40, 30000},
			       {out + 30040, 7}, {out + 30047, 9952}, {out + 39999, 1}};

	reach_each_other(s);
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i >> 3 ^ i);
	assert_int_equal(chan_write(&s->c[0], iov, 6, SECONDS(10)), 0);
	carry(s);
	assert_int_equal(get(s, 1, in, sizeof(in)), sizeof(in));
	assert_memory_equal(in, out, sizeof(out));
	free_ends(s);
}

static void a_changed_byte_is_an_error(void **state)
{
	struct ends *s = new_ends("key", "key");
	struct pollfd p = {.fd = s->c[1].fd, .events = POLLIN};
	uint8_t record[64];
	char buf[16];
	ssize_t n;

	reach_each_other(s);
	put(s, 0, "good", 5);
	carry(s);
	put(s, 0, "hello", 6);
	n = read(s->wire[0], record, sizeof(record));
	record[n - 1] ^= 1;
	assert_int_equal(write(s->wire[1], record, (size_t)n), n);
	assert_int_equal(get(s, 1, buf, sizeof(buf)), 5);
	assert_int_equal(poll(&p, 1, 0), 1); /* although nothing else comes */
	assert_int_equal(get(s, 1, buf, sizeof(buf)), -EBADMSG);
	assert_int_equal(get(s, 1, buf, sizeof(buf)), -EBADMSG);
	assert_non_null(strstr(chan_why(&s->c[1]), "TLS: "));
	free_ends(s);
}

/* What came whole is read; then it is an end, wherever it was cut, and a poll shows it. */
static void a_cut_is_an_end(void **state)
{
	for (size_t cut = 0; cut <= 28; cut += 4) {
		struct ends *s = new_ends("key", "key");
		struct pollfd p = {.fd = s->c[1].fd, .events = POLLIN};
		char buf[16];

		reach_each_other(s);
		put(s, 0, "hello", 6);
		carry(s);
		put(s, 0, "world", 6);
		carry_some(s, 0, cut);
		close(s->wire[1]);
		s->wire[1] = -1;
		assert_int_equal(get(s, 1, buf, sizeof(buf)), cut == 28 ? 12 : 6);
		assert_int_equal(poll(&p, 1, 0), 1);
		assert_int_equal(get(s, 1, buf, sizeof(buf)), 0);
		assert_int_equal(get(s, 1, buf, sizeof(buf)), 0);
		assert_int_equal(poll(&p, 1, 0), 1);
		free_ends(s);
	}
}

/* Its link is full: what has come is read all the same, and the other key is taken later. */
static void another_key_does_not_stand_in_the_way(void **state)
{
	struct ends *s = new_ends("key", "key");
	struct tls_conn *c = s->c[0].self;
	struct iovec iov = {"three", 6};
	char buf[16];
	int full = 0;

	reach_each_other(s);
	put(s, 1, "one", 4);
	put(s, 1, "two", 4);
	carry(s);
	assert_int_equal(get(s, 0, buf, 4), 4); /* the second is in no socket any more */
	while (write(s->c[0].fd, buf, 1) == 1)
		full++;
	c->key_records = 0;
	assert_int_equal(s->c[0].ops->write(&s->c[0], &iov, 1), -EAGAIN);
	assert_int_equal(get(s, 0, buf, 4), 4);
	assert_string_equal(buf, "two");
	while (full--)
		assert_int_equal(read(s->wire[0], buf, 1), 1);
	put(s, 0, "three", 6);
	assert_int_equal(c->records, 1);
	put(s, 0, "four", 5); /* with another one */
	assert_int_equal(c->records, 1);
	carry(s);
	assert_int_equal(get(s, 1, buf, sizeof(buf)), 11);
	assert_string_equal(buf + 6, "four");
	free_ends(s);
}

/* OpenSSL counts them as of the call that comes next. */
static void errors_of_others_are_not_of_the_link(void **state)
{
	struct ends *s = new_ends("key", "key");
	const struct tls *t = s->tls[0];
	char buf[16];

	reach_each_other(s);
	assert_int_not_equal(t->lib.SSL_CTX_load_verify_file(t->ctx, "/nowhere"), 1);
	assert_int_equal(get(s, 0, buf, sizeof(buf)), -EAGAIN);
	assert_int_not_equal(t->lib.SSL_CTX_load_verify_file(t->ctx, "/nowhere"), 1);
	speak(s);
	free_ends(s);
}

/* "Goodbye" may have come when this side finds that it cannot write any more. */
static void what_came_is_read_after_a_failed_write(void **state)
{
	struct ends *s = new_ends("key", "key");
	struct iovec iov = {"late", 5};
	char buf[16];

	reach_each_other(s);
	put(s, 0, "goodbye", 8);
	carry(s);
	close(s->wire[1]);
	s->wire[1] = -1;
	assert_int_equal(chan_write(&s->c[1], &iov, 1, SECONDS(1)), -EPIPE);
	assert_int_equal(get(s, 1, buf, sizeof(buf)), 8);
	assert_string_equal(buf, "goodbye");
	assert_int_equal(get(s, 1, buf, sizeof(buf)), 0);
	assert_int_equal(chan_write(&s->c[1], &iov, 1, SECONDS(1)), -EPIPE);
	free_ends(s);
}

/* --- two threads and many keys ---------------------------------------------------------------- */

#define MANY (16u << 20)

struct flood {
	struct chan *c;
	int result;
};

static void *write_many(void *arg)
{
	struct flood *f = arg;
	uint8_t *data = malloc(MANY);
	struct iovec iov[2] = {{data, 40}, {data + 40, MANY - 40}};

	for (unsigned i = 0; i < MANY; i++)
		data[i] = (uint8_t)(i % 251);
	f->result = chan_write(f->c, iov, 2, SECONDS(60));
	free(data);
	return NULL;
}

/* All that a thread writes, and answers the other way meanwhile, read by another one at each end.
 */
static void one_writes_while_another_reads(void **state)
{
	struct ends *s = new_ends("key", "key");
	struct flood f = {.c = &s->c[0]};
	static uint8_t buf[100000];
	pthread_t thread;
	unsigned came = 0, answers = 0, heard = 0;

	reach_each_other(s);
	((struct tls_conn *)s->c[0].self)->key_records = 10;
	assert_int_equal(pthread_create(&thread, NULL, write_many, &f), 0);
	while (came < MANY || heard < answers) {
		ssize_t n;

		carry_some(s, 0, SIZE_MAX);
		n = get(s, 1, buf, sizeof(buf));
		assert_true(n > 0 || n == -EAGAIN);
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] != (came + (unsigned)i) % 251)
				fail_msg("byte %u", came + (unsigned)i);
		if (n > 0) {
			came += (unsigned)n;
			put(s, 1, "ack", 4);
			answers += 4;
		}
		carry_some(s, 1, SIZE_MAX);
		n = get(s, 0, buf, sizeof(buf));
		assert_true(n > 0 || n == -EAGAIN);
		heard += n > 0 ? (unsigned)n : 0;
	}
	pthread_join(thread, NULL);
	assert_int_equal(f.result, 0);
	assert_true(answers > 4);
	assert_true(((struct tls_conn *)s->c[0].self)->records < MANY / TLS_RECORD);
	free_ends(s);
}

/* --- key files -------------------------------------------------------------------------------- */

static void bad_key(const char *text, mode_t mode, const char *why)
{
	unsigned char key[TLS_KEY_BYTES];
	struct err e = {0};
	char path[256];
	int fd = open(in_dir("bad", path), O_CREAT | O_WRONLY | O_TRUNC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
	assert_true(tls_read_key(path, key, &e) < 0);
	if (!strstr(e.msg, why))
		fail_msg("'%s', not '%s'", e.msg, why);
	unlink(path);
}

static void key_files(void **state)
{
	static const char good[] =
		"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
	unsigned char key[TLS_KEY_BYTES], other[TLS_KEY_BYTES];
	struct err e = {0};
	char path[256];
	struct stat st;

	assert_int_equal(tls_read_key(in_dir("key", path), key, &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(tls_make_key(path, &e), -EEXIST); /* it may be in use */
	assert_int_equal(tls_read_key(in_dir("other-key", path), other, &e), 0);
	assert_memory_not_equal(key, other, sizeof(key));
	bad_key(good, 0640, "mode 640");
	bad_key(good, 0602, "mode 602");
	bad_key("", 0600, "64 hexadecimal digits");
	bad_key(good + 2, 0600, "64 hexadecimal digits");
	bad_key("0x112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", 0600,
		"64 hexadecimal digits");
	e = (struct err){0};
	assert_int_equal(tls_read_key("/dev/null", key, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "not a regular file"));
	e = (struct err){0};
	assert_int_equal(tls_read_key("/nowhere", key, &e), -ENOENT);
}

static void bad_dir(const char *change, const char *why)
{
	char path[256], cmd[640];
	struct tls_from from = {.name = "vm", .dir = in_dir("changed", path)};
	struct err e = {0};
	struct tls *t;

	snprintf(cmd, sizeof(cmd), "cd %s && rm -rf changed && cp -a a changed && cd changed && %s",
		 dir, change);
	assert_int_equal(system(cmd), 0);
	assert_true(tls_open(&t, &from, &e) < 0);
	if (!strstr(e.msg, why))
		fail_msg("'%s', not '%s'", e.msg, why);
}

static void folders(void **state)
{
	bad_dir("chmod 644 key.pem", "others may read");
	bad_dir("chmod 666 ca.pem", "others may change");
	bad_dir("openssl ec -in key.pem -aes128 -passout pass:x -out key.pem 2> /dev/null",
		"key.pem': has a passphrase");
	bad_dir("rm ca.pem", "ca.pem");
	bad_dir("rm cert.pem", "cert.pem");
	bad_dir("cp ../b/key.pem .", "key.pem': key values mismatch");
	bad_dir("echo > cert.pem", "cert.pem': no start line");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(those_of_one_key_or_authority_reach_each_other),
		cmocka_unit_test(others_are_refused),
		cmocka_unit_test(another_vm_is_refused),
		cmocka_unit_test(who_shows_nothing_is_refused),
		cmocka_unit_test(older_versions_are_refused),
		cmocka_unit_test(a_plain_client_is_refused),
		cmocka_unit_test(a_plain_server_refuses_and_is_refused),
		cmocka_unit_test(a_session_does_not_replay),
		cmocka_unit_test(no_ticket_is_handed_out),
		cmocka_unit_test(slow_bytes_are_waited_for),
		cmocka_unit_test(nothing_is_left_behind),
		cmocka_unit_test(parts_go_out_in_order),
		cmocka_unit_test(a_changed_byte_is_an_error),
		cmocka_unit_test(a_cut_is_an_end),
		cmocka_unit_test(another_key_does_not_stand_in_the_way),
		cmocka_unit_test(errors_of_others_are_not_of_the_link),
		cmocka_unit_test(what_came_is_read_after_a_failed_write),
		cmocka_unit_test(one_writes_while_another_reads),
		cmocka_unit_test(key_files),
		cmocka_unit_test(folders),
	};

	signal(SIGPIPE, SIG_IGN); /* as the program does */
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
