#include "tests/unit/libtwin.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libtime.h"

char twin_text[64];

void prints(struct rig *r, unsigned n)
{
	struct iovec iov = {twin_text, n};

	assert_int_equal(obuf_put(&r->vm.obuf, fake_vm.sink, &iov, 1), 0);
}

void twin_prints(struct rig *r, uint64_t epoch, unsigned n)
{
	struct {
		struct wire_output w;
		char twin_text[sizeof(twin_text)];
	} out = {.w.sink = (uint32_t)fake_vm.sink};

	memcpy(out.twin_text, twin_text, n);
	peer_mirrors(r, FRAME_OUTPUT, epoch, &out, sizeof(out.w) + n);
}

void settle(struct rig *r)
{
	for (unsigned i = 0; i < 20; i++) {
		loop_run_once(&r->loop, 1000000);
		time_due();
	}
}

void meet(struct rig *r)
{
	r->cfg.ft = FT_MODE_COLO;
	rig_reach(r, PRI_STEADY);
	loop_until(&r->loop, lockstep_is_up(&r->pri.mirroring.lockstep));
	peer_takes_mirror(r, 0);
}

uint64_t seal(struct rig *r)
{
	rig_cause(r, PRI_EV_TIMER);
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	assert_int_equal(r->end.runs, 1);
	return r->ended;
}

uint64_t next(struct rig *r)
{
	uint64_t n = seal(r);

	rig_cause(r, PRI_EV_ACK);
	peer_mirrors(r, FRAME_LOADED, n, NULL, 0);
	settle(r);
	assert_int_equal(r->pri.mirroring.lockstep.state, LOCKSTEP_RUNS);
	return n + 1;
}

uint64_t twin_run(struct rig *r)
{
	meet(r);
	return next(r);
}
