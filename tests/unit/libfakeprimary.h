/*
 * The primary of tests/unit/libsecondary.h, which is the test: it connects, and sends what it
 * likes, frame by frame.
 */
#ifndef TESTS_LIBFAKEPRIMARY_H
#define TESTS_LIBFAKEPRIMARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/libwire.h"
#include "vmm/wire/stream.h"

/* The primary's end of a connection. */
struct end {
	struct wire out; /* not written yet */
	size_t written;
	struct stream in; /* its fd is the socket; -1: none */
};

/* --- connections ------------------------------------------------------------------------------ */

/* What fits into the socket goes there. */
void end_flush(struct end *c);
void end_connect(struct end *c);
bool end_try_connect(struct end *c);
void end_preface(struct end *c, enum stream_link link, uint64_t session);
void end_send(struct end *c, enum frame_type type, uint64_t epoch, const void *data, size_t n);
void end_close(struct end *c);
/* Has the other side hung up? What it sent before is thrown away. */
bool end_is_dropped(struct end *c);
/* The next frame, if it has come, as stream_recv(). */
int end_take(struct end *c, struct frame *f);
/* A frame comes, of that type; f may be NULL. */
void end_expect(struct end *c, enum frame_type type, struct frame *f);
void end_expect_refusal(struct end *c, const char *text);
/* No frame of that type; others are thrown away. */
void end_expect_no(struct end *c, enum frame_type type);

/* --- the primary ------------------------------------------------------------------------------ */

/* Main link and HELLO, from lab.machine and lab.hello. */
void pri_hello(void);
void pri_say_hello(struct end *c, uint64_t session);
/* Connect, and be welcome. */
void pri_join(void);
void pri_heart_as(struct end *c, uint64_t session);
void pri_heart(void);
void pri_begin(uint64_t epoch);
/* The whole page is of this byte. */
void pri_page(uint64_t epoch, uint64_t page, uint8_t byte);
/* len bytes of this one at a place of the image: DISK in a sync (epoch 0), else DISKLOG. */
void pri_disk(uint64_t epoch, uint64_t off, uint32_t len, uint8_t byte);
/* Number 0 to 15: rax of vCPU 0. */
void pri_state(uint64_t epoch, unsigned number);
void pri_end(uint64_t epoch);
/* Page `epoch` and sector `epoch` are of that byte, and so is the state. */
void pri_epoch(uint64_t epoch);
/* The same, and it is acknowledged. */
void pri_commit(uint64_t epoch);
void pri_hand_over(uint64_t token);
void pri_gone(void);
/* Of the shared image: taken by pri_hello(), given back when it was seen, unless lab.keeps_lock. */
void pri_lock(void);
void pri_unlock(void);
void pri_generation(uint64_t generation);
/* The third connection, once there are the other two. */
void pri_mirror(void);
void pri_hang_up(void);
/* What they are then, for a primary that verifies: pages only. */
uint64_t pri_ram_hash(uint64_t n);
uint64_t pri_state_hash(uint64_t n);
/* Once the machine is made. */
void pri_prepare(void);

#endif
