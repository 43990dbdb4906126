/*
 * Static probes (USDT) for tracers of the kernel, as bpftrace and perf: a no-op each, until one is
 * attached. A build without <sys/sdt.h> (Debian: systemtap-sdt-dev) has none.
 */
#ifndef VMM_PROBE_H
#define VMM_PROBE_H

#if __has_include(<sys/sdt.h>)
#define STAP_SDT_ARG_CONSTRAINT nr /* not every tracer knows all forms of addresses */
#include <sys/sdt.h>
#define PROBE4(name, a, b, c, d) STAP_PROBE4(ftvmm, name, a, b, c, d)
#else
#define PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#endif

#endif
