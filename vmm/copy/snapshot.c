#include "vmm/copy/snapshot.h"

#include <errno.h>

#include "vmm/copy/page_in.h"
#include "vmm/wire/chan.h"
#include "vmm/machine/fdt.h"
#include "vmm/wire/stream.h"

static int next(struct stream *st, struct frame *f, struct err *e)
{
	int r = stream_recv(st, f);

	if (r == 1)
		return 0;
	return err_set(e, -EBADMSG, "%s", r == -EBADMSG ? st->why : "file ends too early");
}

static int take_pages(struct vm *vm, const struct stream *st, const struct frame *f,
		      const struct snapshot_pages *pages, struct err *e)
{
	return pages ? pages->take(pages->arg, vm, st, f, e) : page_in_now(&vm->mem, f, e);
}

static int take_all(struct vm *vm, struct stream *st, const struct snapshot_pages *pages,
		    struct err *e)
{
	bool has_state = false;
	struct frame f;
	int r;

	for (;;) {
		r = next(st, &f, e);
		if (r)
			return r;
		if (f.type == FRAME_BYE)
			break;
		if (f.type == FRAME_PAGES && !has_state)
			r = take_pages(vm, st, &f, pages, e);
		else if (f.type == FRAME_STATE && !has_state)
			r = vm_decode(vm, f.data, f.length, e);
		else if (f.type == FRAME_MAP)
			r = err_set(e, -EBADMSG,
				    "these are the pages that had arrived when a source died "
				    "(`arrived`), not a VM");
		else
			r = err_set(e, -EBADMSG, "%s where it does not belong",
				    stream_frame_name(f.type));
		if (r)
			return r;
		has_state = has_state || f.type == FRAME_STATE;
	}
	if (!has_state)
		return err_set(e, -EBADMSG, "no device state");
	r = pages ? pages->taken(pages->arg, vm, st, e) : 0;
	if (r)
		return r;
	vm_commit(vm);
	return vm_try_load(vm, e);
}

static int restore(struct vm *vm, struct loop *l, const struct backends *b, struct stream *st,
		   const struct snapshot_pages *pages, struct err *e)
{
	struct machine m;
	struct frame f;
	int r = next(st, &f, e);

	if (!r && (st->link != STREAM_FILE || f.type != FRAME_HELLO))
		r = err_set(e, -EBADMSG, "not a snapshot");
	if (!r)
		r = fdt_parse(f.data, f.length, &m, e);
	if (!r)
		r = vm_create(vm, l, &m, b, e);
	if (r)
		return r;
	r = take_all(vm, st, pages, e);
	if (!r)
		return 0;
	if (pages)
		pages->undo(pages->arg);
	vm_destroy(vm);
	return r;
}

int snapshot_restore(struct vm *vm, struct loop *l, const struct backends *b, const char *path,
		     const struct snapshot_pages *pages, struct err *e)
{
	struct stream st;
	int fd = chan_file_open(path, e), r;

	if (fd < 0)
		return fd;
	stream_init(&st, fd, STREAM_FILE, 0);
	r = restore(vm, l, b, &st, pages, e);
	stream_done(&st);
	return r ? err_wrap(e, "snapshot '%s'", path) : 0;
}
