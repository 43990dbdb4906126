/*
 * The test guests' library: everything a guest program may call.
 *
 * A guest is one 64-bit ELF with a PVH entry. main() and all of this library run at CPL3, where
 * every hypervisor executes natively; CPL0 holds only boot code and interrupt stubs. RAM and
 * device registers are mapped one to one, so a pointer is a guest-physical address.
 *
 * Interrupts only count: a CPL0 stub increments the counters of its CPU and returns. Code waits
 * by reading guest_events(), looking for work, and calling guest_wait() with what it read:
 *
 *	for (;;) {
 *		uint64_t seen = guest_events();
 *
 *		if (!do_all_work())
 *			guest_wait(seen);
 *	}
 *
 * guest_wait() returns at once if anything arrived since `seen`, so no wake-up is ever lost.
 * Device interrupts go to CPU 0: only CPU 0 may call blk_*, net_dev_*, console_read and rng_read.
 */
#ifndef GUESTS_LIB_GUEST_H
#define GUESTS_LIB_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENOENT	2
#define EIO	5
#define EAGAIN	11
#define ENOMEM	12
#define ENODEV	19
#define EINVAL	22
#define ENOSPC	28
#define ENOTSUP 95

#define PAGE_SIZE 4096u
#define CPU_MAX	  8u

/* ---- the program ---- */

/* Defined by the guest; runs once, on CPU 0. Its result is the exit code. */
int main(void);
/* Drains the console, writes the code to port 0xf4, and halts for ever if nobody listens there. */
_Noreturn void guest_exit(int code);
/* Prints a message and exits. */
_Noreturn void guest_die(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- CPUs, interrupts, waiting ---- */

unsigned cpu_index(void);
/* CPUs this guest may use: cmdline `cpus=N`, 1 by default, at most CPU_MAX. */
unsigned cpu_count(void);
/* Starts CPU `cpu` (1..cpu_count()-1) in fn(arg) at CPL3: 0, -EINVAL, or -EIO if it is silent. */
int smp_start(unsigned cpu, void (*fn)(void *arg), void *arg);
/* Number of interrupts this CPU has taken. */
uint64_t guest_events(void);
/* Halts this CPU unless guest_events() != seen already. May return early, never late. */
void guest_wait(uint64_t seen);
/*
 * The same, but returns at the latest around `deadline_ns` of clock_ns(); if a periodic timer runs
 * on this CPU, at its first tick after that.
 */
void guest_wait_until(uint64_t seen, uint64_t deadline_ns);
/* Halts until clock_ns() >= deadline_ns, whatever else arrives. */
void guest_sleep_until(uint64_t deadline_ns);

static inline void cpu_relax(void)
{
	__builtin_ia32_pause();
}

/* A spin lock for data shared by CPUs; zero is unlocked. */
struct spinlock {
	uint32_t held;
};
void spin_lock(struct spinlock *l);
void spin_unlock(struct spinlock *l);

/* ---- time ---- */

/*
 * Nanoseconds, monotonic, from kvmclock; it stays right when the guest moves to another host.
 * Without KVM: from the TSC, calibrated against the APIC timer at boot.
 */
uint64_t clock_ns(void);
bool clock_is_kvm(void);
/* This CPU's APIC timer interrupts `hz` times a second (0 stops it; at most 5000). */
void timer_periodic(unsigned hz);
/* Timer interrupts this CPU has taken (periodic and those of guest_wait_until). */
uint64_t timer_ticks(void);

/* ---- text ---- */

/*
 * A small printf: %d %i %u %x %p %s %c %%, flags `0` and `-`, width, precision for %s, and the
 * length modifiers hh h l ll z. Goes to the virtio console if there is one (one kick a
 * line), else to the serial port at 0x3f8. At most 511 characters a call. Any CPU may call it; the
 * text of one call is not mixed with that of others.
 */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void print_v(const char *fmt, va_list ap);
/* For a guest that took the virtio console away from print(): from now on to the serial port. */
void print_to_serial(void);
/* Like snprintf: always terminates, returns the length it wanted to write. */
int format_text(char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int format_text_v(char *buf, size_t cap, const char *fmt, va_list ap);
/* Copies what has come in on the virtio console; returns the number of bytes, 0 if none. */
int console_read(void *buf, uint32_t cap);

void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);

/* ---- the command line: words separated by blanks, `key` or `key=value`; the last one wins ---- */

const char *cmdline_text(void);
/* Copies the value of `key`; false (and an empty string) if it is absent. Cuts at cap - 1. */
bool cmdline_str(const char *key, char *buf, size_t cap);
bool cmdline_is(const char *key, const char *value);
/* Decimal or 0x hexadecimal, suffix K, M or G (powers of 1024); `fallback` if absent or bad. */
uint64_t cmdline_u64(const char *key, uint64_t fallback);
/* Parses the same notation; false unless the number ends at a NUL, blank or one of `ends`. */
bool text_u64(const char *s, const char *ends, uint64_t *ret_value, const char **ret_end);

/* ---- memory ---- */

/* Bytes of RAM the machine has, below and above 4 GiB. */
uint64_t mem_bytes(void);
/* Bytes mem_alloc() can still give, in one piece. */
uint64_t mem_free(void);
/* Page-aligned RAM, contents undefined, never freed. Ends the guest if there is not enough. */
void *mem_alloc(uint64_t pages);
/* The i-th PVH module (0: the device tree on ftvmm): its bytes, or NULL. */
const void *boot_module(unsigned i, uint64_t *ret_size);

/* ---- disks: 512-byte sectors; any buffer, the device reads and writes it in place ---- */

struct blk;

enum blk_op {
	BLK_READ = 0,
	BLK_WRITE = 1,
	BLK_FLUSH = 4,
	BLK_DISCARD = 11,
	BLK_ZEROES = 13,
};

#define BLK_SECTOR 512u

/* One asynchronous request. The caller owns it; it must stay put until `done`. */
struct blk_req {
	enum blk_op op;
	uint32_t nsect;
	uint64_t sector;
	void *buf; /* nsect * 512 bytes; unused by flush, discard, zeroes */
	void *user;
	volatile bool done;
	int result; /* valid once done: 0, -EIO or -ENOTSUP */
	/* private to virtio_blk.c: what the device reads and writes */
	struct {
		uint32_t type;
		uint32_t reserved;
		uint64_t sector;
	} hdr;
	struct {
		uint64_t sector;
		uint32_t nsect;
		uint32_t flags;
	} range;
	volatile uint8_t status;
};

/* The n-th disk in command-line order, ready for use, or NULL. Opening twice gives the same one. */
struct blk *blk_open(unsigned n);
uint64_t blk_sectors(const struct blk *b);
unsigned blk_queues(const struct blk *b);
bool blk_readonly(const struct blk *b);
/* Whether the device offers flush, discard or write-zeroes (read and write: always). */
bool blk_can(const struct blk *b, enum blk_op op);
/* Hands the request to the device: 0, or -EAGAIN when the ring is full (poll, then retry). */
int blk_submit(struct blk *b, struct blk_req *r);
/* Marks finished requests done, never waits; returns how many. A finish raises an event. */
unsigned blk_poll(struct blk *b);
/* Synchronous forms, waiting by interrupt. 0 or a negative errno. */
int blk_read(struct blk *b, uint64_t sector, void *buf, uint32_t nsect);
int blk_write(struct blk *b, uint64_t sector, const void *buf, uint32_t nsect);
int blk_flush(struct blk *b);
int blk_discard(struct blk *b, uint64_t sector, uint32_t nsect);
int blk_zeroes(struct blk *b, uint64_t sector, uint32_t nsect);

/* ---- network cards: whole Ethernet frames, without FCS ---- */

struct netdev;

#define NET_FRAME_MAX 1514u

/* The n-th card in command-line order, ready for use, or NULL. Opening twice gives the same one. */
struct netdev *net_dev_open(unsigned n);
void net_dev_mac(const struct netdev *d, uint8_t mac[6]);
/*
 * Copies one frame into the transmit ring: 0, -EAGAIN when the ring is full (an event follows once
 * there is room), -EINVAL for a bad length. The device learns of it at the next net_dev_kick() or
 * guest_wait*(), or when the ring gets full, so that a burst costs one notification.
 */
int net_dev_send(struct netdev *d, const void *frame, uint32_t len);
void net_dev_kick(struct netdev *d);
/* Copies the oldest received frame: its length, 0 if there is none. One above cap is dropped. */
int net_dev_recv(struct netdev *d, void *buf, uint32_t cap);

/* ---- entropy ---- */

/* Fills buf from virtio-rng, waiting by interrupt: 0 or -ENODEV. */
int rng_read(void *buf, uint32_t len);

#endif
