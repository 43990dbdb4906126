/* Echo over UDP and TCP, an endless TCP stream, and a port that takes one. Options: ip=, gw=. */
#include "guests/lib/guest.h"
#include "guests/lib/netloop.h"
#include "guests/lib/services.h"

int main(void)
{
	struct netloop *l = netloop_open();

	services_start(l);
	print("READY\n");
	netloop_run(l, NULL, NULL);
}
