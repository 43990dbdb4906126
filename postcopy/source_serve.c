/*
 * Postcopy: the VM runs at the destination, and what it lacks is here. Two threads send it: urgent,
 * what somebody waits for there, on a link of its own; push, all else. A link that is lost changes
 * nothing: it is connected again, the destination says what it has, and the rest is sent.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "postcopy/source_do.h"
#include "vmm/base/log.h"

#define ANSWER_NS 2000000000ull
/* A destination that ends says so by the main link: that word may come after the urgent one's end.
 */
#define LAST_WORD_NS 200000000ull

static void urgent_ended(struct source *s, const char *why)
{
	char text[sizeof(s->urgent.why) + 16];

	snprintf(text, sizeof(text), "urgent link: %s", why);
	if (s->fsm.state != SRC_SERVE) {
		source_lose(s, text);
		return;
	}
	snprintf(s->why, sizeof(s->why), "%s", text);
	source_timer(s, LAST_WORD_NS);
}

static void news(struct loop_op *op, int res)
{
	struct source *s = op->arg;
	const char *why = "";
	uint64_t n;

	if (read(s->serve_fd, &n, sizeof(n)) != sizeof(n) || s->link.fd < 0)
		return;
	/* Behind EOS the urgent link may end first: what became of it the main one says. */
	if (__atomic_load_n(&s->push.eos, __ATOMIC_ACQUIRE)) {
		if (s->fsm.state == SRC_SERVE)
			source_post(s, SRC_EV_SENT);
	} else if (s->urgent.running && urgent_error(&s->urgent, &why)) {
		urgent_ended(s, why);
	} else if (s->push.running && push_error(&s->push)) {
		source_lose(s, "link broken");
	}
}

static int open_news(struct source *s, struct err *e)
{
	if (s->serve_fd >= 0)
		return 0;
	s->serve_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->serve_fd < 0)
		return err_sys(e, "eventfd");
	s->serve_op = (struct loop_op){.fn = news, .arg = s};
	return loop_poll_add(s->ft->loop, &s->serve_op, s->serve_fd, POLLIN)
		       ? err_set(e, -ENOSPC, "event loop is full")
		       : 0;
}

/* --- what is to be sent -----------------------------------------------------------------------
 */

struct runs {
	struct wire_map *map;
	uint32_t n, cap;
};

static int add_void(struct runs *r, uint64_t page)
{
	struct wire_map *last = r->n ? &r->map[r->n - 1] : NULL;

	if (last && last->page + last->count == page && last->count < WIRE_MAP_PAGES) {
		last->count++;
		return 0;
	}
	if (r->n == r->cap) {
		uint32_t cap = r->cap ? 2 * r->cap : 256;
		struct wire_map *map = realloc(r->map, cap * sizeof(*map));

		if (!map)
			return -ENOMEM;
		r->map = map;
		r->cap = cap;
	}
	r->map[r->n++] = (struct wire_map){.page = page, .count = 1, .kind = WIRE_MAP_DROP};
	return 0;
}

/* Sent and not written since: it has that. What was sent and written since is void. */
static int split(struct source *s, struct runs *runs)
{
	const uint64_t *sent = s->passes.sent;
	int r = dirty_get(&s->dirty);

	for (uint64_t w = 0; w < s->dirty.nwords && !r; w++) {
		uint64_t dirty = s->dirty.bits[w];

		unsent_peer_has(&s->unsent, w, sent[w] & ~dirty);
		for (uint64_t bad = sent[w] & dirty; bad && !r; bad &= bad - 1)
			r = add_void(runs, w * 64 + (uint64_t)__builtin_ctzll(bad));
	}
	return r;
}

int source_prepare_serving(struct source *s, struct err *e)
{
	struct runs runs = {0};
	int r = open_news(s, e);

	if (r)
		return r;
	unsent_done(&s->unsent);
	r = unsent_init(&s->unsent, s->vm->mem.npages, true);
	if (!r && s->conf.passes)
		r = split(s, &runs);
	free(s->maps);
	s->maps = runs.map;
	s->passes.maps = runs.map;
	s->passes.nmaps = runs.n;
	if (r)
		return err_set(e, r, "postcopy: what is to be sent: %s", strerror(-r));
	/* What loading the state touches there is asked for before it runs. */
	return urgent_start(&s->urgent, &s->vm->mem, &s->unsent, &s->pair, s->serve_fd, e);
}

void source_end_serving(struct source *s)
{
	push_stop(&s->push);
	urgent_stop(&s->urgent);
	stream_done(&s->pair);
}

/* --- serve ------------------------------------------------------------------------------------ */

static void push(struct source *s)
{
	struct err e = {0};

	s->push.background = !s->conf.no_background;
	s->push.rate = s->conf.bandwidth;
	if (push_start(&s->push, &s->passes.out, &s->urgent, s->serve_fd, &e))
		source_lose(s, e.msg);
}

void source_serve(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	s->at.runs = loop_now_ns();
	s->tries = 0;
	s->lacked = UINT64_MAX;
	source_log_downtime(s);
	dirty_stop(&s->dirty);
	s->ft->life = FT_ELSEWHERE;
	push(s);
	step_reached(STEP_MIG_SERVES);
}

void source_urgent_lost(void *arg)
{
	struct source *s = arg;
	char why[sizeof(s->why)];

	memcpy(why, s->why, sizeof(why));
	source_lose(s, why);
}

void source_stays(void *arg)
{
	struct source *s = arg;

	log_warn("the VM runs at %s and needs what is here: this process ends when all of it is "
		 "there",
		 s->conf.uri);
}

/* --- the link is lost ------------------------------------------------------------------------- */

/* PAUSED: nobody can have it run here. */
static void note(struct source *s)
{
	char text[480];

	snprintf(
		text, sizeof(text),
		"postcopy: link lost: %.160s; the VM runs at the destination and lacks %llu pages; "
		"connecting again. Over another address: ftvmm migrate NAME --recover URI. If "
		"nobody needs them any more, this process ends with --cancel --force",
		s->why, (unsigned long long)s->unsent.left);
	if (strcmp(s->ft->note, text))
		ft_set(s->ft, FT_HERE, FT_NONE, text);
}

void source_cut_again(void *arg)
{
	struct source *s = arg;

	source_close_link(s);
	source_back_off(s);
	note(s);
}

void source_cut(void *arg)
{
	source_cut_again(arg);
	log_error("%s", ((struct source *)arg)->ft->note);
	step_reached(STEP_MIG_CUT);
}

/* The VM ran there, so it never does here, whatever has become of it. */
void source_let_go(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	source_close_link(s);
	log_warn("migrate: --force: this process ends, and %llu pages with it that the "
		 "destination may lack",
		 (unsigned long long)s->unsent.left);
	ft_set(s->ft, FT_OVER, FT_MIGRATED, s->why);
	source_set_result(s, SOURCE_CANCELLED);
	s->ft->on_exit(s->ft->arg, 3);
}

int source_take_have(struct source *s, const struct frame *f)
{
	uint64_t words = (s->vm->mem.npages + 63) / 64;
	struct wire_have w;

	if (f->length < sizeof(w) || !s->passes.lazy ||
	    (s->fsm.state != SRC_ASKED && s->fsm.state != SRC_CUT_ASKED))
		return -EBADMSG;
	memcpy(&w, f->data, sizeof(w));
	if (f->length != sizeof(w) + w.nwords * 8ull || w.word != s->have_word || !w.nwords ||
	    w.nwords > words - w.word || w.last != (w.word + w.nwords == words))
		return -EBADMSG;
	for (uint32_t i = 0; i < w.nwords; i++) {
		uint64_t had;

		memcpy(&had, f->data + sizeof(w) + i * 8ull, sizeof(had));
		unsent_peer_has(&s->unsent, w.word + i, had);
	}
	s->have_word += w.nwords;
	/* Each part is news, and there are so many at most: a slow link may take its time. */
	source_timer(s, ANSWER_NS);
	return (int)w.last;
}

/* Only who runs the VM says what it has. */
void source_known(void *arg)
{
	struct source *s = arg;

	s->at.runs = loop_now_ns();
	dirty_stop(&s->dirty);
	s->result = SOURCE_ACTIVE;
	note(s);
}

/* A link that breaks before anything has come over it is no better than none. */
void source_mend(void *arg)
{
	struct source *s = arg;

	if (s->unsent.left < s->lacked)
		s->tries = 0;
	s->lacked = s->unsent.left;
	source_timer(s, ANSWER_NS);
	source_dial(s);
	step_reached(STEP_MIG_MENDS);
}

void source_serve_again(void *arg)
{
	struct source *s = arg;
	struct err e = {0};

	loop_timer_del(s->ft->loop, &s->timer_op);
	s->why[0] = 0;
	log_info("postcopy: the link is back; the destination lacks %llu pages",
		 (unsigned long long)s->unsent.left);
	ft_set(s->ft, FT_ELSEWHERE, FT_MIGRATING, NULL);
	if (urgent_start(&s->urgent, &s->vm->mem, &s->unsent, &s->pair, s->serve_fd, &e))
		source_lose(s, e.msg);
	else
		push(s);
	step_reached(STEP_MIG_AGAIN);
}
