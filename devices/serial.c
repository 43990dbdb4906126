#include "devices/serial.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/inputs.h"

#define RX_FIFO	  16
#define TX_RING	  1024			 /* written by vCPUs, not yet in the output buffer */
#define INPUT_MAX (2 * SERIAL_TYPED_MAX) /* a twin may be behind by what is on its way */

struct serial_byte {
	uint8_t b;
};

struct serial_state {
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t fifo_on;
	uint8_t overrun;     /* a received byte was lost */
	uint8_t thr_pending; /* "transmitter empty" was not seen yet */
	uint32_t nrx, ntx, nin;
	struct serial_byte rx[RX_FIFO];
	struct serial_byte tx[TX_RING];
	struct serial_byte in[INPUT_MAX];
};

static const struct field byte_fields[] = {
	F_U8(struct serial_byte, b, 1, "one byte"),
};

static const struct field serial_fields[] = {
	F_U8(struct serial_state, ier, 1, "interrupt enable", .max = 0x0f),
	F_U8(struct serial_state, lcr, 2, "line control"),
	F_U8(struct serial_state, mcr, 3, "modem control", .max = 0x1f),
	F_U8(struct serial_state, scr, 4, "scratch"),
	F_U8(struct serial_state, dll, 5, "divisor, low"),
	F_U8(struct serial_state, dlm, 6, "divisor, high"),
	F_U8(struct serial_state, fifo_on, 7, "FIFOs enabled", .max = 1),
	F_U8(struct serial_state, overrun, 8, "a received byte was lost", .max = 1),
	F_U8(struct serial_state, thr_pending, 9, "transmitter-empty interrupt pending", .max = 1),
	F_ARRAY(struct serial_state, rx, nrx, 10, byte_fields, "received, not read by the guest"),
	F_ARRAY(struct serial_state, tx, ntx, 11, byte_fields, "printed, not in the output buffer",
		.flags = FIELD_UNSTABLE),
	F_ARRAY(struct serial_state, in, nin, 12, byte_fields, "typed, not received yet",
		.since = 2),
};

const struct state_desc serial_desc = {
	.name = "serial",
	.id = 20,
	.version = 2,
	.size = sizeof(struct serial_state),
	.fields = serial_fields,
	.nfields = sizeof(serial_fields) / sizeof(serial_fields[0]),
};

struct serial {
	struct device dev;
	struct serial_state live;
	struct dev_env env;
	struct loop_op wake;
	int wake_fd; /* vCPU to loop: there is something in tx */
	bool quiet;
	bool full; /* serial_put() said so */
	int sink;
	obuf_sink_fn *out;
	void *out_arg;
};

/* Interrupts: the cause with the highest priority, as IIR shows it. */
static uint8_t cause(const struct serial_state *s)
{
	if ((s->ier & UART_IER_RLSI) && s->overrun)
		return UART_IIR_RLSI;
	if ((s->ier & UART_IER_RDI) && s->nrx)
		return UART_IIR_RDI;
	if ((s->ier & UART_IER_THRI) && s->thr_pending)
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

/* Something happened: an edge, if there is a cause. */
static void raise_irq(struct serial *p)
{
	if (cause(&p->live) != UART_IIR_NO_INT)
		device_signal(p->dev.irq_fd);
}

static bool tx_full(const struct serial_state *s)
{
	return s->ntx == TX_RING;
}

static void receive(struct serial_state *s, uint8_t b)
{
	if (s->nrx == RX_FIFO)
		s->overrun = 1;
	else
		s->rx[s->nrx++].b = b;
}

/* Is there room for whatever comes next for a twin? */
static bool has_room(const struct serial_state *s)
{
	return s->nin <= INPUT_MAX - SERIAL_TYPED_MAX;
}

/* Move what was typed into the FIFO, as far as it goes. */
static void refill(struct serial *p)
{
	struct serial_state *s = &p->live;
	uint32_t n = RX_FIFO - s->nrx;

	if (p->quiet || (s->mcr & UART_MCR_LOOP))
		return;
	n = n < s->nin ? n : s->nin;
	for (uint32_t i = 0; i < n; i++)
		receive(s, s->in[i].b);
	s->nin -= n;
	memmove(s->in, s->in + n, s->nin);
	if (n)
		raise_irq(p);
	if (p->full && has_room(s))
		device_signal(p->wake_fd);
}

static void transmit(struct serial *p, uint8_t b)
{
	struct serial_state *s = &p->live;

	if (s->mcr & UART_MCR_LOOP) {
		receive(s, b);
	} else if (!tx_full(s)) { /* else the guest did not look at THRE */
		s->tx[s->ntx++].b = b;
		if (s->ntx == 1)
			device_signal(p->wake_fd);
	}
	s->thr_pending = !tx_full(s);
	raise_irq(p);
}

/* Loop thread: put out what the guest printed. */
static void drain(struct serial *p)
{
	struct serial_state *s = &p->live;
	struct iovec iov = {.iov_base = s->tx, .iov_len = s->ntx};
	bool full = tx_full(s);

	_Static_assert(sizeof(struct serial_byte) == 1, "tx is handed out as bytes");
	if (p->quiet || !s->ntx || obuf_put(p->env.obuf, p->sink, &iov, 1) == -EAGAIN)
		return;
	s->ntx = 0;
	if (full) {
		s->thr_pending = 1;
		raise_irq(p);
	}
}

static void on_wake(struct loop_op *op, int res)
{
	struct serial *p = op->arg;

	if (res < 0)
		return;
	device_drain(p->wake_fd);
	pthread_mutex_lock(&p->dev.lock);
	drain(p);
	if (p->full && has_room(&p->live)) {
		p->full = false;
		inputs_room(p->env.inputs);
	}
	pthread_mutex_unlock(&p->dev.lock);
}

static bool deliver(void *arg, const void *data, uint32_t len)
{
	struct serial *p = arg;

	return p->out(p->out_arg, data, len);
}

static void room(void *arg)
{
	struct serial *p = arg;

	device_signal(p->wake_fd);
}

/* --- registers -------------------------------------------------------------------------------- */

static uint8_t read_rbr(struct serial *p)
{
	struct serial_state *s = &p->live;
	uint8_t b;

	if (!s->nrx)
		return 0;
	b = s->rx[0].b;
	memmove(&s->rx[0], &s->rx[1], --s->nrx);
	refill(p);
	return b;
}

static uint8_t read_iir(struct serial_state *s)
{
	uint8_t v = cause(s);

	if (v == UART_IIR_THRI)
		s->thr_pending = 0;
	return v | (s->fifo_on ? 0xc0 : 0);
}

static uint8_t read_lsr(struct serial_state *s)
{
	uint8_t v = s->nrx ? UART_LSR_DR : 0;

	if (s->overrun)
		v |= UART_LSR_OE;
	s->overrun = 0;
	return tx_full(s) ? v : v | UART_LSR_THRE | UART_LSR_TEMT;
}

static uint8_t read_msr(const struct serial_state *s)
{
	uint8_t v = 0;

	if (!(s->mcr & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	v |= s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0;
	v |= s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0;
	v |= s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0;
	v |= s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0;
	return v;
}

static uint8_t read_reg(struct serial *p, uint64_t off)
{
	struct serial_state *s = &p->live;
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (off) {
	case UART_RX:
		return dlab ? s->dll : read_rbr(p);
	case UART_IER:
		return dlab ? s->dlm : s->ier;
	case UART_IIR:
		return read_iir(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return read_lsr(s);
	case UART_MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

static uint64_t serial_read(void *arg, uint64_t off, unsigned size)
{
	struct serial *p = arg;
	uint8_t v;

	if (size != 1)
		return 0;
	pthread_mutex_lock(&p->dev.lock);
	v = read_reg(p, off);
	pthread_mutex_unlock(&p->dev.lock);
	return v;
}

static void write_ier(struct serial *p, uint8_t v)
{
	struct serial_state *s = &p->live;

	/* Enabling it while the transmitter is empty is an event (16550 data sheet, IIR). */
	if ((v & ~s->ier & UART_IER_THRI) && !tx_full(s))
		s->thr_pending = 1;
	s->ier = v & 0x0f;
	raise_irq(p);
}

static void write_fcr(struct serial_state *s, uint8_t v)
{
	s->fifo_on = v & UART_FCR_ENABLE_FIFO;
	if (v & UART_FCR_CLEAR_RCVR)
		s->nrx = 0;
	/* What was transmitted is on the wire: CLEAR_XMIT finds an empty FIFO. */
}

static void write_reg(struct serial *p, uint64_t off, uint8_t v)
{
	struct serial_state *s = &p->live;
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (off) {
	case UART_TX:
		if (dlab)
			s->dll = v;
		else
			transmit(p, v);
		break;
	case UART_IER:
		if (dlab)
			s->dlm = v;
		else
			write_ier(p, v);
		break;
	case UART_FCR:
		write_fcr(s, v);
		refill(p);
		break;
	case UART_LCR:
		s->lcr = v;
		break;
	case UART_MCR:
		s->mcr = v & 0x1f;
		refill(p);
		break;
	case UART_SCR:
		s->scr = v;
		break;
	}
}

static void serial_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct serial *p = arg;

	if (size != 1)
		return;
	pthread_mutex_lock(&p->dev.lock);
	write_reg(p, off, (uint8_t)val);
	pthread_mutex_unlock(&p->dev.lock);
}

/* --- typed ------------------------------------------------------------------------------------ */

static unsigned take(struct serial *p, const void *bytes, unsigned len, unsigned max)
{
	struct serial_state *s = &p->live;
	unsigned n = s->nin < max ? max - s->nin : 0;

	n = len < n ? len : n;
	memcpy(s->in + s->nin, bytes, n);
	s->nin += n;
	refill(p);
	return n;
}

unsigned serial_input(struct device *d, const void *bytes, unsigned len)
{
	struct serial *p = (struct serial *)d;
	unsigned n = 0;

	pthread_mutex_lock(&d->lock);
	if (!p->quiet && inputs_ready(p->env.inputs))
		n = take(p, bytes, len, SERIAL_TYPED_MAX);
	if (n)
		inputs_given(p->env.inputs, d, bytes, n);
	pthread_mutex_unlock(&d->lock);
	return n;
}

bool serial_put(struct device *d, const void *bytes, unsigned len)
{
	struct serial *p = (struct serial *)d;
	bool room;

	pthread_mutex_lock(&d->lock);
	take(p, bytes, len, INPUT_MAX);
	room = has_room(&p->live);
	p->full = !room;
	pthread_mutex_unlock(&d->lock);
	return room;
}

static void serial_save(struct device *d)
{
	struct serial *p = (struct serial *)d;

	pthread_mutex_lock(&d->lock);
	memcpy(d->pod, &p->live, sizeof(p->live));
	pthread_mutex_unlock(&d->lock);
}

static void serial_load(struct device *d, const void *pod)
{
	struct serial *p = (struct serial *)d;

	pthread_mutex_lock(&d->lock);
	memcpy(&p->live, pod, sizeof(p->live));
	p->full = false;
	pthread_mutex_unlock(&d->lock);
}

static void serial_resume(struct device *d)
{
	struct serial *p = (struct serial *)d;

	pthread_mutex_lock(&d->lock);
	device_signal(p->wake_fd);
	refill(p);
	raise_irq(p);
	pthread_mutex_unlock(&d->lock);
}

static void serial_quiet(struct device *d, bool on)
{
	struct serial *p = (struct serial *)d;

	pthread_mutex_lock(&d->lock);
	p->quiet = on;
	refill(p);
	pthread_mutex_unlock(&d->lock);
	if (!on)
		device_signal(p->wake_fd);
}

static void serial_free(struct device *d)
{
	struct serial *p = (struct serial *)d;

	if (p->wake_fd >= 0) {
		loop_poll_del(p->env.loop, &p->wake);
		close(p->wake_fd);
	}
	device_done(d);
	free(p);
}

static const struct device_ops serial_ops = {
	.state = &serial_desc,
	.save = serial_save,
	.load = serial_load,
	.resume = serial_resume,
	.quiet = serial_quiet,
	.free = serial_free,
};

static int attach(struct serial *p, struct err *e)
{
	struct bus_region ports = {.kind = BUS_PIO,
				   .base = SERIAL_BASE,
				   .len = 8,
				   .read = serial_read,
				   .write = serial_write,
				   .arg = p};
	int r;

	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->wake_fd < 0)
		return err_sys(e, "device serial: eventfd");
	p->wake = (struct loop_op){.fn = on_wake, .arg = p};
	r = loop_poll_add(p->env.loop, &p->wake, p->wake_fd, POLLIN);
	if (r < 0)
		return err_set(e, r, "device serial: too many events to wait for");
	p->sink = obuf_add_sink(p->env.obuf, OBUF_CONSOLE, deliver, room, p);
	if (p->sink < 0)
		return err_set(e, p->sink, "device serial: too many outputs");
	obuf_limit_sink(p->env.obuf, p->sink, OBUF_CONSOLE_BYTES);
	return device_add_region(&p->env, "serial", &ports, e);
}

int serial_new(const struct dev_env *env, obuf_sink_fn *out, void *arg, struct device **ret,
	       struct err *e)
{
	struct serial *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(e, -ENOMEM, "device serial: out of memory");
	p->env = *env;
	p->out = out;
	p->out_arg = arg;
	p->wake_fd = -1;
	r = device_init(&p->dev, &serial_ops, "serial", true, e);
	if (r) {
		free(p);
		return r;
	}
	p->dev.gsi = SERIAL_GSI;
	p->live.dll = 1; /* 115200 baud */
	p->live.lcr = UART_LCR_WLEN8;
	r = attach(p, e);
	if (r) {
		serial_free(&p->dev);
		return r;
	}
	*ret = &p->dev;
	return 0;
}
