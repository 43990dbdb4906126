#include "vmm/cli/cmd_dump.h"

#include <stdio.h>
#include <string.h>

#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/dump_get.h"
#include "vmm/cli/dump_json.h"

static void item_name(const struct state_item *it, char *ret, size_t cap)
{
	snprintf(ret, cap, "%s[%u]", it->desc->name, it->instance);
}

/* --- one -------------------------------------------------------------------------------------- */

static void print_line(void *arg, const char *line)
{
	puts(line);
}

static void print_text(const struct vm_view *v)
{
	for (unsigned i = 0; i < v->nitems; i++) {
		const char *id = vm_view_id(v, &v->items[i]);

		if (id)
			printf("# %s[%u]: %s\n", v->items[i].desc->name, v->items[i].instance, id);
		state_dump(&v->items[i], print_line, NULL);
	}
}

static int dump_one(const char *word, bool json)
{
	struct vm_view v;
	struct err e = {0};
	int r = dump_get(&v, word, &e);

	if (!r && json) {
		json_t *o = dump_json(&v);

		cmd_print_json(o);
		json_decref(o);
	} else if (!r) {
		print_text(&v);
	}
	vm_view_done(&v);
	return r ? cmd_fail(&e) : EXIT_DONE;
}

/* --- two -------------------------------------------------------------------------------------- */

struct difference {
	const struct state_item *item;
	json_t *list; /* NULL: printed as text */
};

static void add_line(json_t *list, const char *device, const char *const *words)
{
	json_t *a = strcmp(words[1], "-") ? json_string(words[1]) : json_null();
	json_t *b = strcmp(words[2], "-") ? json_string(words[2]) : json_null();

	json_array_append_new(list, json_pack("{ss, ss, so, so}", "device", device, "field",
					      words[0], "a", a, "b", b));
}

static void differs(void *arg, const char *path, const char *a, const char *b)
{
	const struct difference *d = arg;
	char device[64];

	item_name(d->item, device, sizeof(device));
	if (d->list)
		add_line(d->list, device, (const char *const[]){path, a, b});
	else
		printf("%s %s: %s %s\n", device, path, a, b);
}

/* Its pod, or NULL: that VM has no such device. */
static const void *pod_of(const struct vm_view *v, const struct state_item *it)
{
	for (unsigned i = 0; i < v->nitems; i++)
		if (v->items[i].desc == it->desc && v->items[i].instance == it->instance)
			return v->items[i].pod;
	return NULL;
}

static unsigned compare(const struct vm_view *a, const struct vm_view *b, json_t *list)
{
	struct difference d = {.list = list};
	unsigned n = 0;

	for (unsigned i = 0; i < a->nitems; i++) {
		d.item = &a->items[i];
		n += state_compare(d.item->desc, d.item->pod, pod_of(b, d.item), differs, &d);
	}
	for (unsigned i = 0; i < b->nitems; i++) {
		d.item = &b->items[i];
		if (!pod_of(a, d.item))
			n += state_compare(d.item->desc, NULL, d.item->pod, differs, &d);
	}
	return n;
}

static int dump_two(const char *const *words, bool json)
{
	struct vm_view a, b = {0};
	struct err e = {0};
	int r = dump_get(&a, words[0], &e);
	unsigned n = 0;

	if (!r)
		r = dump_get(&b, words[1], &e);
	if (!r && json) {
		json_t *list = json_array();

		n = compare(&a, &b, list);
		list = json_pack("{so}", "differences", list);
		cmd_print_json(list);
		json_decref(list);
	} else if (!r) {
		n = compare(&a, &b, NULL);
	}
	vm_view_done(&a);
	vm_view_done(&b);
	return r ? cmd_fail(&e) : n ? EXIT_DIFFERS : EXIT_DONE;
}

/* --- the words -------------------------------------------------------------------------------- */

static int misused(const char *why, const char *word)
{
	fprintf(stderr, "ftvmm: dump: %s%.40s; `ftvmm dump --help` shows its usage\n", why, word);
	return EXIT_USAGE;
}

int cmd_dump(const struct command_words *w)
{
	const char *of[2];
	bool diff = false;
	int n = 0;

	/* The first word may be the option: all of them are looked at. */
	for (int i = -1; i < w->nargs; i++) {
		const char *word = i < 0 ? w->name : w->args[i];

		if (!strcmp(word, "--diff"))
			diff = true;
		else if (word[0] == '-')
			return misused("unknown option ", word);
		else if (n == 2)
			return misused("too many arguments", "");
		else
			of[n++] = word;
	}
	if (n != (diff ? 2 : 1))
		return misused(diff ? "--diff takes two of them, each NAME or FILE"
				    : "of one only, two are for --diff",
			       "");
	return diff ? dump_two(of, w->json) : dump_one(of[0], w->json);
}
