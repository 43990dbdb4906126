/*
 * Network interfaces of the host, by rtnetlink: what one is, and changes to it. A socket is opened
 * for each call; none is kept while the guest runs.
 */
#ifndef NET_IFACE_H
#define NET_IFACE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define IFACE_MAC_LEN 6

struct iface {
	int index;
	int master;	/* index of the bridge it is a port of, or 0 */
	unsigned flags; /* IFF_* */
	uint32_t mtu;
	uint8_t mac[IFACE_MAC_LEN]; /* zeros if it has none of this length */
	char kind[16];		    /* "bridge", "tun"..., "" for hardware */
};

/* What is not given stays as it is. */
struct iface_change {
	bool set_up, up;
	const uint8_t *mac; /* IFACE_MAC_LEN bytes, or NULL */
	uint32_t mtu;	    /* or 0 */
	int master;	    /* or 0 */
};

int iface_get(const char *name, struct iface *ret, struct err *e);
/* The error has no name in it: the caller knows what it wanted. */
int iface_set(const struct iface *i, const struct iface_change *c, struct err *e);

#endif
