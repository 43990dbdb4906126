/* Credentials: what is shown to a peer, and what is asked of it. */
#include "vmm/wire/tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vmm/wire/tls_conn.h"

/* Of one hash: a key goes with either. The second is for processors without AES instructions. */
#define CIPHERS	    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
#define READ_BUFFER (64 << 10)

static const unsigned char first_cipher[] = {0x13, 0x01};

bool tls_listens(enum tls_role us)
{
	return us == TLS_SECONDARY || us == TLS_DESTINATION;
}

enum tls_role tls_peer_of(enum tls_role us)
{
	static const enum tls_role peer[TLS_ROLE_MAX] = {
		[TLS_PRIMARY] = TLS_SECONDARY,
		[TLS_SECONDARY] = TLS_PRIMARY,
		[TLS_SOURCE] = TLS_DESTINATION,
		[TLS_DESTINATION] = TLS_SOURCE,
	};

	return peer[us];
}

void tls_identity(const char *name, enum tls_role role, char ret[TLS_IDENTITY_MAX])
{
	static const char *const words[TLS_ROLE_MAX] = {
		[TLS_PRIMARY] = "primary",
		[TLS_SECONDARY] = "secondary",
		[TLS_SOURCE] = "source",
		[TLS_DESTINATION] = "destination",
	};

	snprintf(ret, TLS_IDENTITY_MAX, "ftvmm:%s/%s", name, words[role]);
}

/* --- a key that both have --------------------------------------------------------------------- */

static SSL_SESSION *session_of_key(const struct tls *t, SSL *ssl)
{
	const struct tls_lib *l = &t->lib;
	SSL_SESSION *s = l->SSL_SESSION_new();

	if (s && l->SSL_SESSION_set1_master_key(s, t->key, sizeof(t->key)) &&
	    l->SSL_SESSION_set_cipher(s, l->SSL_CIPHER_find(ssl, first_cipher)) &&
	    l->SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
		return s;
	l->SSL_SESSION_free(s);
	return NULL;
}

/* Whoever connects says what it is; the key proves it, as it signs that, too. */
static int offer_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *len,
		     SSL_SESSION **ret)
{
	struct tls_conn *c = tls_lib_owner(ssl);

	tls_identity(c->tls->name, c->us, c->identity);
	*id = (unsigned char *)c->identity;
	*len = strlen(c->identity);
	*ret = session_of_key(c->tls, ssl);
	return *ret != NULL;
}

static int find_key(SSL *ssl, const unsigned char *id, size_t len, SSL_SESSION **ret)
{
	struct tls_conn *c = tls_lib_owner(ssl);

	*ret = NULL;
	tls_identity(c->tls->name, tls_peer_of(c->us), c->identity);
	if (len == strlen(c->identity) && !memcmp(id, c->identity, len)) {
		*ret = session_of_key(c->tls, ssl);
		return *ret != NULL;
	}
	snprintf(c->why, sizeof(c->why), "TLS: the peer is not %s", c->identity);
	return 1;
}

static void use_key(struct tls *t)
{
	t->lib.SSL_CTX_set_psk_find_session_callback(t->ctx, find_key);
	t->lib.SSL_CTX_set_psk_use_session_callback(t->ctx, offer_key);
}

/* --- certificates ----------------------------------------------------------------------------- */

static bool is_named(const struct tls_lib *l, const GENERAL_NAME *n, const char *identity)
{
	const ASN1_STRING *s = n->d.uniformResourceIdentifier;
	size_t len = strlen(identity);

	return n->type == GEN_URI && (size_t)l->ASN1_STRING_length(s) == len &&
	       !memcmp(l->ASN1_STRING_get0_data(s), identity, len);
}

static bool has_name(const struct tls_lib *l, X509 *cert, const char *name, enum tls_role role)
{
	GENERAL_NAMES *names = l->X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	char this[TLS_IDENTITY_MAX], any[TLS_IDENTITY_MAX];
	bool has = false;

	tls_identity(name, role, this);
	tls_identity("*", role, any);
#ifdef BUG_ROLE_UNCHECKED /* planted: the tests must notice */
	has = true;
#endif
	for (int i = 0; names && i < l->OPENSSL_sk_num((OPENSSL_STACK *)names) && !has; i++) {
		const GENERAL_NAME *n = l->OPENSSL_sk_value((OPENSSL_STACK *)names, i);

		has = is_named(l, n, this) || is_named(l, n, any);
	}
	l->GENERAL_NAMES_free(names);
	return has;
}

/* Signed by the authority, valid now, and of who is to be there. */
static int check_peer(X509_STORE_CTX *x, void *arg)
{
	const struct tls *t = arg;
	const struct tls_lib *l = &t->lib;
	SSL *ssl = l->X509_STORE_CTX_get_ex_data(x, l->SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_conn *c = tls_lib_owner(ssl);
	enum tls_role peer = tls_peer_of(c->us);

	if (l->X509_verify_cert(x) <= 0) {
		snprintf(c->why, sizeof(c->why), "TLS: the peer's certificate: %s",
			 l->X509_verify_cert_error_string(l->X509_STORE_CTX_get_error(x)));
		return 0;
	}
	if (has_name(l, l->X509_STORE_CTX_get0_cert(x), t->name, peer))
		return 1;
	tls_identity(t->name, peer, c->identity);
	snprintf(c->why, sizeof(c->why), "TLS: the peer's certificate is not of %s (a URI in it)",
		 c->identity);
	l->X509_STORE_CTX_set_error(x, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

/* The key is nobody else's to read; and whoever could change ca.pem would say who is let in. */
static int file_in(const char *dir, const char *file, char *to, size_t cap, struct err *e)
{
	bool secret = !strcmp(file, "key.pem");
	struct stat st;

	if ((size_t)snprintf(to, cap, "%s/%s", dir, file) >= cap)
		return err_set(e, -ENAMETOOLONG, "--tls-dir '%.200s': the path is too long", dir);
	if (stat(to, &st))
		return err_sys(e, "--tls-dir: '%s'", to);
	if (st.st_mode & (secret ? 077 : 022))
		return err_set(
			e, -EPERM, "--tls-dir: '%s': others may %schange it (mode %03o); chmod %s",
			to, secret ? "read or " : "", st.st_mode & 0777, secret ? "600" : "go-w");
	return 0;
}

/* Nobody is asked: who starts a VM may be no person, and would wait for ever. */
static int no_passphrase(char *buf, int size, int writing, void *asked)
{
	*(bool *)asked = true;
	return -1;
}

static int use_file(struct tls *t, const char *dir, const char *file, struct err *e)
{
	const struct tls_lib *l = &t->lib;
	bool asked = false;
	char path[512];
	int good, r = file_in(dir, file, path, sizeof(path), e);

	if (r)
		return r;
	l->SSL_CTX_set_default_passwd_cb(t->ctx, no_passphrase);
	l->SSL_CTX_set_default_passwd_cb_userdata(t->ctx, &asked);
	if (!strcmp(file, "ca.pem"))
		good = l->SSL_CTX_load_verify_file(t->ctx, path);
	else if (!strcmp(file, "cert.pem"))
		good = l->SSL_CTX_use_certificate_chain_file(t->ctx, path);
	else
		good = l->SSL_CTX_use_PrivateKey_file(t->ctx, path, SSL_FILETYPE_PEM);
	if (good <= 0)
		return err_set(e, -EINVAL, "--tls-dir: '%s': %s", path,
			       asked ? "has a passphrase; `openssl pkey` writes it without one"
				     : tls_lib_why(l));
	return 0;
}

static int use_dir(struct tls *t, const char *dir, struct err *e)
{
	static const char *const files[] = {"ca.pem", "cert.pem", "key.pem"};
	int r = 0;

	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]) && !r; i++)
		r = use_file(t, dir, files[i], e);
	t->lib.SSL_CTX_set_cert_verify_callback(t->ctx, check_peer, t);
	return r;
}

/* --- both ------------------------------------------------------------------------------------- */

static int make_context(struct tls *t, struct err *e)
{
	const struct tls_lib *l = &t->lib;
	const long mode = SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_AUTO_RETRY;

	t->ctx = l->SSL_CTX_new(l->TLS_method());
	if (!t->ctx ||
	    !l->SSL_CTX_ctrl(t->ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_3_VERSION, NULL) ||
	    !l->SSL_CTX_set_ciphersuites(t->ctx, CIPHERS))
		return err_set(e, -EIO, "TLS: %s", tls_lib_why(l));
	l->SSL_CTX_ctrl(t->ctx, SSL_CTRL_MODE, mode, NULL);
	/* Nothing of one connection is of use to the next. */
	l->SSL_CTX_ctrl(t->ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
	l->SSL_CTX_set_num_tickets(t->ctx, 0);
	/* An end says nothing, in order or not: what ends in order says so in a frame. */
	l->SSL_CTX_set_options(t->ctx, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_TICKET);
	l->SSL_CTX_ctrl(t->ctx, SSL_CTRL_SET_READ_AHEAD, 1, NULL);
	l->SSL_CTX_set_default_read_buffer_len(t->ctx, READ_BUFFER);
	l->SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return 0;
}

static int open_from(struct tls *t, const struct tls_from *from, struct err *e)
{
	int r = 0;

	t->has_key = from->psk && from->psk[0];
	snprintf(t->name, sizeof(t->name), "%s", from->name);
	if (t->has_key)
		r = tls_read_key(from->psk, t->key, e);
	if (!r)
		r = tls_lib_load(&t->lib, e);
	if (!r)
		r = make_context(t, e);
	if (!r && t->has_key)
		use_key(t);
	else if (!r)
		r = use_dir(t, from->dir, e);
	return r;
}

int tls_open(struct tls **ret, const struct tls_from *from, struct err *e)
{
	struct tls *t = calloc(1, sizeof(*t));
	int r = t ? open_from(t, from, e) : err_set(e, -ENOMEM, "out of memory");

	if (!r)
		*ret = t;
	else
		tls_close(t);
	return r;
}

int tls_check(const struct tls *t, const struct chan_uri *uri, struct err *e)
{
	if (t || uri->kind != CHAN_TLS)
		return 0;
	return err_set(e, -ENOKEY,
		       "tls:%s:%s needs a key or certificates: start `ftvmm run` with --tls-psk "
		       "FILE or --tls-dir DIR",
		       uri->host, uri->port);
}

void tls_close(struct tls *t)
{
	if (!t)
		return;
	if (t->ctx)
		t->lib.SSL_CTX_free(t->ctx);
	explicit_bzero(t->key, sizeof(t->key));
	free(t);
}
