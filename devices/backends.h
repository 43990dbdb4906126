/*
 * What the devices of a VM need from this host: images, taps, sockets. They are found by the id of
 * the device and are no part of the machine (vmm/machine/machine.h), which a peer builds from its
 * own. The strings are the caller's, and are not kept.
 */
#ifndef DEVICES_BACKENDS_H
#define DEVICES_BACKENDS_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/limit.h"
#include "vmm/base/sandbox.h"
#include "vmm/machine/machine.h"

struct disk;
struct loop;
struct netdev;
struct vsock_host;

struct disk_backend {
	const char *id, *path;
	bool direct;
	struct limit_rates limit;
};

/* A passt (socket), or else a tap, which may be a port of a bridge; NULL is none. */
struct net_backend {
	const char *id, *socket, *tap, *bridge;
	struct limit_rates limit;
};

struct backends {
	struct disk_backend disks[MACHINE_MAX_DEVS];
	unsigned ndisks;
	struct net_backend nets[MACHINE_MAX_DEVS];
	unsigned nnets;
	const char *vsock;     /* path of the socket; NULL: none */
	const char *console;   /* "stdio", "none" or a file */
	uint64_t output_bytes; /* bound of held output */
	enum sandbox sandbox;  /* of vCPU threads */
	bool late_locks;       /* images are locked later: disk_lock() */
	bool standby;	       /* images of mirrored disks are made, with the machine's sizes */
};

/*
 * Open what the device md stands on; the error says what is not given, or does not fit the machine.
 * What is open after an error is the caller's to close, as it is after none. Loop thread.
 */
int backends_open_disk(const struct backends *b, const struct mdev *md, struct loop *l,
		       struct disk *d, struct err *e);
int backends_open_net(const struct backends *b, const struct mdev *md, struct loop *l,
		      struct netdev *nd, struct err *e);
int backends_open_vsock(const struct backends *b, struct loop *l, struct vsock_host *h,
			struct err *e);

/* Of a disk or a network; none for what is not given, or has none. */
struct limit_rates backends_limit(const struct backends *b, const char *id);

#endif
