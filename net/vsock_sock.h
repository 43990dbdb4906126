/* One unix socket of a vsock: what is written to it, and when it is closed. For net/ only. */
#ifndef NET_VSOCK_SOCK_H
#define NET_VSOCK_SOCK_H

#include "net/vsock_host.h"

/* A free place, set up as `phase` with a new id; NULL when all are taken. */
struct vsock_sock *vsock_sock_new(struct vsock_host *h, uint64_t id, enum vsock_phase phase);
struct vsock_sock *vsock_sock_find(struct vsock_host *h, uint64_t id);
/* Have the device take an event. */
void vsock_sock_note(struct vsock_sock *s, uint32_t note);
/* Close without an event. */
void vsock_sock_free(struct vsock_sock *s);
/* Close, and tell the device. */
void vsock_sock_die(struct vsock_sock *s);
/* Ask the loop for what is of use now. */
void vsock_sock_repoll(struct vsock_sock *s);
/* To the program, or to the buffer of what waits for it. May end in vsock_sock_die(). */
void vsock_sock_write(struct vsock_sock *s, const uint8_t *data, uint32_t len);
/* The guest receives or sends no more: the program sees so behind all bytes. */
void vsock_sock_shutdown(struct vsock_sock *s, uint32_t flags);
/* The program is there and takes bytes. */
void vsock_sock_open(struct vsock_sock *s);
ssize_t vsock_sock_read(struct vsock_sock *s, void *buf, uint32_t cap);

#endif
