/*
 * What a monitor is told, as OpenMetrics text: one table that says which part of a VM's status is
 * which metric. Its types are those that Prometheus' older text format has, too, as node-exporter's
 * textfile collector reads that: a set of states is a gauge with a label.
 */
#ifndef VMM_METRICS_H
#define VMM_METRICS_H

#include <stdbool.h>
#include <stdio.h>

#include "vmm/cli/vms.h"

#define METRICS_VALUES 16

enum metric_type { METRIC_GAUGE, METRIC_COUNTER, METRIC_SUMMARY, METRIC_HISTOGRAM };

/* Where the values are in the status: a path as "pause_us.p99", or NULL for the end. */
struct metric_value {
	const char *path;
	const char *label; /* value of the row's label, or NULL */
};

struct metric {
	const char *name; /* without "ftvmm_" and "_total"; ends with the unit */
	enum metric_type type;
	const char *unit, *help; /* unit: "" for none */
	const char *label;	 /* besides "vm", or NULL */
	double scale;		 /* to the unit; 0: as it is */
	struct metric_value values[METRICS_VALUES];
	/* What is no number, or more than one of them; NULL: numbers and truth values. */
	void (*print)(FILE *to, const struct metric *m, const struct vm_status *vm);
};

const struct metric *metrics_at(unsigned i);  /* NULL behind the last */
const char *metrics_type(enum metric_type t); /* as in a TYPE line */
/* "ftvmm_..." as samples have it, without what a histogram appends. */
void metrics_sample_name(const struct metric *m, char *ret, size_t cap);
/* The whole text, up to # EOF. */
void metrics_print(FILE *to, const struct vms *all);

#endif
