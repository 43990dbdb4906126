#include "tests/sim/outcome.h"

#include <sys/mman.h>

#include "tests/sim/real.h"

struct outcomes *outcomes;
struct outcome *outcome;

void outcome_init(void)
{
	outcomes = REAL(mmap)(NULL, sizeof(*outcomes), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	outcome = outcomes->of;
}
