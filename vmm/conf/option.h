/*
 * Options as a table: one row names an option, its type, limits, place in the caller's struct and
 * help text. The same rows read the command line, JSON objects and "key=value,key" lists, and print
 * the help and the documentation, so these cannot disagree. Pure functions; messages name the
 * source ("--epoch", "vm.json: disk[0].path"), what is wrong, and the limit.
 */
#ifndef VMM_OPTION_H
#define VMM_OPTION_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vmm/base/err.h"

enum option_type {
	OPT_FLAG,   /* bool */
	OPT_SET,    /* writes the enum value `min` to the field; JSON takes true or false */
	OPT_TEXT,   /* char[size] */
	OPT_NUMBER, /* uint32_t */
	OPT_SIZE,   /* uint64_t bytes: 512M */
	OPT_TIME,   /* uint64_t nanoseconds: 25ms */
	OPT_CHOICE, /* enum: one of `choices` */
	OPT_MAC,    /* uint8_t[6]; all zero means not given */
	OPT_TEXTS,  /* char[max][size], filled count at `count`: A,B or a JSON array */
	OPT_LIST,   /* struct[max] of elem_size each, rows in `sub`; may be given again. With max 1:
			 one struct, in JSON an object; the last one wins */
};

struct option_choice {
	const char *name; /* NULL ends the list */
	int value;	  /* < 0: known, but not in this version */
};

struct option {
	const char *name; /* long flag and JSON key */
	char letter;	  /* short flag or 0 */
	enum option_type type;
	size_t offset, size; /* of the field (for OPT_TEXTS and OPT_LIST: of one element) */
	size_t count;	     /* offset of the unsigned element count */
	uint64_t min, max;
	const struct option_choice *choices;
	const struct option
		*sub; /* first row is a text that must be given, and is unique in the list */
	unsigned nsub;
	unsigned tags; /* the caller's own, e.g. for which roles the option is */
	const char *metavar, *help;
};

struct option_table {
	const struct option *rows;
	unsigned n;
};

/* "512M" with K, M, G, T; a bare number is bytes. "25ms" with us, ms, s; a bare number is ms. */
int option_parse_size(const char *text, uint64_t *ret, struct err *e);
int option_parse_time(const char *text, uint64_t *ret_ns, struct err *e);
/* The shortest text that parses to this value; cap 32 is enough. */
void option_format_size(uint64_t bytes, char *ret, size_t cap);
void option_format_time(uint64_t ns, char *ret, size_t cap);

const struct option *option_find(const struct option_table *t, const char *name, size_t len);
const struct option *option_find_letter(const struct option_table *t, char letter);
/* The name in the table that is closest to what was written. */
const char *option_nearest(const struct option_table *t, const char *name);

/* Set the field of o in base from text (command line; unused for flags). where: what the message
 * starts with. */
int option_set_text(const struct option *o, void *base, const char *text, const char *where,
		    struct err *e);
int option_set_json(const struct option *o, void *base, json_t *value, const char *where,
		    struct err *e);
/* Load a JSON object file: strict syntax, no duplicate keys, at most 1 MiB. NULL with e set. */
json_t *option_load_file(const char *path, struct err *e);

/* The default (as found in base) as text, or "" when there is none. */
void option_format(const struct option *o, const void *base, char *ret, size_t cap);
/* A line of --help: the flag, what it is for; of `defaults`, or NULL, the default. */
void option_print(const struct option *o, const void *defaults);

#endif
