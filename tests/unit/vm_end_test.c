/* What the guest's end and its panics have called, and who hears of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/vm/vm.h"
#include "vmm/vm/vm_internal.h"

static struct loop loop;
static struct vm vm;
static unsigned panics;

static void ended(void *arg)
{
	loop_stop(&loop);
}

static void panicked(void *arg)
{
	panics++;
}

static void look(void)
{
	vm_tell_end(&vm);
	assert_int_equal(loop_run(&loop), 0);
}

/* Of a twin nobody hears: its takeover tells it, once, unless a checkpoint was loaded before. */
static void a_panic_waits_for_whoever_hears_it(void **state)
{
	struct err e = {0};

	assert_int_equal(loop_init(&loop, &e), 0);
	vm.loop = &loop;
	vm.ending.end = VM_END_OFF;
	assert_int_equal(vm_watch_init(&vm, &e), 0);
	vm.watch.on_end = ended;
	vm_guest_panicked(&vm, 1);
	look();
	vm.watch.on_panic = panicked;
	assert_int_equal(panics, 0);
	look();
	assert_int_equal(panics, 1);
	look();
	assert_int_equal(panics, 1);
	vm_watch_done(&vm);
	loop_done(&loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_panic_waits_for_whoever_hears_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
