#define _GNU_SOURCE
#include "ft/common/heart.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/base/lock.h"
#include "vmm/base/log.h"

#define PRIORITY	2	   /* above the loop's: that may be what takes the processor */
#define WRITE_NS	2000000ull /* a heartbeat is written within this time, or the peer is lost */
#define TRIPS		4 /* before the shortest counts: the first may have waited for who stood still */
#define FRAMES_PER_TURN 256
#define REST_NS		1000000ull /* after so many: a flood does not take the processor */

static unsigned long long ms(uint64_t ns)
{
	return ns / 1000000;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void tell_loop(struct heart *h)
{
	eventfd_write(h->tell_fd, 1);
}

/* Always false. From here on nothing is echoed: the other side's lease runs out. */
static __attribute__((format(printf, 2, 3))) bool lose(struct heart *h, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&h->lock);
	h->is_lost = true;
	va_start(ap, fmt);
	vsnprintf(h->why, sizeof(h->why), fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&h->lock);
	tell_loop(h);
	return false;
}

/* With the lock, or by the thread. */
static uint64_t round_trip(const struct heart *h)
{
	return h->trips < TRIPS ? 0 : h->shortest_trip_ns;
}

/*
 * With the lock. The other side's round trip may be shorter than ours, if it was less busy: so ours
 * counts up to what is left of the timeout, and no lease is longer than that.
 */
static bool suspect(const struct heart *h)
{
	uint64_t trip = round_trip(h);

	if (trip > h->lease_ns / 3)
		trip = h->lease_ns / 3;
	return h->is_lost || h->echoed_ns < h->confessed_ns ||
	       loop_now_ns() - h->echoed_ns > h->lease_ns + trip;
}

static void take_echo(struct heart *h, uint64_t echo)
{
	uint64_t trip = loop_now_ns() - echo;

	pthread_mutex_lock(&h->lock);
	if (echo > h->echoed_ns && echo <= h->last.nonce) {
		h->echoed_ns = echo;
		if (!h->trips++ || trip < h->shortest_trip_ns)
			h->shortest_trip_ns = trip;
		if (h->doubted && !suspect(h))
			tell_loop(h);
	}
	pthread_mutex_unlock(&h->lock);
}

/* False: no heartbeat. */
static bool take_frame(struct heart *h, const struct frame *f)
{
	struct wire_heart w;

	if (f->type != FRAME_HEART || f->length != sizeof(w))
		return false;
	memcpy(&w, f->data, sizeof(w));
	h->heard_ns = loop_now_ns();
	h->owes_answer |= w.nonce != h->last.echo;
	h->last.echo = w.nonce;
	h->peer_away_ns = w.away_ns;
	take_echo(h, w.echo);
	return true;
}

static bool hear(struct heart *h)
{
	struct frame f;
	int r;

	h->full_turn = false;
	for (int n = 0; n < FRAMES_PER_TURN; n++) {
		r = stream_recv(&h->stream, &f);
		if (r == 0)
			return true;
		if (r < 0)
			return lose(h, "%s",
				    r == -EBADMSG ? h->stream.why : "heartbeat link closed");
		if (!take_frame(h, &f))
			return lose(h, "something else than a heartbeat on its link");
	}
	h->full_turn = true;
	return true;
}

static void note_away(struct heart *h, bool away)
{
	if (away && !h->noted) {
		pthread_mutex_lock(&h->lock);
		h->note_away_ns = h->peer_away_ns;
		pthread_mutex_unlock(&h->lock);
		tell_loop(h);
	}
	h->noted = away;
}

/* A thread that was itself away must not judge by old clocks: the peer gets a fresh timeout. */
static bool judge(struct heart *h, bool was_away)
{
	uint64_t patience = __atomic_load_n(&h->patience_ns, __ATOMIC_RELAXED);
	uint64_t heard = __atomic_load_n(&h->link_heard_ns, __ATOMIC_RELAXED);
	uint64_t now = loop_now_ns();

	if (was_away)
		h->heard_ns = now;
	if (heard < h->heard_ns)
		heard = h->heard_ns;
	if (now > heard + patience + round_trip(h))
		return lose(h, "silent for %llu ms", ms(now - heard));
	if (h->peer_away_ns > h->hang_ns && h->peer_away_ns > patience)
		return lose(h, "its loop hangs, away for %llu ms", ms(h->peer_away_ns));
	note_away(h, h->peer_away_ns > patience);
	return true;
}

/*
 * The lock from the look at the loop to the confession: either the loop's next question comes after
 * it, or its round began before.
 */
static void new_beat(struct heart *h, uint64_t now)
{
	uint64_t round;

	pthread_mutex_lock(&h->lock);
	round = loop_round_ns(h->loop);
	h->last.nonce = now;
	h->last.away_ns = now > round ? now - round : 0;
	if (h->last.away_ns > h->hang_ns)
		h->confessed_ns = now;
	pthread_mutex_unlock(&h->lock);
	h->due_ns = now + h->interval_ns;
}

/* An answer repeats the last heartbeat: what is not new is not answered. */
static bool beat(struct heart *h)
{
	struct iovec iov = {&h->last, sizeof(h->last)};
	uint64_t now = loop_now_ns();

	if (now >= h->due_ns)
		new_beat(h, now);
	else if (!h->owes_answer)
		return true;
	h->owes_answer = false;
	if (stream_send(&h->stream, FRAME_HEART, 0, &iov, 1, now + WRITE_NS) < 0)
		return lose(h, "heartbeat link closed");
	return true;
}

/* What has arrived is heard before silence is judged. False: the peer is lost. */
static bool turn(struct heart *h)
{
	uint64_t patience = __atomic_load_n(&h->patience_ns, __ATOMIC_RELAXED);
	uint64_t now = loop_now_ns();
	bool was_away = now - h->turn_ns > h->interval_ns + patience / 2;

	h->turn_ns = now;
	return hear(h) && judge(h, was_away) && beat(h);
}

/* False: the heart is to stop. */
static bool rest(struct heart *h)
{
	struct pollfd fds[2] = {{.fd = h->wake_fd, .events = POLLIN},
				{.fd = h->stream.fd, .events = POLLIN}};
	uint64_t now = loop_now_ns(), ns = h->due_ns > now ? h->due_ns - now : 0;
	struct timespec ts;

	if (h->full_turn && ns > REST_NS)
		ns = REST_NS;
	ts = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	ppoll(fds, h->full_turn ? 1 : 2, &ts, NULL);
	return !fds[0].revents;
}

static void *thread_main(void *arg)
{
	struct heart *h = arg;

	pthread_setname_np(pthread_self(), "heart");
	/* Whether it may was said when the loop tried. */
	if (loop_raise_priority(PRIORITY))
		loop_raise_priority(PRIORITY - 1);
	while (turn(h) && rest(h))
		;
	return NULL;
}

/* --- the loop --------------------------------------------------------------------------------- */

/* A loop that is there begins a round at least this often. */
static void tick(struct loop_op *op, int res)
{
	struct heart *h = op->arg;

	__atomic_store_n(&h->patience_ns, h->timeout_ns, __ATOMIC_RELAXED);
	loop_timer_set(h->loop, &h->tick_op, h->interval_ns);
}

static void told(struct loop_op *op, int res)
{
	struct heart *h = op->arg;
	char why[sizeof(h->why)];
	bool is_lost, trusted;
	eventfd_t n;
	uint64_t away;

	eventfd_read(h->tell_fd, &n);
	pthread_mutex_lock(&h->lock);
	is_lost = h->is_lost;
	memcpy(why, h->why, sizeof(why));
	trusted = h->doubted && !suspect(h);
	h->doubted = h->doubted && !trusted;
	away = h->note_away_ns;
	h->note_away_ns = 0;
	pthread_mutex_unlock(&h->lock);
	if (away)
		log_warn("the peer's loop has been away for %llu ms, but its heart beats; the loop "
			 "counts as hung after %llu ms",
			 ms(away), ms(h->hang_ns));
	if (is_lost && h->running) {
		h->running = false;
		h->lost(h->arg, why);
	} else if (trusted && h->trusted) {
		h->trusted(h->arg);
	}
}

static int start(struct heart *h)
{
	int r;

	h->told_op = (struct loop_op){.fn = told, .arg = h};
	h->tick_op = (struct loop_op){.fn = tick, .arg = h};
	h->tell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (h->tell_fd < 0 || h->wake_fd < 0)
		return -errno;
	r = loop_poll_add(h->loop, &h->told_op, h->tell_fd, POLLIN);
	if (!r)
		r = loop_timer_set(h->loop, &h->tick_op, 0);
	return r ? r : -pthread_create(&h->thread, NULL, thread_main, h);
}

/* All but the thread. */
static void done(struct heart *h)
{
	h->running = false;
	loop_timer_del(h->loop, &h->tick_op);
	loop_poll_del(h->loop, &h->told_op);
	if (h->tell_fd >= 0)
		close(h->tell_fd);
	if (h->wake_fd >= 0)
		close(h->wake_fd);
	pthread_mutex_destroy(&h->lock);
	stream_done(&h->stream);
	h->loop = NULL;
}

int heart_start(struct heart *h, struct loop *l, struct stream *st, uint64_t interval_ns,
		uint64_t timeout_ns)
{
	uint64_t now = loop_now_ns();
	int r;

	/* Nobody takes over before the first heartbeats: that time is a lease, too. */
	*h = (struct heart){
		.loop = l,
		.interval_ns = interval_ns,
		.timeout_ns = timeout_ns,
		.running = true,
		.lost = h->lost,
		.trusted = h->trusted,
		.arg = h->arg,
		.hang_ns = timeout_ns * HEART_HANG_TIMEOUTS,
		.lease_ns = timeout_ns / 4 * 3, /* some time is for acting on it */
		.patience_ns = timeout_ns,
		.stream = *st,
		.due_ns = now,
		.turn_ns = now,
		.heard_ns = now,
		.echoed_ns = now,
	};
	memset(st, 0, sizeof(*st));
	st->fd = -1;
	if (h->hang_ns < HEART_HANG_MIN_NS)
		h->hang_ns = HEART_HANG_MIN_NS;
	lock_init(&h->lock);
	r = start(h);
	if (r)
		done(h);
	return r;
}

void heart_stop(struct heart *h)
{
	if (!h->loop)
		return;
	eventfd_write(h->wake_fd, 1);
	pthread_join(h->thread, NULL);
	done(h);
}

void heart_heard(struct heart *h)
{
	if (h->loop)
		__atomic_store_n(&h->link_heard_ns, loop_now_ns(), __ATOMIC_RELAXED);
}

bool heart_suspect(struct heart *h)
{
	bool is;

	if (!h->loop)
		return true;
	pthread_mutex_lock(&h->lock);
	is = suspect(h);
	h->doubted = h->doubted || is;
	pthread_mutex_unlock(&h->lock);
	return is;
}
