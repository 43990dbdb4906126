#include "ft/common/dial.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "vmm/wire/chan.h"

void dial_stop(struct dial *d)
{
	if (d->loop)
		loop_poll_del(d->loop, &d->op);
	if (d->chan.ops)
		chan_close(&d->chan);
	else if (d->fd >= 0)
		close(d->fd);
	d->chan.ops = NULL;
	d->fd = -1;
}

struct chan dial_take(struct dial *d)
{
	struct chan c = d->chan;

	d->chan.ops = NULL;
	d->fd = -1;
	return c;
}

static void end(struct dial *d, const struct err *e)
{
	loop_poll_del(d->loop, &d->op);
	if (e)
		dial_stop(d);
	d->done(d->arg, e);
}

static void agree(struct loop_op *op, int res)
{
	struct dial *d = op->arg;
	struct err e = {0};
	int r = chan_ready(&d->chan, &e);

	if (r != -EAGAIN)
		end(d, r ? &e : NULL);
}

/* What is agreed on, if anything, begins with this side's word. */
static int begin(struct dial *d, struct err *e)
{
	int r = 0;

	if (d->over_tls)
		r = tls_chan(d->tls, d->us, d->fd, &d->chan, e);
	else
		d->chan = chan_of(d->fd);
	d->fd = -1;
	return r ? r : chan_ready(&d->chan, e);
}

static void connected(struct loop_op *op, int res)
{
	struct dial *d = op->arg;
	struct err e = {0};
	int r;

	loop_poll_del(d->loop, &d->op);
	r = chan_connected(d->fd, &e);
	if (!r)
		r = begin(d, &e);
	if (r != -EAGAIN) {
		end(d, r ? &e : NULL);
		return;
	}
	d->op = (struct loop_op){.fn = agree, .arg = d};
	if (loop_poll_add(d->loop, &d->op, d->chan.fd, POLLIN)) {
		err_set(&e, -ENOSPC, "event loop is full");
		end(d, &e);
	}
}

int dial_start(struct dial *d, const char *text, struct err *e)
{
	struct chan_uri uri;
	int r = chan_parse(text, &uri, e);

	if (!r)
		r = tls_check(d->tls, &uri, e);
	if (!r)
		r = chan_connect_start(&uri, &d->fd, e);
	if (r) {
		d->fd = -1;
		return r;
	}
	d->over_tls = uri.kind == CHAN_TLS;
	d->op = (struct loop_op){.fn = connected, .arg = d};
	r = loop_poll_add(d->loop, &d->op, d->fd, POLLOUT);
	if (!r)
		return 0;
	dial_stop(d);
	return err_set(e, r, "cannot wait for the connection: %s", strerror(-r));
}
