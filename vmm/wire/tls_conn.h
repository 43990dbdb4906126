/* One protected connection, as credentials and channel see it; private to vmm/wire/tls*.c. */
#ifndef VMM_TLS_CONN_H
#define VMM_TLS_CONN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/wire/tls.h"
#include "vmm/wire/tls_lib.h"

#define TLS_RECORD 16384 /* plain bytes, at most */

struct tls {
	struct tls_lib lib;
	SSL_CTX *ctx;
	char name[64];
	bool has_key;
	unsigned char key[TLS_KEY_BYTES];
};

/*
 * Who reads and who writes may be two threads, and an SSL object is for one at a time. The lock is
 * held for a record at most: a system call that does not wait, and its cipher.
 */
struct tls_conn {
	const struct tls *tls;
	enum tls_role us;
	bool up; /* the handshake is done; before that there is one thread */
	pthread_mutex_t lock;
	/* Under lock. */
	SSL *ssl;
	uint32_t key_records;	     /* before another key is taken */
	uint32_t records;	     /* written with this one */
	int read_error, write_error; /* nothing more can be */
	char why[200];
	/* Owner: the writer. */
	uint8_t *piece; /* a record that is made of many parts */
	char identity[TLS_IDENTITY_MAX];
};

bool tls_listens(enum tls_role us);
/* The role of whoever is at the other end. */
enum tls_role tls_peer_of(enum tls_role us);

#endif
