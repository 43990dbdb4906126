/*
 * An encoder for the part of AML (ACPI 6.4, chapter 20) that a static DSDT needs. It writes into a
 * buffer of the caller; what does not fit sets `full`, and nothing is written past the end.
 *
 * Terms with a length are opened by aml_begin_*(), whose value goes to aml_end(). Pure functions.
 */
#ifndef VMM_AML_H
#define VMM_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *buf;
	size_t len, cap;
	bool full;
};

void aml_bytes(struct aml *a, const void *p, size_t n);
void aml_byte(struct aml *a, uint8_t v);
/* Data objects: the shortest encoding. */
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0501" */
/* A name: segments of 1 to 4 characters joined by dots, "\\" in front for the root. */
void aml_path(struct aml *a, const char *path);
/* Name(path, ...): the object follows. */
void aml_name(struct aml *a, const char *path);

size_t aml_begin_scope(struct aml *a, const char *path);
size_t aml_begin_device(struct aml *a, const char *path);
size_t aml_begin_method(struct aml *a, const char *path, unsigned nargs);
size_t aml_begin_package(struct aml *a, unsigned nelems);
/* An If whose condition, one term, follows; then its body. */
size_t aml_begin_if(struct aml *a);
void aml_end(struct aml *a, size_t begin);

/* A byte of system I/O space as a named field. */
void aml_io_byte(struct aml *a, const char *region, uint16_t port, const char *field);
/* Local0 = name */
void aml_store_local0(struct aml *a, const char *name);
/* Local0 & mask, as a term */
void aml_and_local0(struct aml *a, uint8_t mask);
void aml_notify(struct aml *a, const char *object, uint8_t value);

/* Name(_CRS, ResourceTemplate(){...}): descriptors between begin and end, which are no terms. */
struct aml_crs {
	uint8_t bytes[64];
	size_t len;
};

void aml_crs_io(struct aml_crs *c, uint16_t port, uint8_t len);
void aml_crs_memory(struct aml_crs *c, uint32_t base, uint32_t len);
void aml_crs_irq_edge(struct aml_crs *c, uint32_t gsi);
void aml_crs_put(struct aml *a, struct aml_crs *c);

#endif
