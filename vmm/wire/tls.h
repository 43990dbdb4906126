/*
 * Who may speak with whom: the credentials of one VM's process, from a file with a key that both
 * sides have, or a folder with certificates; and the channels that they protect, TLS 1.3 only.
 *
 * A peer shows which VM it is for and what it is to it, "ftvmm:NAME/ROLE": as the identity of the
 * key, or as a URI among its certificate's names. Of what one authority has signed for a site, only
 * what names this VM and the role that the peer plays is let in: a web server's certificate does
 * not receive memory, and another VM's host does not overwrite an image. NAME may be "*" in a
 * certificate: of a host that runs many VMs.
 */
#ifndef VMM_TLS_H
#define VMM_TLS_H

#include <stddef.h>

#include "vmm/base/err.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/chan_io.h"

#define TLS_KEY_BYTES	 32
#define TLS_IDENTITY_MAX 96

/* A primary and a source connect, the others are connected to. */
enum tls_role { TLS_PRIMARY, TLS_SECONDARY, TLS_SOURCE, TLS_DESTINATION, TLS_ROLE_MAX };

struct tls;

/* One of psk (a file) and dir; name: the VM's. Blocks: files are read. */
struct tls_from {
	const char *psk, *dir, *name;
};

int tls_open(struct tls **ret, const struct tls_from *from, struct err *e);
/* After the last of its channels. NULL: nothing. */
void tls_close(struct tls *t);
/* 0, or for a tls: address without credentials what to do about it. */
int tls_check(const struct tls *t, const struct chan_uri *uri, struct err *e);
/*
 * A channel on a connected socket, which is the channel's from then on, also on failure. `us` is
 * the role that this side plays on it. chan_ready() says when it can be written to.
 */
int tls_chan(const struct tls *t, enum tls_role us, int fd, struct chan *ret, struct err *e);
/* "ftvmm:NAME/ROLE" */
void tls_identity(const char *name, enum tls_role role, char ret[TLS_IDENTITY_MAX]);
/* A new key into a new file that nobody else may read. */
int tls_make_key(const char *path, struct err *e);
/* Read one; a file that others may read, or with anything else in it, is refused. */
int tls_read_key(const char *path, unsigned char ret[TLS_KEY_BYTES], struct err *e);

#endif
