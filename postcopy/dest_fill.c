/* Postcopy: the VM runs here, and its memory comes in; also when the link is lost meanwhile. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "postcopy/dest_do.h"
#include "vmm/base/log.h"
#include "vmm/machine/fdt.h"
#include "vmm/wire/chan.h"

#define LINK_MS	 10000 /* TCP_USER_TIMEOUT */
#define SAY_NS	 1000000000ull
#define WATCH_NS 1000000000ull
#define VAIN_NS	 5000000000ull
#define MEND_NS	 10000000000ull

/* --- the pager -------------------------------------------------------------------------------- */

static void news(struct loop_op *op, int res)
{
	struct dest *d = op->arg;
	unsigned events;
	char why[256];
	uint64_t n;

	if (read(d->pager_fd, &n, sizeof(n)) != sizeof(n) || !d->pager.mem)
		return;
	events = pager_events(&d->pager);
	if (events & PAGER_ARRIVED && fsm_expects(&d->fsm, DST_EV_ARRIVED))
		dest_post(d, DST_EV_ARRIVED);
	if (d->pager.mem && events & (PAGER_LOST | PAGER_FAILED)) {
		pager_why(&d->pager, why, sizeof(why));
		dest_hear_go(d);
		dest_lose(d, why);
	}
	dest_look_whether_complete(d);
}

static int open_news(struct dest *d, struct err *e)
{
	if (d->pager_fd >= 0)
		return 0;
	d->pager_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->pager_fd < 0)
		return err_sys(e, "eventfd");
	d->pager_op = (struct loop_op){.fn = news, .arg = d};
	return loop_poll_add(d->ft->loop, &d->pager_op, d->pager_fd, POLLIN)
		       ? err_set(e, -ENOSPC, "event loop is full")
		       : 0;
}

static int vcpu_of(void *arg, uint32_t tid)
{
	const struct vm *vm = arg;

	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		if ((uint32_t)__atomic_load_n(&vm->vcpus[i].tid, __ATOMIC_ACQUIRE) == tid)
			return (int)i;
	return -1;
}

int dest_open_pager(struct dest *d, struct err *e)
{
	int r = open_news(d, e);

	if (!r)
		r = pager_open(&d->pager, &d->vm->mem, d->pager_fd, e);
	if (!r)
		faults_of_vcpus(&d->pager.faults, d->vm->machine.vcpus, vcpu_of, d->vm);
	return r;
}

static void take_pair(struct dest *d)
{
	door_take(d->caller, &d->urgent);
	chan_set_options(d->urgent.fd, LINK_MS);
	if (dest_say(d, FRAME_WELCOME, NULL, 0))
		dest_lose(d, "source: connection broken");
}

void dest_pair(void *arg)
{
	take_pair(arg);
	step_reached(STEP_MIG_PAIR);
}

/* Asked for, and waited for by an event: the loop itself may not sleep in a fault. */
void dest_try_load(void *arg)
{
	struct dest *d = arg;
	bool ready = !d->pager.mem || vm_load_ready(d->vm);

	if (ready && dest_disks_written(d))
		dest_load_now(d);
}

/* --- it runs ---------------------------------------------------------------------------------- */

static uint64_t filled(const struct dest *d)
{
	const struct fill_counts *n = &d->pager.counts;

	return __atomic_load_n(&n->urgent, __ATOMIC_RELAXED) +
	       __atomic_load_n(&n->pushed, __ATOMIC_RELAXED) +
	       __atomic_load_n(&n->zero, __ATOMIC_RELAXED);
}

void dest_begin_fill(void *arg)
{
	struct dest *d = arg;

	d->filled = filled(d);
	d->filled_ns = loop_now_ns();
	dest_timer(d, WATCH_NS);
}

/* A link that is whole does not say whether anybody is at its other end. */
void dest_watch(void *arg)
{
	static const char vain[] =
		"postcopy: the guest waits for pages, and nothing has come for 5 s; the link is "
		"not lost: does the source's process run?";
	struct dest *d = arg;
	bool noted = !strcmp(d->ft->note, vain);

	if (filled(d) != d->filled || !__atomic_load_n(&d->pager.have.asked, __ATOMIC_RELAXED)) {
		dest_begin_fill(d);
		if (noted)
			ft_set(d->ft, FT_HERE, FT_NONE, NULL);
		return;
	}
	if (!noted && loop_now_ns() - d->filled_ns >= VAIN_NS) {
		log_warn("%s", vain);
		ft_set(d->ft, FT_HERE, FT_NONE, vain);
	}
	dest_timer(d, WATCH_NS);
}

void dest_arrived(void *arg)
{
	struct dest *d = arg;

	vm_arrived(d->vm);
}

/* No link, and no file, either. */
static bool is_cut_off(const struct dest *d)
{
	return (d->fsm.state == DST_CUT || d->fsm.state == DST_ORPHAN) && !dest_has_link(d);
}

void dest_look_whether_complete(struct dest *d)
{
	bool all = d->pager.mem && !pager_left(&d->pager);

	/* Without a link or file nothing is on its way, and no EOS comes. */
	if (all &&
	    (is_cut_off(d) || (fsm_expects(&d->fsm, DST_EV_COMPLETE) && pager_complete(&d->pager))))
		dest_post(d, DST_EV_COMPLETE);
}

static void tell(struct dest *d)
{
	if (d->news)
		d->news(d->arg);
}

bool dest_get_stats(struct dest *d, struct pager_stats *ret)
{
	if (d->pager.mem) {
		pager_get_stats(&d->pager, ret);
		return true;
	}
	*ret = d->came;
	return d->last.mode == MIGRATE_POSTCOPY;
}

static void log_sum(const char *who, const struct faults_sum *s)
{
	log_info("postcopy: %s: %llu faults, blocked for %.1f ms, %.1f ms at most", who,
		 (unsigned long long)s->count, (double)s->blocked_ns / 1e6,
		 (double)s->max_ns / 1e6);
}

static void log_stats(const struct dest *d)
{
	const struct pager_stats *s = &d->came;
	const struct faults_stats *f = &s->faults;
	char who[16];

	log_info("postcopy: all of the memory is here: %llu pages asked for, %llu pushed, %llu of "
		 "zeros, %llu twice; %llu faults, p50 %.0f us, p99 %.0f us, max %.0f us",
		 (unsigned long long)s->counts.urgent, (unsigned long long)s->counts.pushed,
		 (unsigned long long)s->counts.zero, (unsigned long long)s->counts.twice,
		 (unsigned long long)f->all.count, (double)faults_percentile_ns(f, 50) / 1e3,
		 (double)faults_percentile_ns(f, 99) / 1e3, (double)f->all.max_ns / 1e3);
	for (unsigned i = 0; i < d->vm->machine.vcpus; i++) {
		snprintf(who, sizeof(who), "vcpu%u", i);
		log_sum(who, &f->sum[i]);
	}
	log_sum("others", &f->sum[FAULTS_OTHERS]);
}

/* What stood for want of memory. */
static void go_on(struct dest *d)
{
	if (!(d->ft->stands & FT_STAND_LOST))
		return;
	ft_go(d->ft, d->vm, FT_STAND_LOST);
	ft_set(d->ft, FT_HERE, FT_NONE, "postcopy: pages come again: the VM goes on");
}

void dest_complete(void *arg)
{
	struct dest *d = arg;

	go_on(d);
	loop_timer_del(d->ft->loop, &d->timer_op);
	pager_get_stats(&d->pager, &d->came);
	log_stats(d);
	/* Before the urgent link ends, which the source may see at once. */
	if (dest_has_link(d) && dest_say(d, FRAME_EOC, NULL, 0))
		dest_lose(d, "source: connection broken");
	pager_finish(&d->pager);
	stream_done(&d->urgent);
	vm_arrived(d->vm);
	ft_set(d->ft, FT_HERE, FT_NONE, NULL);
	tell(d);
	vm_tell_end(d->vm); /* what waited for this */
	step_reached(STEP_MIG_WHOLE);
}

/* --- the link is lost ------------------------------------------------------------------------- */

void dest_cut_again(void *arg)
{
	struct dest *d = arg;
	char note[480];

	snprintf(note, sizeof(note),
		 "postcopy: link lost: %.120s; %llu pages have not come, and who touches one "
		 "waits; the source connects again. To listen at another address, too, or to take "
		 "a file: ftvmm migrate NAME --recover URI",
		 d->why, (unsigned long long)pager_left(&d->pager));
	ft_set(d->ft, FT_HERE, FT_NONE, note);
	tell(d);
	dest_timer(d, DEST_SILENT_NS);
	dest_look_whether_complete(d);
}

void dest_cut(void *arg)
{
	struct dest *d = arg;

	dest_cut_again(d);
	log_error("%s", d->ft->note);
	step_reached(STEP_MIG_LOST);
}

/*
 * It would have asked by now. A VM of which some vCPUs run and some wait is of use to nobody, and
 * what has come is saved as it is while it stands.
 */
void dest_stand(void *arg)
{
	struct dest *d = arg;
	char note[480];

	snprintf(note, sizeof(note),
		 "postcopy: the source has not asked for 30 s, and %llu pages have not come: the "
		 "VM stands. Is there another way to it, or a file? ftvmm migrate NAME --recover "
		 "URI. If it is dead they are lost, and the VM with them: ftvmm stop NAME. What "
		 "has come can be kept before: ftvmm snapshot NAME FILE arrived",
		 (unsigned long long)pager_left(&d->pager));
	log_error("%s", note);
	ft_lack(d->ft, d->vm, faults_vcpus(&d->pager.faults), note);
	tell(d);
}

static uint64_t have_words(const struct dest *d)
{
	return (d->vm->mem.npages + 63) / 64;
}

/* --- pages that are carried over by hand ------------------------------------------------------ */

int dest_take_file(struct dest *d, const char *path, void (*told)(void *arg, const struct err *e),
		   void *arg, struct err *e)
{
	const struct carry_in_plan plan = {
		.path = path, .loop = d->ft->loop, .session = d->session, .told = told, .arg = arg};
	int r, fd;

	if (!fsm_expects(&d->fsm, DST_EV_FILE))
		return err_set(e, -EBUSY, "migrate: --recover: %s",
			       dest_fills(d)  ? "the link is there; when it is lost, ftvmm "
						"status says so"
			       : d->pager.mem ? "the VM does not run here yet"
			       : d->fsm.state >= DST_RUNS ? "all of the VM's memory is here"
							  : "no VM of which memory is missing "
							    "runs here");
	/* The VM would go on under it. */
	if (carry_out_is_owed(d->arrived))
		return err_set(e, -EBUSY,
			       "migrate: --recover: what has arrived is being written to a file; "
			       "wait for that");
	r = carry_in_start(&d->carry, &plan, &fd, e);
	if (r)
		return err_wrap(e, "migrate: --recover");
	dest_close_link(d); /* of a file that has ended */
	stream_init(&d->link, fd, STREAM_MIGRATE, d->session);
	dest_post(d, DST_EV_FILE);
	return 0;
}

void dest_open_file(void *arg)
{
	struct dest *d = arg;

	/* It ends with an error, at least: then it is time to ask again. */
	loop_timer_del(d->ft->loop, &d->timer_op);
	go_on(d);
	pager_again(&d->pager, NULL);
	dest_listen_to_link(d);
}

/* A stream as a snapshot's, and none to be restored: some of it is missing. */
#define ARRIVED_SESSION 1

int dest_write_arrived(struct dest *d, const char *path,
		       void (*told)(void *arg, const struct err *e), void *arg,
		       uint64_t *ret_missing, struct err *e)
{
	struct carry_out_plan plan = {.path = path,
				      .loop = d->ft ? d->ft->loop : NULL,
				      .session = ARRIVED_SESSION,
				      .told = told,
				      .arg = arg};
	uint64_t nwords;
	int64_t len = 0;

	if (!d->ft || !is_cut_off(d))
		return err_set(e, -EBUSY,
			       "snapshot: arrived: only while the link of a postcopy is "
			       "lost at its destination: ftvmm status says so");
	if (carry_in_is_owed(d->carry))
		return err_set(e, -EBUSY, "snapshot: arrived: a file is being read; wait for that");
	nwords = have_words(d);
	plan.mem = &d->vm->mem;
	plan.pages = calloc(nwords, sizeof(*plan.pages));
	plan.machine = malloc(FDT_MAX_BYTES);
	if (plan.pages && plan.machine) {
		have_bitmap(&d->pager.have, 0, nwords, plan.pages);
		len = fdt_build(&d->vm->machine, plan.machine, FDT_MAX_BYTES, e);
	}
	if (len <= 0) {
		free(plan.pages);
		free(plan.machine);
		return err_set(e, len ? (int)len : -ENOMEM, "snapshot: arrived: out of memory");
	}
	plan.machine_len = (size_t)len;
	if (carry_out_start(&d->arrived, &plan, e))
		return err_wrap(e, "snapshot: arrived");
	*ret_missing = pager_left(&d->pager);
	return 0;
}

/* --- the link is back ------------------------------------------------------------------------- */

bool dest_has_said_have(const struct dest *d)
{
	return d->have_word == have_words(d);
}

/* A part whenever the link has room for it: nobody waits for a slow one. */
static void say_have(struct loop_op *op, int res)
{
	struct dest *d = op->arg;
	uint64_t bits[WIRE_HAVE_WORDS], left = have_words(d) - d->have_word;
	uint32_t n = left < WIRE_HAVE_WORDS ? (uint32_t)left : WIRE_HAVE_WORDS;
	struct wire_have have = {d->have_word, n, n == left};
	struct iovec iov[2] = {{&have, sizeof(have)}, {bits, n * sizeof(*bits)}};

	have_bitmap(&d->pager.have, d->have_word, n, bits);
	if (stream_send(&d->link, FRAME_HAVE, 0, iov, 2, loop_now_ns() + SAY_NS)) {
		dest_lose(d, "source: connection broken");
		return;
	}
	d->have_word += n;
	dest_timer(d, MEND_NS);
	if (dest_has_said_have(d)) {
		loop_poll_del(d->ft->loop, &d->have_op);
		step_reached(STEP_MIG_HAVE);
	}
}

/* A source that asks has lost the old link, whatever is thought of that here. */
void dest_have(void *arg)
{
	struct dest *d = arg;

	go_on(d);
	dest_timer(d, MEND_NS);
	dest_close_link(d);
	door_take(d->caller, &d->link);
	chan_set_options(d->link.fd, LINK_MS);
	d->have_word = 0;
	d->have_op = (struct loop_op){.fn = say_have, .arg = d};
	dest_listen_to_link(d);
	if (loop_poll_add(d->ft->loop, &d->have_op, d->link.fd, POLLOUT))
		dest_lose(d, "event loop is full");
}

void dest_mend(void *arg)
{
	struct dest *d = arg;

	take_pair(d);
	if (!dest_has_link(d))
		return;
	stream_shallow(&d->link);
	dest_begin_fill(d);
	pager_again(&d->pager, &d->urgent);
	log_info("postcopy: the link is back; %llu pages have not come",
		 (unsigned long long)pager_left(&d->pager));
	ft_set(d->ft, FT_HERE, FT_NONE, NULL);
	tell(d);
	step_reached(STEP_MIG_MENDED);
}

/* It asked, and stands still since; its kernel alone keeps the link. */
void dest_mend_late(void *arg)
{
	struct dest *d = arg;

	snprintf(d->why, sizeof(d->why), "source: asked, and says nothing more");
	dest_close_link(d);
	dest_cut_again(d);
}

void dest_end_of_fill(void *arg)
{
	struct dest *d = arg;

	if (dest_has_link(d))
		dest_say(d, FRAME_EOC, NULL, 0);
}
