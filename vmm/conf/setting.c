#include "vmm/conf/setting.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "vmm/conf/config.h"
#include "vmm/conf/option.h"
#include "vmm/wire/chan.h"

static const char *const keys[] = {[SETTING_FT] = "ft",
				   [SETTING_EPOCH] = "epoch_ns",
				   [SETTING_OUTPUT_LIMIT] = "output_limit_bytes",
				   [SETTING_PEER] = "peer",
				   [SETTING_BALLOON] = "balloon_bytes"};

/* Those of --ft, and what only a VM that runs can be. */
static const struct option_choice modes[] = {
	{"mc", FT_MODE_MC},	{"kemari", FT_MODE_KEMARI}, {"auto", FT_MODE_AUTO},
	{"colo", FT_MODE_COLO}, {"off", FT_MODE_OFF},	    {0},
};

/* As an option of `ftvmm run`, for a struct setting_value; the balloon is only set here. */
static struct option row(enum setting s)
{
	static const char *const names[] = {[SETTING_FT] = "ft",
					    [SETTING_EPOCH] = "epoch",
					    [SETTING_OUTPUT_LIMIT] = "output-limit",
					    [SETTING_PEER] = "peer"};
	struct option o = {"balloon", .type = OPT_SIZE, .max = INT64_MAX, .metavar = "SIZE"};

	if (s != SETTING_BALLOON)
		o = *option_find(config_options(), names[s], strlen(names[s]));
	if (s == SETTING_FT)
		o.choices = modes;
	o.offset = s == SETTING_PEER ? offsetof(struct setting_value, peers)
				     : offsetof(struct setting_value, number);
	o.count = offsetof(struct setting_value, npeers);
	return o;
}

static void fill_table(struct option rows[SETTING_MAX])
{
	for (unsigned i = 0; i < SETTING_MAX; i++)
		rows[i] = row((enum setting)i);
}

static json_t *addresses(const struct setting_value *v)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < v->npeers; i++)
		json_array_append_new(list, json_string(v->peers[i]));
	return list;
}

static json_t *to_json(const struct option *o, const struct setting_value *v, const char *text)
{
	if (o->type == OPT_TEXTS)
		return addresses(v);
	return o->type == OPT_CHOICE ? json_string(text) : json_integer((json_int_t)v->number);
}

int setting_add(json_t *request, const char *pair, struct err *e)
{
	struct option rows[SETTING_MAX];
	const struct option_table t = {rows, SETTING_MAX};
	size_t len = strcspn(pair, "=");
	const struct option *o;
	struct setting_value value = {0};
	int r;

	fill_table(rows);
	o = option_find(&t, pair, len);
	if (!o)
		return err_set(e, -EINVAL, "set: unknown key '%.40s'; the nearest is '%s'", pair,
			       option_nearest(&t, pair));
	if (!pair[len])
		return err_set(e, -EINVAL, "set: %s needs a value: %s=%s", o->name, o->name,
			       o->metavar);
	r = option_set_text(o, &value, pair + len + 1, o->name, e);
	/* Whoever serves it must not wait for a name server. */
	for (unsigned i = 0; i < value.npeers && !r; i++)
		r = chan_resolve(value.peers[i], sizeof(value.peers[i]), e);
	if (!r)
		json_object_set_new(request, keys[o - rows], to_json(o, &value, pair + len + 1));
	return r;
}

static int out_of_bounds(const struct option *o, struct err *e)
{
	void (*format)(uint64_t, char *, size_t) =
		o->type == OPT_TIME ? option_format_time : option_format_size;
	char lo[32], hi[32];

	format(o->min, lo, sizeof(lo));
	format(o->max, hi, sizeof(hi));
	return err_set(e, -EINVAL, "set: %s must be a whole number of %s, %s to %s", o->name,
		       o->type == OPT_TIME ? "nanoseconds" : "bytes", lo, hi);
}

static int get_mode(const struct option *o, json_t *v, struct setting_value *ret, struct err *e)
{
	struct option of_int = *o;
	int mode = 0, r;

	of_int.offset = 0;
	r = option_set_json(&of_int, &mode, v, "set: ft", e);
	ret->number = (uint64_t)mode;
	return r;
}

int setting_get(enum setting s, json_t *request, struct setting_value *ret, struct err *e)
{
	json_t *v = json_object_get(request, keys[s]);
	struct option o = row(s);
	json_int_t n = json_integer_value(v);

	*ret = (struct setting_value){0};
	if (!v)
		return -ENOENT;
	if (o.type == OPT_CHOICE)
		return get_mode(&o, v, ret, e);
	if (o.type == OPT_TEXTS)
		return option_set_json(&o, ret, v, "set: peer", e);
	if (!json_is_integer(v) || n < 0 || (uint64_t)n < o.min || (uint64_t)n > o.max)
		return out_of_bounds(&o, e);
	ret->number = (uint64_t)n;
	return 0;
}

void setting_names(char *ret, size_t cap)
{
	size_t n = 0;

	for (unsigned i = 0; i < SETTING_MAX && n < cap; i++)
		n += (size_t)snprintf(ret + n, cap - n, "%s%s", i ? ", " : "",
				      row((enum setting)i).name);
}
