/* Random histories for testing the checker: correct ones, by simulation, and ways to break them. */
#ifndef TESTS_LIN_GEN_H
#define TESTS_LIN_GEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guests/kv_proto.h"
#include "tests/lin/history.h"

struct gen_params {
	uint64_t seed;
	unsigned clients, keys, ops;
	unsigned unknown; /* per mille of operations without a reply */
	unsigned spread;  /* how long an operation takes, against the pause after it, in percent */
};

/* A simulated run: history, journal, and the server's final state. */
struct gen {
	struct history h;
	struct kv_record *recs;
	size_t nrecs;
	uint64_t rng;
	uint64_t start, end; /* all operations lie between */
	uint64_t next_id;
	uint64_t value[KV_KEYS], version[KV_KEYS];
	uint64_t *list[KV_LISTS]; /* KV_LIST_CAP each, or NULL */
	uint64_t len[KV_LISTS];
};

int gen_run(struct gen *g, const struct gen_params *p);
void gen_free(struct gen *g);
uint64_t gen_random(struct gen *g, uint64_t below);

/* One operation after everything so far: it completes before the next one added begins. */
struct history_rec gen_later(struct gen *g, unsigned op, uint32_t key);
int gen_add(struct gen *g, const struct history_rec *r, const uint64_t *list);
/* The journal as an image file: 1 to 15 records per sector. Negative errno. */
int gen_write_image(struct gen *g, int fd);

/* A way to make a correct run provably wrong; false if this run does not lend itself to it. */
struct gen_mutation {
	const char *name;
	bool (*apply)(struct gen *g);
};
/* The same for the image: fd holds the image of g. */
struct gen_image_mutation {
	const char *name;
	bool (*apply)(struct gen *g, int fd);
};
extern const struct gen_mutation gen_register_mutations[], gen_list_mutations[];
extern const struct gen_image_mutation gen_journal_mutations[];

/* Naive search over all orders, for at most a dozen records of one key: the checker's judge. */
bool brute_linearizable(const struct history *h);

#endif
