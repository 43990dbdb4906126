/*
 * Two machines' outputs compared: TCP streams that both have cut in their own way, ours first or
 * theirs, and datagrams, beside memcpy and memcmp of as many bytes. Nothing differs.
 */
#include "tests/bench/native.h"

#include <malloc.h>

#include "net/compare.h"
#include "tests/unit/libcompare.h"

#define CONNS  16u
#define STREAM (8u << 20) /* of all connections, in one measurement */
#define BATCH  (1u << 20) /* bytes by which one side is ahead of the other */

struct frame {
	uint32_t len;
	uint8_t *data;
};

struct side {
	struct frame *frames;
	unsigned n;
	uint8_t *mem;
};

struct run {
	struct side side[2];
	uint8_t *bytes;
	uint32_t size[2]; /* of a packet's payload */
	bool udp;
};

static uint64_t released;

static void on_release(void *arg, void *cookie)
{
	released++;
}

static void on_differ(void *arg, const struct compare_verdict *v)
{
	char text[300];

	compare_describe(v, text, sizeof(text));
	fprintf(stderr, "%s\n", text);
	exit(2);
}

static const struct compare_ops ops = {.release = on_release, .differ = on_differ};

/* All connections in turns, each of the same bytes. */
static void make_side(struct run *r, unsigned which)
{
	struct side *s = &r->side[which];
	uint32_t each = STREAM / CONNS, size = r->size[which], most = (each / size + 1) * CONNS;
	uint8_t *p;

	s->frames = must(calloc(most, sizeof(*s->frames)));
	s->mem = p = must(malloc(STREAM + (size_t)most * LIBCOMPARE_ROOM));
	s->n = 0;
	for (uint32_t at = 0; at < each; at += size)
		for (uint16_t c = 0; c < CONNS; c++) {
			struct libcompare_segment t = {.version = 4,
						       .port = 1000 + c,
						       .flags = PACKET_ACK,
						       .seq = at,
						       .data = r->bytes + at,
						       .noise = (uint32_t)next_random()};

			t.len = each - at < size ? each - at : size;
			s->frames[s->n].data = p;
			s->frames[s->n].len =
				r->udp ? libcompare_udp(p, &t) : libcompare_tcp(p, &t);
			p += s->frames[s->n++].len;
		}
}

/* What is at the clients, they acknowledge, so that it need not be remembered. */
static void acknowledge(struct compare *c, uint32_t at)
{
	uint8_t buf[LIBCOMPARE_ROOM];

	for (uint16_t n = 0; n < CONNS; n++) {
		struct libcompare_segment t = {.version = 4,
					       .port = 1000 + n,
					       .from_client = true,
					       .flags = PACKET_ACK,
					       .ack = at};

		compare_input(c, 0, buf, libcompare_tcp(buf, &t));
	}
}

/* GB/s */
static double compare_all(const struct run *r, bool ours_first)
{
	static const struct compare_limits limits = {
		.bytes = 256u << 20,
		.flow_bytes = 4u << 20,
		.history_bytes = 256u << 10,
		.flows = 64,
		.overdue_ns = UINT32_MAX,
		.idle_ns = UINT32_MAX,
	};
	const struct side *ours = &r->side[0], *theirs = &r->side[1];
	uint32_t most = r->size[0] > r->size[1] ? r->size[0] : r->size[1];
	unsigned first = 0, second = 0, done = 0;
	struct compare c;
	uint64_t start;

	check("comparison", compare_init(&c, &limits, &ops, NULL));
	compare_add_sink(&c, 0, COMPARE_FRAMES);
	released = 0;
	start = loop_now_ns();
	while (done < STREAM) {
		unsigned upto[2];

		done = done + BATCH < STREAM ? done + BATCH : STREAM;
		upto[0] = (unsigned)((uint64_t)ours->n * done / STREAM);
		upto[1] = (unsigned)((uint64_t)theirs->n * done / STREAM);
		for (int turn = 0; turn < 2; turn++) {
			bool is_ours = ours_first == !turn;

			for (; is_ours && first < upto[0]; first++)
				compare_ours(&c, 0, ours->frames[first].data,
					     ours->frames[first].len, NULL, start);
			for (; !is_ours && second < upto[1]; second++)
				compare_theirs(&c, 0, theirs->frames[second].data,
					       theirs->frames[second].len, start);
		}
		if (done / CONNS > most)
			acknowledge(&c, done / CONNS - most);
	}
	start = loop_now_ns() - start;
	if (released != ours->n || compare_due(&c) != UINT64_MAX)
		die("not all of it was released", EBADMSG);
	compare_done(&c);
	return (double)STREAM / (double)(start ? start : 1);
}

/* Each byte copied once and compared once, in as large pieces. */
static double floor_of(const struct run *r, uint8_t *to)
{
	const struct side *ours = &r->side[0];
	uint64_t start = loop_now_ns();
	uint32_t at = 0;

	for (unsigned i = 0; i < ours->n; i++) {
		const struct frame *f = &ours->frames[i];

		at = at + f->len > BATCH ? 0 : at;
		memcpy(to + at, f->data, f->len);
		__asm__ volatile("" : : "r"(to) : "memory");
		if (memcmp(to + at, f->data, f->len))
			die("a copy is not what it was", EBADMSG);
		at += f->len;
	}
	start = loop_now_ns() - start;
	return (double)STREAM / (double)(start ? start : 1);
}

int main(void)
{
	static const struct {
		const char *name;
		uint32_t ours, theirs;
		bool udp, theirs_first;
	} runs[] = {
		{"compare: TCP, 64 KiB", 65000, 61000, false, false},
		{"compare: TCP, 64 KiB, the secondary ahead", 65000, 61000, false, true},
		{"compare: TCP, 1448 bytes", 1448, 1400, false, false},
		{"compare: TCP, 1448 bytes to 64 KiB", 1448, 65000, false, false},
		{"compare: UDP, 1400 bytes", 1400, 1400, true, true},
	};
	uint8_t *to = must(malloc(BATCH));

	/* Of a comparison that goes on: its memory is there, once it was used. */
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		struct figure f = {.name = runs[i].name, .unit = "GB/s"};
		struct run r = {.size = {runs[i].ours, runs[i].theirs}, .udp = runs[i].udp};

		r.bytes = must(malloc(STREAM / CONNS));
		fill_random(r.bytes, STREAM / CONNS);
		make_side(&r, 0);
		make_side(&r, 1);
		compare_all(&r, !runs[i].theirs_first);
		for (unsigned n = 0; n < ROUNDS; n++) {
			double floor = floor_of(&r, to);

			figure_add(&f, floor, compare_all(&r, !runs[i].theirs_first));
		}
		figure_print(&f);
		for (int s = 0; s < 2; s++) {
			free(r.side[s].frames);
			free(r.side[s].mem);
		}
		free(r.bytes);
	}
	free(to);
	return 0;
}
