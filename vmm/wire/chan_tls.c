/* A channel through TLS. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/lock.h"
#include "vmm/wire/tls_conn.h"

/*
 * After so many records another key is taken: one may encrypt 2^24.5 of them (RFC 8446, 5.5), and
 * that is less than an hour on a fast link.
 */
#define KEY_RECORDS (1u << 23)

static const struct tls_lib *lib(const struct tls_conn *c)
{
	return &c->tls->lib;
}

/* An alert is the peer's refusal in two words: the rest is known there alone. */
static void say_why(struct tls_conn *c)
{
	const char *text = tls_lib_why(lib(c));

	if (c->why[0])
		return;
	snprintf(c->why, sizeof(c->why), "TLS: %s%s", text,
		 strstr(text, " alert ") ? ": the peer refuses this side, and its log says why"
					 : "");
}

/*
 * Why a call did not do it, with the lock or in the handshake. An end, -EPIPE, is none of a reason;
 * of -EBADMSG, why says what the peer did. Whoever polls the socket is to see it, whatever comes.
 */
static int stopped_reading(struct tls_conn *c, int fd, int result, int error)
{
	int kind = lib(c)->SSL_get_error(c->ssl, result);

	if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	if (kind == SSL_ERROR_SYSCALL && error)
		c->read_error = -error;
	else if (kind == SSL_ERROR_SYSCALL || kind == SSL_ERROR_ZERO_RETURN)
		c->read_error = -EPIPE;
	else
		c->read_error = -EBADMSG;
	say_why(c);
	shutdown(fd, SHUT_RD);
	return c->read_error;
}

/* With the lock. What has come may still be read. */
static int stopped_writing(struct tls_conn *c, int error)
{
	int kind = lib(c)->SSL_get_error(c->ssl, 0);

	lib(c)->ERR_clear_error();
	if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	c->write_error = kind == SSL_ERROR_SYSCALL && error ? -error : -EPIPE;
	return c->write_error;
}

/* --- the handshake ---------------------------------------------------------------------------- */

/* 0, -EAGAIN: more must come first, or what is wrong. */
static int shake(struct tls_conn *c, int fd)
{
	int result, error;

	if (c->up)
		return 0;
	if (c->read_error)
		return c->read_error;
	lib(c)->ERR_clear_error();
	errno = 0;
	result = lib(c)->SSL_do_handshake(c->ssl);
	error = errno;
	if (result != 1)
		return stopped_reading(c, fd, result, error);
	/* There is no way to be here without it; if there were, anybody would be at the other end.
	 */
	if (c->tls->has_key && !lib(c)->SSL_session_reused(c->ssl)) {
		snprintf(c->why, sizeof(c->why), "TLS: the peer did not use the key");
		return c->read_error = -EBADMSG;
	}
	c->up = true;
	return 0;
}

static int tls_ready(struct chan *ch, struct err *e)
{
	struct tls_conn *c = ch->self;
	int r = shake(c, ch->fd);

	if (!r || r == -EAGAIN)
		return r;
	return err_set(e, r, "%s",
		       r == -EPIPE     ? "TLS: the peer ended the connection; has it the same key, "
					 "or authority, and is this a tls: address there?"
		       : r == -EBADMSG ? c->why
				       : strerror(-r));
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* One record's bytes at most; 0 at the end. */
static ssize_t read_record(struct tls_conn *c, int fd, void *buf, size_t len)
{
	ssize_t r;
	size_t n;

	pthread_mutex_lock(&c->lock);
	r = c->read_error;
	if (!r) {
		lib(c)->ERR_clear_error();
		errno = 0;
		if (lib(c)->SSL_read_ex(c->ssl, buf, len, &n) == 1)
			r = (ssize_t)n;
		else
			r = stopped_reading(c, fd, 0, errno);
	}
	pthread_mutex_unlock(&c->lock);
	return r == -EPIPE ? 0 : r;
}

/*
 * All that there is: what is decrypted and not read no poll of the socket tells of. So less than
 * was asked for means, as of a socket, that it has no more; or its end or fault, which lasts.
 */
static ssize_t tls_read(struct chan *ch, void *buf, size_t len)
{
	struct tls_conn *c = ch->self;
	size_t got = 0;
	ssize_t n = shake(c, ch->fd);

	if (n)
		return n == -EPIPE ? 0 : n;
	while (got < len) {
		n = read_record(c, ch->fd, (uint8_t *)buf + got, len - got);
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	return got ? (ssize_t)got : n;
}

/* The next record: of the first part alone, if that fills one, else collected. */
static const void *next_piece(struct tls_conn *c, const struct iovec *iov, int niov, size_t *ret)
{
	size_t n = 0;

	if (iov->iov_len >= TLS_RECORD || niov == 1) {
		*ret = iov->iov_len < TLS_RECORD ? iov->iov_len : TLS_RECORD;
		return iov->iov_base;
	}
	for (int i = 0; i < niov && n < TLS_RECORD; i++) {
		size_t part = iov[i].iov_len < TLS_RECORD - n ? iov[i].iov_len : TLS_RECORD - n;

		if (part)
			memcpy(c->piece + n, iov[i].iov_base, part);
		n += part;
	}
	*ret = n;
	return c->piece;
}

/*
 * With the lock. Only where there is room for its message: while that waited, a read would say that
 * there is nothing. OpenSSL refuses while a piece waits; there is time for a later one.
 */
static void take_another_key(struct tls_conn *c, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (c->records >= c->key_records && poll(&p, 1, 0) == 1 && p.revents == POLLOUT &&
	    lib(c)->SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
		c->records = 0;
}

/* With the lock. A piece that waits is given again, whole: chan_write() does so. */
static ssize_t write_record(struct tls_conn *c, int fd, const void *piece, size_t len)
{
	size_t n;

	if (c->write_error)
		return c->write_error;
	take_another_key(c, fd);
	lib(c)->ERR_clear_error();
	errno = 0;
	if (lib(c)->SSL_write_ex(c->ssl, piece, len, &n) != 1)
		return stopped_writing(c, errno);
	c->records++;
	return (ssize_t)n;
}

static ssize_t tls_write(struct chan *ch, const struct iovec *iov, int niov)
{
	struct tls_conn *c = ch->self;
	const void *piece;
	size_t len;
	ssize_t n;

	if (!c->up)
		return -ENOTCONN;
	piece = next_piece(c, iov, niov, &len);
	if (!len)
		return 0;
	pthread_mutex_lock(&c->lock);
	n = write_record(c, ch->fd, piece, len);
	pthread_mutex_unlock(&c->lock);
	return n;
}

static const char *tls_why(const struct chan *ch)
{
	const struct tls_conn *c = ch->self;

	return c->why;
}

/* --- the channel ------------------------------------------------------------------------------ */

static void free_conn(struct tls_conn *c)
{
	if (!c)
		return;
	if (c->ssl)
		lib(c)->SSL_free(c->ssl);
	pthread_mutex_destroy(&c->lock);
	free(c->piece);
	free(c);
}

static void tls_close_chan(struct chan *ch)
{
	free_conn(ch->self);
	close(ch->fd);
}

static int tls_wait(struct chan *ch, uint64_t deadline_ns)
{
	return chan_socket_ops.wait(ch, deadline_ns);
}

static uint64_t tls_rate(const struct chan *ch)
{
	return chan_socket_ops.rate(ch);
}

static void tls_shut(struct chan *ch)
{
	chan_socket_ops.shut(ch);
}

static void tls_shallow(struct chan *ch)
{
	chan_socket_ops.shallow(ch);
}

static const struct chan_ops tls_ops = {
	.read = tls_read,
	.write = tls_write,
	.wait = tls_wait,
	.close = tls_close_chan,
	.rate = tls_rate,
	.shut = tls_shut,
	.shallow = tls_shallow,
	.ready = tls_ready,
	.why = tls_why,
};

static struct tls_conn *new_conn(const struct tls *t, enum tls_role us, int fd)
{
	struct tls_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	lock_init(&c->lock);
	c->tls = t;
	c->us = us;
	c->key_records = KEY_RECORDS;
	c->piece = malloc(TLS_RECORD);
	c->ssl = t->lib.SSL_new(t->ctx);
	if (!c->piece || !c->ssl || !t->lib.SSL_set_ex_data(c->ssl, 0, c) ||
	    !t->lib.SSL_set_fd(c->ssl, fd) ||
	    (tls_listens(us) &&
	     !t->lib.SSL_set_session_id_context(c->ssl, (const unsigned char *)"ftvmm", 5))) {
		free_conn(c);
		return NULL;
	}
	if (tls_listens(us))
		t->lib.SSL_set_accept_state(c->ssl);
	else
		t->lib.SSL_set_connect_state(c->ssl);
	return c;
}

int tls_chan(const struct tls *t, enum tls_role us, int fd, struct chan *ret, struct err *e)
{
	struct tls_conn *c = new_conn(t, us, fd);

	if (!c) {
		close(fd);
		return err_set(e, -ENOMEM, "TLS: out of memory");
	}
	*ret = (struct chan){.ops = &tls_ops, .fd = fd, .self = c};
	return 0;
}
