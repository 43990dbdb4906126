/*
 * Fault tolerance of one VM: what both roles share. Three things say how it is, and one word that
 * is made of them is shown: where the VM is in its life, as seen from this side; how far the roles
 * have got; and why the VM is stopped, if it is.
 */
#ifndef FT_FT_H
#define FT_FT_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/arbiter.h"
#include "ft/common/marks.h"
#include "ft/common/trace.h"
#include "vmm/conf/config.h"
#include "vmm/base/loop.h"
#include "vmm/vm/vm.h"
#include "vmm/wire/tls.h"

/*
 * TCP_USER_TIMEOUT of the two links. It is the heartbeats by which a death is noticed: the main
 * link may stand for as long as an epoch may take, as when the peer's image is slow.
 */
#define FT_MAIN_TIMEOUT_MS  60000
#define FT_HEART_TIMEOUT_MS 5000

/* The note of a side that has ended, and whose VM the other side has: the commands know it. */
#define FT_HANDED_OVER "handed over"

/* The VM's life. */
enum ft_life {
	FT_ELSEWHERE, /* not begun here, or run by the other side */
	FT_HERE,
	FT_OVER,
};

/* How far the roles have got with each other. */
enum ft_cover {
	FT_NONE, /* no fault tolerance asked for; a secondary that waits for a primary */
	FT_UNPROTECTED,
	FT_SYNCING,
	FT_PROTECTED,
	FT_DEGRADED, /* was protected, the peer is gone */
	FT_TAKING_OVER,
	FT_FENCED, /* another side runs the VM */
	FT_MIGRATING,
	FT_MIGRATED, /* another side runs the VM, as it was to be */
};

/* Why the VM is stopped: bits, as one reason does not end another. */
enum ft_stand {
	FT_STAND_USER = 1,
	FT_STAND_CLAIM = 2,   /* the arbiter is being asked whose it is */
	FT_STAND_SILENT = 4,  /* and does not answer */
	FT_STAND_END = 8,     /* its last epoch is under way */
	FT_STAND_SEAL = 16,   /* an epoch is being captured */
	FT_STAND_SWITCH = 32, /* it is to run elsewhere */
	FT_STAND_LOST = 64,   /* memory is missing, and nobody brings it */
	FT_STAND_MOVE = 128,  /* a new secondary is given the rest */
};

/* What an epoch is sealed for. */
enum ft_seal {
	FT_SEAL_NONE, /* that of no primary */
	FT_SEAL_INTERVAL,
	/* Output that waits, by its kind: enum obuf_kind. */
	FT_SEAL_NET,
	FT_SEAL_DISK, /* a change of one that both hosts have */
	FT_SEAL_CONSOLE,
	FT_SEAL_VSOCK,
	FT_SEAL_EVENT, /* what this side tells of the guest: a reset, a panic */
	FT_SEAL_DIFFER,
	FT_SEAL_OVERDUE, /* of one of both guests, and the other one puts out nothing */
	FT_SEAL_LOG,	 /* of disk writes: it is full */
	FT_SEAL_TWIN,	 /* there is one to begin, or none any more */
	FT_SEAL_FIRST,	 /* after a first sync */
	FT_SEAL_USER,	 /* resumed */
	FT_SEAL_MOVE,	 /* to another secondary */
	FT_SEAL_LAST,	 /* stopped, or handed over */
	FT_SEALS,
};

#define FT_SAMPLES 4096
#define FT_PAUSES  14 /* classes of pauses by their length; the last one is of all above */

/* What the VM stands for in a seal, nanoseconds. */
struct ft_parts {
	uint64_t stop;	 /* until no vCPU runs */
	uint64_t bitmap; /* asking which pages changed, and protecting them again */
	uint64_t copy;	 /* of pages, and waiting for staging memory */
	uint64_t state;	 /* of vCPUs and devices, the disk log cut */
};

/* Owner: loop. Sample rings hold the last FT_SAMPLES values. */
struct ft_stats {
	uint64_t epochs;
	uint64_t seals[FT_SEALS];  /* what for */
	uint64_t pages, hot_pages; /* sent in epochs; of these by comparison, not by fault */
	uint64_t page_bytes;	   /* on the wire for them */
	uint64_t send_ns;	   /* encoding and writing all of these epochs, by the sender */
	uint64_t ack_ns;	   /* seal to ack, of all that were acknowledged */
	uint64_t last_pages;
	struct ft_parts parts;	    /* in all epochs */
	uint64_t pauses[FT_PAUSES]; /* how many of each class; see ft_pause_class_us() */
	uint64_t unequal;	    /* epochs after which --verify found a difference, here */
	uint64_t throttled;	    /* seals that had to wait for staging memory */
	uint64_t nsamples;
	uint32_t pause_us[FT_SAMPLES];
	uint32_t ack_us[FT_SAMPLES]; /* seal to ack */
	uint32_t npages[FT_SAMPLES];
	uint64_t takeover_ns;	    /* loss noticed to first vCPU let go */
	uint64_t first_run_mono_ns; /* CLOCK_MONOTONIC at that moment */
};

struct ft {
	const struct config *cfg;
	struct loop *loop;
	struct arbiter *arbiter;
	struct tls *tls; /* for tls: addresses, or NULL */
	struct marks marks;
	enum ft_life life;
	enum ft_cover cover;
	unsigned stands;     /* enum ft_stand */
	uint64_t generation; /* under which this side runs, or would take over from */
	char peer[300];	     /* who is at the other end, "" for nobody */
	char note[480];	     /* why the state is what it is, for status */
	bool images_behind;  /* after a takeover: the acknowledged disk log is not in the images yet
			      */
	struct ft_stats stats;
	struct trace trace;
	void (*on_state)(void *arg, const char *from, const char *to); /* the word changed */
	/* The process is to end with this code (exit codes: README). */
	void (*on_exit)(void *arg, int code);
	void *arg;
};

const char *ft_cover_name(enum ft_cover c);
/* The word for all that: PROTECTED, PAUSED, ... (docs/operations.md). */
const char *ft_word(const struct ft *ft);
/* All words that there are, in the order of a VM's life; NULL behind the last. */
const char *ft_word_at(unsigned i);
/* Change it, log it, tell whoever listens. why may be NULL. */
void ft_set(struct ft *ft, enum ft_life life, enum ft_cover cover, const char *why);
/*
 * Stop the VM for this reason; why: for status, NULL leaves the note as it is. When it does not
 * stop it runs on, and there is no such reason; but that of an end holds from the next stop on.
 */
int ft_stand(struct ft *ft, struct vm *vm, enum ft_stand reason, const char *why, struct err *e);
/* Memory is missing (FT_STAND_LOST): no vCPU goes on, until ft_go(). waiting: see vm_rest(). */
void ft_lack(struct ft *ft, struct vm *vm, uint32_t waiting, const char *why);
/* The reason is gone; the VM goes on when there is no other one. */
void ft_go(struct ft *ft, struct vm *vm, enum ft_stand reason);
void ft_note_epoch(struct ft *ft, enum ft_seal why, uint64_t pause_ns, uint64_t pages);
/* As `status` and a metric have it; of all but FT_SEAL_NONE. */
const char *ft_seal_name(enum ft_seal why);
/* The longest pause of a class but the last. */
uint32_t ft_pause_class_us(unsigned i);
uint64_t ft_last_pause_ns(const struct ft *ft); /* of the last epoch, to the microsecond */
/* Percentile (0..100) of the samples held; 0 when there are none. */
uint32_t ft_percentile(const uint32_t *samples, uint64_t n, unsigned pct);

#endif
