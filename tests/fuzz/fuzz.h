/* What fuzz targets share: bytes taken off an input, a check that ends the run, a folder. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/loop.h"

#define FUZZ_UNUSED __attribute__((unused))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t left;
};

/* The next n bytes as a number; zeros behind the end. */
static FUZZ_UNUSED uint64_t take(struct input *in, unsigned n)
{
	uint64_t v = 0;

	if (n > in->left)
		n = (unsigned)in->left;
	memcpy(&v, in->p, n);
	in->p += n;
	in->left -= n;
	return v;
}

/* Up to *n bytes as they are; *n says how many there were. */
static FUZZ_UNUSED const uint8_t *take_bytes(struct input *in, size_t *n)
{
	const uint8_t *p = in->p;

	if (*n > in->left)
		*n = in->left;
	in->p += *n;
	in->left -= *n;
	return p;
}

static FUZZ_UNUSED void require(bool ok)
{
	if (!ok)
		abort();
}

/* One round of the loop if something is ready; waiting for nothing costs a sleep. */
static FUZZ_UNUSED void fuzz_turn(struct loop *l)
{
	if (io_uring_submit_and_get_events(&l->ring) >= 0 && io_uring_cq_ready(&l->ring))
		loop_run_once(l, 0);
}

static char fuzz_folder[64];

static FUZZ_UNUSED void fuzz_remove_folder(void)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf %s", fuzz_folder);
	if (system(command))
		fprintf(stderr, "%s stays\n", fuzz_folder);
}

/* A folder of this process, for as long as it lives; in what the runner removes in any case. */
static FUZZ_UNUSED const char *fuzz_make_folder(void)
{
	const char *in = getenv("FUZZ_FOLDER");

	if (!in || strlen(in) > 32)
		in = "/tmp";
	snprintf(fuzz_folder, sizeof(fuzz_folder), "%s/ftvmm-fuzz-XXXXXX", in);
	require(mkdtemp(fuzz_folder) != NULL);
	atexit(fuzz_remove_folder);
	return fuzz_folder;
}

#endif
