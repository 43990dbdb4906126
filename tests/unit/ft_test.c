/* What both roles share: the word for how it is, why the VM stands, samples. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ft/common/ft.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/liblog.h"

/* What was told, as "from>to ". */
static void on_state(void *arg, const char *from, const char *to)
{
	char *told = arg;
	size_t n = strlen(told);

	snprintf(told + n, 128 - n, "%s>%s ", from, to);
}

static const enum ft_cover covers[] = {FT_NONE,	    FT_UNPROTECTED, FT_SYNCING, FT_PROTECTED,
				       FT_DEGRADED, FT_TAKING_OVER, FT_FENCED};

/* --- the word --------------------------------------------------------------------------------- */

static void words(void **state)
{
	static const char *const list[3][7] = {
		[FT_ELSEWHERE] = {"STARTING", "UNPROTECTED", "SYNCING", "PROTECTED", "DEGRADED",
				  "TAKING-OVER", "FENCED"},
		[FT_HERE] = {"RUNNING", "UNPROTECTED", "SYNCING", "PROTECTED", "DEGRADED",
			     "TAKING-OVER", "FENCED"},
		[FT_OVER] = {"STOPPED", "STOPPED", "STOPPED", "STOPPED", "STOPPED", "STOPPED",
			     "FENCED"},
	};

	for (unsigned life = 0; life < 3; life++)
		for (unsigned c = 0; c < 7; c++) {
			struct ft ft = {.life = life, .cover = covers[c]};

			assert_string_equal(ft_word(&ft), list[life][c]);
			ft.stands = FT_STAND_CLAIM | FT_STAND_END | FT_STAND_SEAL;
			assert_string_equal(ft_word(&ft), list[life][c]);
			ft.stands = FT_STAND_USER;
			assert_string_equal(ft_word(&ft),
					    life == FT_HERE ? "PAUSED" : list[life][c]);
			ft.stands = FT_STAND_SILENT;
			assert_string_equal(ft_word(&ft),
					    life == FT_HERE ? "PAUSED" : list[life][c]);
		}
}

/* Whoever waits for a word, or counts VMs by it, knows all of them, and no other. */
static void all_words_are_listed(void **state)
{
	unsigned seen = 0, n = 0;

	while (ft_word_at(n))
		n++;
	for (unsigned life = 0; life < 3; life++)
		for (unsigned cover = 0; cover <= FT_MIGRATED; cover++)
			for (unsigned stands = 0; stands <= 2 * FT_STAND_MOVE - 1; stands++) {
				struct ft ft = {.life = life, .cover = cover, .stands = stands};
				unsigned i = 0;

				while (i < n && strcmp(ft_word_at(i), ft_word(&ft)))
					i++;
				assert_true(i < n);
				seen |= 1u << i;
			}
	assert_int_equal(seen, (1u << n) - 1);
}

static void names_of_covers(void **state)
{
	assert_string_equal(ft_cover_name(FT_NONE), "NONE");
	assert_string_equal(ft_cover_name(FT_UNPROTECTED), "UNPROTECTED");
	assert_string_equal(ft_cover_name(FT_FENCED), "FENCED");
}

static void a_change_is_told_and_logged(void **state)
{
	char told[128] = "";
	struct ft ft = {.on_state = on_state, .arg = told, .generation = 7};

	logged_reset();
	ft_set(&ft, FT_HERE, FT_UNPROTECTED, "no peer yet");
	assert_string_equal(told, "STARTING>UNPROTECTED ");
	assert_string_equal(ft.note, "no peer yet");
	assert_int_equal(logged("info: STARTING -> UNPROTECTED: no peer yet (generation 7)"), 1);
	ft_set(&ft, FT_HERE, FT_SYNCING, NULL);
	assert_string_equal(ft.note, "");
	assert_int_equal(logged("info: UNPROTECTED -> SYNCING (generation 7)"), 1);
	/* The same word again is no change, but may have another reason. */
	ft_set(&ft, FT_HERE, FT_SYNCING, "still");
	assert_string_equal(ft.note, "still");
	assert_string_equal(told, "STARTING>UNPROTECTED UNPROTECTED>SYNCING ");
	assert_int_equal(logged("info: "), 2);
	assert_int_equal(ft.life, FT_HERE);
	assert_int_equal(ft.cover, FT_SYNCING);
}

static void nobody_listens(void **state)
{
	struct ft ft = {0};

	ft_set(&ft, FT_HERE, FT_PROTECTED, NULL);
	assert_string_equal(ft_word(&ft), "PROTECTED");
}

/* --- why the VM stands ------------------------------------------------------------------------ */

static void reasons(void **state)
{
	char told[128] = "";
	struct ft ft = {.life = FT_HERE, .cover = FT_PROTECTED, .on_state = on_state, .arg = told};
	struct vm vm = {.running = true};
	struct err e = {0};

	fake_vm_reset();
	ft_set(&ft, FT_HERE, FT_PROTECTED, "as before");
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_CLAIM, NULL, &e), 0);
	assert_false(vm.running);
	assert_string_equal(ft.note, "as before");
	assert_string_equal(told, "");
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_SILENT, "no answer", &e), 0);
	assert_string_equal(ft.note, "no answer");
	assert_string_equal(told, "PROTECTED>PAUSED ");
	assert_int_equal(ft.stands, FT_STAND_CLAIM | FT_STAND_SILENT);
	ft_go(&ft, &vm, FT_STAND_SILENT);
	assert_false(vm.running); /* there is another reason */
	assert_string_equal(told, "PROTECTED>PAUSED PAUSED>PROTECTED ");
	ft_go(&ft, &vm, FT_STAND_CLAIM);
	assert_true(vm.running);
	assert_int_equal(ft.stands, 0);
	ft_go(&ft, &vm, FT_STAND_CLAIM | FT_STAND_USER); /* it runs already */
	assert_true(vm.running);
}

static void a_vm_that_does_not_stop(void **state)
{
	struct ft ft = {.life = FT_HERE, .cover = FT_PROTECTED, .note = "as before"};
	struct vm vm = {.running = true};
	struct err e = {0};

	fake_vm_reset();
	fake_vm.pause_error = -ETIMEDOUT;
	/* A user is told, and that is all. */
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_USER, "by the user", &e), -ETIMEDOUT);
	assert_true(e.msg[0]);
	assert_int_equal(ft.stands, 0);
	assert_string_equal(ft.note, "as before");
	/* It runs: so that is what is shown, whatever the reason was. */
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_CLAIM, "lost", &e), -ETIMEDOUT);
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_SILENT, "no answer", &e), -ETIMEDOUT);
	assert_int_equal(ft.stands, 0);
	assert_string_equal(ft_word(&ft), "PROTECTED");
	assert_string_equal(ft.note, "no answer");
	assert_true(vm.running);
	/* The next time it does. */
	fake_vm_reset();
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_SILENT, NULL, &e), 0);
	assert_int_equal(ft.stands, FT_STAND_SILENT);
	ft_go(&ft, &vm, FT_STAND_SILENT);
	assert_true(vm.running);
	/* Out of its CPUs, but its chips cannot be read: it stands, and can be let go. */
	vm.running = false;
	fake_vm.pause_error = -EIO;
	assert_int_equal(ft_stand(&ft, &vm, FT_STAND_USER, "by the user", &e), -EIO);
	assert_int_equal(ft.stands, FT_STAND_USER);
	assert_string_equal(ft_word(&ft), "PAUSED");
	ft_go(&ft, &vm, FT_STAND_USER);
	assert_true(vm.running);
	fake_vm_reset();
}

/* --- samples ---------------------------------------------------------------------------------- */

static void epochs_are_counted(void **state)
{
	static const unsigned classes[FT_PAUSES] = {101, 150, 250, 500, 1500, 1597};
	static struct ft ft;
	struct ft_stats *s = &ft.stats;

	for (unsigned i = 0; i < FT_SAMPLES + 2; i++) {
		s->ack_us[i % FT_SAMPLES] = 77; /* of an old one */
		ft_note_epoch(&ft, i % 2 ? FT_SEAL_NET : FT_SEAL_LAST, i * 1000 + 999, i);
		assert_int_equal(s->ack_us[i % FT_SAMPLES], 0);
	}
	assert_int_equal(s->epochs, FT_SAMPLES + 2);
	assert_int_equal(s->seals[FT_SEAL_NET], FT_SAMPLES / 2 + 1);
	assert_int_equal(s->seals[FT_SEAL_LAST], FT_SAMPLES / 2 + 1);
	assert_int_equal(s->nsamples, FT_SAMPLES + 2);
	assert_int_equal(s->pages, (FT_SAMPLES + 1ull) * (FT_SAMPLES + 2) / 2);
	assert_int_equal(s->last_pages, FT_SAMPLES + 1);
	assert_int_equal(s->pause_us[0], FT_SAMPLES);
	assert_int_equal(s->pause_us[1], FT_SAMPLES + 1);
	assert_int_equal(s->pause_us[2], 2);
	assert_int_equal(s->npages[1], FT_SAMPLES + 1);
	assert_int_equal(s->npages[2], 2);
	for (unsigned i = 0; i < FT_PAUSES; i++)
		assert_int_equal(s->pauses[i], classes[i]);
	ft_note_epoch(&ft, FT_SEAL_FIRST, 1000001000, 0);
	assert_int_equal(s->pauses[FT_PAUSES - 2], 0);
	assert_int_equal(s->pauses[FT_PAUSES - 1], 1);
}

static void each_reason_has_a_name(void **state)
{
	for (enum ft_seal a = FT_SEAL_NONE + 1; a < FT_SEALS; a++) {
		assert_non_null(ft_seal_name(a));
		for (enum ft_seal b = FT_SEAL_NONE + 1; b < a; b++)
			assert_string_not_equal(ft_seal_name(a), ft_seal_name(b));
	}
}

static void percentiles(void **state)
{
	static uint32_t v[FT_SAMPLES + 1];
	uint32_t few[5] = {50, 10, 40, 20, 30};

	assert_int_equal(ft_percentile(few, 0, 50), 0);
	assert_int_equal(ft_percentile(few, 1, 99), 50);
	assert_int_equal(ft_percentile(few, 5, 0), 10);
	assert_int_equal(ft_percentile(few, 5, 50), 30);
	assert_int_equal(ft_percentile(few, 5, 74), 30);
	assert_int_equal(ft_percentile(few, 5, 75), 40);
	assert_int_equal(ft_percentile(few, 5, 100), 50);
	assert_int_equal(few[0], 50); /* as it was */
	/* More were taken than are held. */
	for (unsigned i = 0; i < FT_SAMPLES; i++)
		v[i] = FT_SAMPLES - i;
	v[FT_SAMPLES] = 1000000;
	assert_int_equal(ft_percentile(v, FT_SAMPLES + 1, 100), FT_SAMPLES);
	assert_int_equal(ft_percentile(v, FT_SAMPLES - 1, 0), 2);
	assert_int_equal(ft_percentile(v, FT_SAMPLES, 0), 1);
	/* Not as signed numbers. */
	few[0] = UINT32_MAX;
	assert_int_equal(ft_percentile(few, 5, 100), UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words),
		cmocka_unit_test(all_words_are_listed),
		cmocka_unit_test(names_of_covers),
		cmocka_unit_test(a_change_is_told_and_logged),
		cmocka_unit_test(nobody_listens),
		cmocka_unit_test(reasons),
		cmocka_unit_test(a_vm_that_does_not_stop),
		cmocka_unit_test(epochs_are_counted),
		cmocka_unit_test(each_reason_has_a_name),
		cmocka_unit_test(percentiles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
