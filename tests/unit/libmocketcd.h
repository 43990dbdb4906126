/* Endpoints of an etcd on loopback, each of which does what the test says; they share one store. */
#ifndef TESTS_LIBMOCKETCD_H
#define TESTS_LIBMOCKETCD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

enum mock_mode {
	MOCK_GOOD,
	MOCK_SILENT,  /* takes the request, and does nothing */
	MOCK_LOSE,    /* does it, and ends the connection */
	MOCK_HANG,    /* does it, and says nothing */
	MOCK_TRICKLE, /* a byte now and then, for ever */
	MOCK_RAW,     /* says what the test says, as JSON */
	MOCK_BYTES,   /* the same, with the head that the test says */
	MOCK_ENDLESS, /* answers without an end */
	MOCK_HEADERS, /* the same, of headers */
	MOCK_OTHER,   /* is of another cluster */
};

struct mock_store {
	pthread_mutex_t lock;
	char value[8192]; /* base64 */
	int64_t revision; /* of the key, 0: none */
	unsigned puts;
};

struct mock {
	struct mock_store *store;
	int listening;
	unsigned port;
	atomic_int mode;
	_Atomic(const char *) raw;
	atomic_uint requests;
	pthread_t thread;
	int held[64]; /* connections that wait for ever */
	unsigned nheld;
};

void mock_start(struct mock *m, struct mock_store *s);
/* Nobody listens there any more. */
void mock_stop(struct mock *m);

#endif
