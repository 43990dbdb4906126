/*
 * A network back end as virtio-net sees it: Ethernet frames, each behind a 12-byte virtio_net_hdr
 * (v1), from and to a tap or a passt. Loop thread.
 */
#ifndef NET_NETDEV_H
#define NET_NETDEV_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define NET_VNET_HDR  12
#define NET_FRAME_MAX (65536 + 64) /* with offloads a frame may be 64 KiB */

struct limit;
struct loop;
struct netdev;
struct obuf;
struct seqmap;

struct netdev_ops {
	int (*recv)(struct netdev *nd, void *buf, uint32_t cap);
	void (*send)(struct netdev *nd, const void *frame, uint32_t len);
	int (*set_offloads)(struct netdev *nd, uint64_t guest_features);
	int (*link)(struct netdev *nd, bool up, struct err *e);
	void (*close)(struct netdev *nd);
};

/* Who is told of what the guest is given. Loop thread. */
struct netdev_tee {
	bool (*ready)(void *arg); /* false: no frame now; netdev_go_on() when there may be */
	void (*given)(void *arg, struct netdev *nd, const void *frame, uint32_t len);
	void *arg;
};

struct netdev {
	struct netdev_tee tee;	 /* all NULL when nobody is */
	struct seqmap *seqs;	 /* see netdev_translate() */
	struct limit *limit;	 /* see netdev_set_limit() */
	void (*room)(void *arg); /* see netdev_add_sink() */
	void *room_arg;
	char id[32];
	char ifname[16]; /* host name of the tap */
	int fd;	   /* non-blocking, poll for input; -1: unplugged (reads nothing, drops writes) */
	bool ours; /* we made the tap: it goes away with the fd */
	unsigned long offloads; /* the tap's */
	uint64_t tx_frames, rx_frames, tx_dropped;
	const struct netdev_ops *ops; /* NULL: that of a tap */
	void *back;		      /* of the back end */
	void (*changed)(void *arg);   /* see netdev_watch() */
	void *changed_arg;
};

extern const struct netdev_ops netdev_tap_ops;

/*
 * Make the tap IFNAME, or attach to a persistent one that exists; set vnet header size 12. If
 * bridge is not NULL, enslave it. It stays DOWN until netdev_link(up).
 */
int netdev_open_tap(struct netdev *nd, const char *id, const char *ifname, const char *bridge,
		    struct err *e);
/*
 * Would netdev_open_tap() do? A tap that is not there is made, and gone again; one that is there,
 * and the bridge, stay as they are.
 */
int netdev_try_tap(const char *ifname, const char *bridge, struct err *e);
/*
 * The passt that listens on the unix socket PATH; it cannot do offloads. Nothing is connected until
 * netdev_link(up). nd stays where it is until netdev_close().
 */
int netdev_open_passt(struct netdev *nd, struct loop *loop, const char *id, const char *path,
		      struct err *e);
/*
 * Have fn called when nd->fd is about to be closed, or is a new one: a poll of the old one is to
 * end, and there may be input on the new one. It may be called out of any netdev function; it must
 * not call one. NULL: nobody.
 */
void netdev_watch(struct netdev *nd, void (*fn)(void *arg), void *arg);
/* Tell the kernel which offloads the guest negotiated (virtio feature bits, host side of the tap).
 */
int netdev_set_offloads(struct netdev *nd, uint64_t guest_features);
/*
 * Up: a tap is set up; a passt is connected to, and again every second when that fails or breaks.
 * An error is that of the first attempt.
 */
int netdev_link(struct netdev *nd, bool up, struct err *e);
/* Closed or all zero but fd = -1: nothing happens. */
void netdev_close(struct netdev *nd);
/*
 * TCP connections of which clients have other numbers than the guest: frames are changed on their
 * way, in both directions. m stays the caller's; NULL: none. Returns what was in force.
 */
struct seqmap *netdev_translate(struct netdev *nd, struct seqmap *m);
/*
 * Have t told of every frame that the guest is given, in their order; NULL: nobody. t is copied.
 */
void netdev_set_tee(struct netdev *nd, const struct netdev_tee *t);
void netdev_go_on(struct netdev *nd);
/* The guest has it in its memory. */
void netdev_given(struct netdev *nd, const void *frame, uint32_t len);
/*
 * What is read is bound by this one, which stays the caller's; NULL: by none. Returns what was in
 * force.
 */
struct limit *netdev_set_limit(struct netdev *nd, struct limit *l);
/*
 * One frame with its header. >= 0 bytes, -EAGAIN when nothing waits, -EBUSY: not now, and there is
 * no sense in a poll.
 */
int netdev_recv(struct netdev *nd, void *buf, uint32_t cap);
/* Delivers or drops (counted); never blocks. The frame may be changed. */
void netdev_send(struct netdev *nd, void *frame, uint32_t len);
/*
 * The guest's frames go through the output buffer to nd: what is put into the sink returned. room:
 * as obuf_add_sink() has it. -ENOSPC: too many.
 */
int netdev_add_sink(struct netdev *nd, struct obuf *ob, void (*room)(void *arg), void *arg);

#endif
