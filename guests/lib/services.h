/* Small services of the network guests: echo over UDP and TCP, and the stream of stream_proto.h. */
#ifndef GUESTS_LIB_SERVICES_H
#define GUESTS_LIB_SERVICES_H

#include "guests/lib/netloop.h"

/* Starts them all. Ends the guest if a port is taken. */
void services_start(struct netloop *l);

#endif
