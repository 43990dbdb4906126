#include "vmm/copy/disk_writes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* From first to last are one behind the other; count and bytes are theirs. */
static void append(struct disk_writes *l, const struct disk_writes *more)
{
	if (l->last)
		l->last->next = more->head;
	else
		l->head = more->head;
	l->last = more->last;
	l->count += more->count;
	l->bytes += more->bytes;
}

int disk_writes_add(struct disk_writes *l, const struct wire_disk *wire, const void *data)
{
	struct disk_write *w = malloc(sizeof(*w) + wire->data);
	struct disk_writes one;

	if (!w)
		return -ENOMEM;
	w->next = NULL;
	w->wire = *wire;
	if (wire->data)
		memcpy(w->data, data, wire->data);
	one = (struct disk_writes){w, w, 1, disk_write_bytes(w)};
	append(l, &one);
	return 0;
}

void disk_writes_move(struct disk_writes *l, struct disk_writes *from)
{
	if (from->head)
		append(l, from);
	memset(from, 0, sizeof(*from));
}

struct disk_write *disk_writes_pop(struct disk_writes *l)
{
	struct disk_write *w = l->head;

	l->head = w->next;
	if (!w->next)
		l->last = NULL;
	l->count--;
	l->bytes -= disk_write_bytes(w);
	return w;
}

void disk_writes_free(struct disk_writes *l)
{
	while (l->head)
		free(disk_writes_pop(l));
}
