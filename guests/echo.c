/* Echo over UDP and TCP, and an endless TCP stream. Options: ip=, gw=. */
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
