#include "vmm/copy/snapshot.h"

#include <errno.h>
#include <string.h>

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

/* Where the parts of a file go. */
struct parts {
	int (*pages)(void *arg, const struct stream *st, const struct frame *f, struct err *e);
	int (*state)(void *arg, const struct frame *f, struct err *e);
	void *arg;
};

static int misplaced(const struct frame *f, struct err *e)
{
	if (f->type == FRAME_MAP)
		return err_set(e, -EBADMSG,
			       "these are the pages that had arrived when a source died "
			       "(`arrived`), not a VM");
	return err_set(e, -EBADMSG, "%s where it does not belong", stream_frame_name(f->type));
}

/* All behind the machine. */
static int take_parts(struct stream *st, const struct parts *p, struct err *e)
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
			r = p->pages(p->arg, st, &f, e);
		else if (f.type == FRAME_STATE && !has_state)
			r = p->state(p->arg, &f, e);
		else
			r = misplaced(&f, e);
		if (r)
			return r;
		has_state = has_state || f.type == FRAME_STATE;
	}
	return has_state ? 0 : err_set(e, -EBADMSG, "no device state");
}

/* The first frame: the machine's description. */
static int take_machine(struct stream *st, struct frame *f, struct err *e)
{
	int r = next(st, f, e);

	if (!r && (st->link != STREAM_FILE || f->type != FRAME_HELLO))
		r = err_set(e, -EBADMSG, "not a snapshot");
	return r;
}

/* --- to run it -------------------------------------------------------------------------------- */

struct restoring {
	struct vm *vm;
	const struct snapshot_pages *pages;
};

static int restore_pages(void *arg, const struct stream *st, const struct frame *f, struct err *e)
{
	const struct restoring *r = arg;
	const struct snapshot_pages *pages = r->pages;

	return pages ? pages->take(pages->arg, r->vm, st, f, e) : page_in_now(&r->vm->mem, f, e);
}

static int restore_state(void *arg, const struct frame *f, struct err *e)
{
	return vm_decode(((struct restoring *)arg)->vm, f->data, f->length, e);
}

static int take_all(struct vm *vm, struct stream *st, const struct snapshot_pages *pages,
		    struct err *e)
{
	struct restoring to = {vm, pages};
	const struct parts parts = {restore_pages, restore_state, &to};
	int r = take_parts(st, &parts, e);

	if (!r && pages)
		r = pages->taken(pages->arg, vm, st, e);
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
	int r = take_machine(st, &f, e);

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

/* --- to look at it ---------------------------------------------------------------------------- */

static int pass_pages(void *arg, const struct stream *st, const struct frame *f, struct err *e)
{
	return 0;
}

static int view_state(void *arg, const struct frame *f, struct err *e)
{
	return vm_view_decode(arg, f->data, f->length, e);
}

int snapshot_view(struct vm_view *v, const char *path, struct err *e)
{
	const struct parts parts = {pass_pages, view_state, v};
	struct stream st;
	struct frame f;
	int fd = chan_file_open(path, e), r;

	memset(v, 0, sizeof(*v));
	if (fd < 0)
		return fd;
	stream_init(&st, fd, STREAM_FILE, 0);
	r = take_machine(&st, &f, e);
	if (!r)
		r = vm_view_init(v, f.data, f.length, e);
	if (!r)
		r = take_parts(&st, &parts, e);
	stream_done(&st);
	return r ? err_wrap(e, "snapshot '%s'", path) : 0;
}
