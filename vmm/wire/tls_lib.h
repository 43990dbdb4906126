/*
 * OpenSSL, loaded when a key or a certificate is given and not before: it would double the time
 * that the program takes to start. Called through this table.
 */
#ifndef VMM_TLS_LIB_H
#define VMM_TLS_LIB_H

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "vmm/base/err.h"

/* clang-format off */
#define TLS_FUNCTIONS(F) \
	F(OPENSSL_init_ssl) F(TLS_method) \
	F(SSL_CTX_new) F(SSL_CTX_free) F(SSL_CTX_ctrl) F(SSL_CTX_set_options) \
	F(SSL_CTX_set_ciphersuites) F(SSL_CTX_set_num_tickets) F(SSL_CTX_set_verify) \
	F(SSL_CTX_set_cert_verify_callback) F(SSL_set_session_id_context) \
	F(SSL_CTX_set_default_read_buffer_len) F(SSL_CTX_load_verify_file) \
	F(SSL_CTX_use_certificate_chain_file) F(SSL_CTX_use_PrivateKey_file) \
	F(SSL_CTX_set_default_passwd_cb) F(SSL_CTX_set_default_passwd_cb_userdata) \
	F(SSL_CTX_set_psk_find_session_callback) F(SSL_CTX_set_psk_use_session_callback) \
	F(SSL_new) F(SSL_free) F(SSL_set_fd) F(SSL_set_accept_state) F(SSL_set_connect_state) \
	F(SSL_do_handshake) F(SSL_read_ex) F(SSL_write_ex) F(SSL_get_error) F(SSL_key_update) \
	F(SSL_session_reused) F(SSL_set_ex_data) F(SSL_get_ex_data) \
	F(SSL_get_ex_data_X509_STORE_CTX_idx) F(SSL_CIPHER_find) \
	F(SSL_SESSION_new) F(SSL_SESSION_free) F(SSL_SESSION_set1_master_key) \
	F(SSL_SESSION_set_cipher) F(SSL_SESSION_set_protocol_version) \
	F(ERR_clear_error) F(ERR_peek_error) F(ERR_reason_error_string) \
	F(X509_verify_cert) F(X509_STORE_CTX_get_error) F(X509_STORE_CTX_set_error) \
	F(X509_STORE_CTX_get_ex_data) F(X509_STORE_CTX_get0_cert) \
	F(X509_verify_cert_error_string) F(X509_get_ext_d2i) F(GENERAL_NAMES_free) \
	F(OPENSSL_sk_num) F(OPENSSL_sk_value) F(ASN1_STRING_get0_data) F(ASN1_STRING_length)
/* clang-format on */

#define TLS_POINTER(name) typeof(name) *name;
struct tls_lib {
	TLS_FUNCTIONS(TLS_POINTER)
};
#undef TLS_POINTER

/* It stays loaded. */
int tls_lib_load(struct tls_lib *l, struct err *e);
/* What the oldest error of this thread is, for a message; those are forgotten. */
const char *tls_lib_why(const struct tls_lib *l);
/* What SSL_set_ex_data() put into it, for callbacks, which are given nothing else of the caller's.
 */
void *tls_lib_owner(const SSL *ssl);

#endif
