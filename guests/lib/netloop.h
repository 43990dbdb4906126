/* The event loop of a network guest: its cards, addresses from the command line, timer ticks. */
#ifndef GUESTS_LIB_NETLOOP_H
#define GUESTS_LIB_NETLOOP_H

#include "guests/lib/net.h"
#include "guests/lib/tcp.h"

#define NETLOOP_HZ 100 /* ticks while something is due; none in an idle guest */

struct netdev;

struct netloop {
	struct netloop *next; /* the second card, NULL: none */
	struct netdev *dev;
	struct net_if nif;
	struct tcp_stack *tcp;
	uint64_t tick_until; /* ns; 0: the timer is off */
	uint8_t rx[NET_ETH_MAX];
};

/*
 * Opens the first card with `ip=A.B.C.D/N` (default 10.0.0.2/24) and `gw=A.B.C.D`, and announces
 * the address. With `ip2=A.B.C.D/N` the second card is next: a stack of its own, served with the
 * first one. Ends the guest if there is no such card. Lives until the guest ends.
 */
struct netloop *netloop_open(void);
/*
 * Serves for ever. app (may be NULL) is called after input was handled and on every tick; it
 * returns whether it needs ticks. now is clock_ns().
 */
_Noreturn void netloop_run(struct netloop *l, bool (*app)(void *ctx, uint64_t now), void *ctx);

#endif
