/* --verify at a secondary: what differs from the primary is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/libstage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static struct srig rig;

static int setup(void **state)
{
	rig_start(&rig);
	return 0;
}

static int teardown(void **state)
{
	rig_end(&rig);
	return 0;
}

static void unequal(const char *why)
{
	struct err e = {0};

	assert_int_equal(stage_verify(&rig.stage, &e), -EBADMSG);
	if (!strstr(e.msg, why))
		fail_msg("not '%s': %s", why, e.msg);
}

/* An epoch as a primary with --verify sends it: hashes in its end, places behind that. */
static void prepare(struct parts *ps, const struct mem_places *places)
{
	static const struct golden g = {.epoch = 8};
	uint8_t data[sizeof(struct wire_end) + sizeof(*places)];
	unsigned end;

	rig_first_epoch(&rig, 7);
	golden_epoch(&rig, &g, ps);
	end = parts_find(ps, FRAME_EPOCH_END);
	memcpy(data, ps->p[end].data, sizeof(struct wire_end));
	memcpy(data + sizeof(struct wire_end), places, sizeof(*places));
	free(ps->p[end].data);
	ps->p[end] = part_make(FRAME_EPOCH_END, g.epoch, data, sizeof(data));
}

static void verify_names_what_differs(void **state)
{
	static const struct mem_places sent = {.sum = {1, 2, 3, [MEM_PLACES - 1] = 4}};
	struct stage *s = &rig.stage;
	struct vcpu_state *vcpu = &rig.vm.vcpus[0].state;
	size_t cap = vm_state_bound(&rig.vm);
	uint8_t *buf = malloc(cap);
	struct parts ps;
	struct err e;
	int64_t len;

	prepare(&ps, &sent);
	assert_int_equal(rig_feed(&rig, &ps, NULL, &e), 1);
	assert_true(s->has_places);
	assert_memory_equal(&s->places, &sent, sizeof(sent));
	stage_commit(s);
	unequal("memory differs from the primary's after epoch 8: pages between 0 and ");
	s->end.ram_hash = mem_hash_places(&rig.vm.mem, &s->places);
	unequal("state differs from the primary's after epoch 8: as it is encoded here");
	len = state_encode_all(rig.vm.state.items, rig.vm.state.nitems, buf, cap);
	assert_true(len > 0);
	s->end.state_hash = XXH3_64bits(buf, (size_t)len);
	assert_int_equal(stage_verify(s, NULL), 0);
	vcpu->sregs.tr.limit ^= 0x10;
	unequal("after epoch 8: vcpu[0].sregs.tr.limit is 0x");
	vcpu->regs.rip ^= 1; /* the first one counts */
	unequal("after epoch 8: vcpu[0].regs.rip is 0x");
	vcpu->regs.rip ^= 1;
	vcpu->sregs.tr.limit ^= 0x10;
	*mem_page(&rig.vm.mem, 5) ^= 1;
	unequal("after epoch 8: the page at 0x5000");
	*mem_page(&rig.vm.mem, 6) ^= 1;
	unequal("after epoch 8: pages between 0x4000 and 0x7fff");
	s->has_places = false; /* an end without them */
	unequal("memory differs from the primary's after epoch 8");
	*mem_page(&rig.vm.mem, 5) ^= 1;
	*mem_page(&rig.vm.mem, 6) ^= 1;
	assert_int_equal(stage_verify(s, NULL), 0);
	rig_settle(&rig);
	parts_free(&ps);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(verify_names_what_differs, setup, teardown),
	};

	return cmocka_run_group_tests_name("stage_verify", tests, NULL, NULL);
}
