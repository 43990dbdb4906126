/* What of the program the histories came to, in a build that counts it. */
#ifndef TESTS_SIM_EDGES_H
#define TESTS_SIM_EDGES_H

#include <stdbool.h>

void edges_init(void);
/* A history is over. */
void edges_keep(void);
/* A line for each place: 1 or 0, and its address. False: this build does not count. */
bool edges_print(const char *path);

#endif
