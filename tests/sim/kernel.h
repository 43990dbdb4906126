#ifndef TESTS_SIM_KERNEL_H
#define TESTS_SIM_KERNEL_H

#define KERNEL_PATH "/sim/kernel" /* both hosts have it */

void kernel_make(void);

#endif
