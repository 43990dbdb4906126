/*
 * A virtio-vsock with its host's side in a folder of its own, the guest's driver, and programs.
 * Include with it: libvirtio.h.
 */
#ifndef TESTS_LIBVSOCK_H
#define TESTS_LIBVSOCK_H

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "devices/virtio_vsock.h"
#include "tests/unit/libvirtio.h"

#define RX	 0
#define TX	 1
#define EVENT	 2
#define CID	 42u
#define HDR	 sizeof(struct virtio_vsock_hdr)
#define QSIZE	 64
#define RX_BUF	 4096u
#define RX_AT(i) (RIG_DATA + 0x100000 + RX_BUF * (uint64_t)(i))
#define EVENT_AT (RIG_DATA + 0x90000)
#define OP(n)	 VIRTIO_VSOCK_OP_##n

typedef struct virtio_vsock_hdr hdr_t;

struct fix {
	struct rig rig;
	struct vsock_host host;
	struct device *dev;
	struct rig_q q[3];
	char folder[32], path[64];
	uint16_t rx_seen; /* used entries of RX looked at */
	uint32_t buf_alloc, fwd_cnt;
	uint8_t data[70000];
	uint8_t out[70000];
};

int vs_setup(void **state);
int vs_teardown(void **state);
void *vs_ram(struct fix *f, uint64_t gpa);
void vs_add_rx(struct fix *f, unsigned n);
void vs_add_event(struct fix *f);
void vs_start_with(struct fix *f, unsigned rx);
void vs_start(struct fix *f);
hdr_t vs_packet(struct fix *f, uint32_t guest_port, uint32_t host_port, uint16_t op);
/* Post a packet with n bytes behind it, without looking whether it is taken. */
void vs_post(struct fix *f, const hdr_t *h, const void *data, uint32_t n);
void vs_send_packet(struct fix *f, hdr_t h, const void *data, uint32_t n);
void vs_send_op(struct fix *f, uint32_t guest_port, uint32_t host_port, uint16_t op);
void vs_send_data(struct fix *f, uint32_t gp, uint32_t hp, const void *data, uint32_t n);
/* The next packet for the guest; its bytes go to f->data. The buffer is posted again. */
hdr_t vs_receive(struct fix *f);
hdr_t vs_expect(struct fix *f, uint16_t op);
void vs_expect_nothing(struct fix *f);
int vs_unix_socket(struct fix *f, const char *suffix, struct sockaddr_un *sa);
int vs_program(struct fix *f, const char *line);
int vs_listener(struct fix *f, const char *suffix, int backlog);
/* Exactly n bytes come to the program. */
void vs_reads(struct fix *f, int fd, const void *want, uint32_t n);
bool vs_would_block(int fd);
bool vs_at_end(int fd);
bool vs_closed(struct fix *f, int fd);
/* A program connects to guest port 5000; host port in *hp. */
int vs_open_from_host(struct fix *f, uint32_t *hp);
/* The guest connects from port 1234 to port 6000, where a program listens. */
int vs_open_from_guest(struct fix *f, int listen_fd);
unsigned vs_connections(struct fix *f);

#endif
