#include "vmm/conf/option.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)

struct unit {
	const char *name;
	uint64_t factor;
};

/* Largest first: option_format_*() takes the first that divides the value. */
static const struct unit size_units[] = {
	{"T", 1ull << 40}, {"G", 1ull << 30}, {"M", 1ull << 20}, {"K", 1ull << 10}, {"", 1},
};
static const struct unit time_units[] = {
	{"s", 1000000000},
	{"ms", 1000000},
	{"us", 1000},
	{"ns", 1},
};

static int parse_unit(const char *text, const struct unit *units, unsigned n, uint64_t bare,
		      uint64_t *ret)
{
	uint64_t v = 0, factor = 0;
	const char *p = text;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10u, &v) ||
		    __builtin_add_overflow(v, (unsigned)(*p - '0'), &v))
			return -ERANGE;
	if (!*p)
		factor = bare;
	for (unsigned i = 0; i < n && !factor; i++)
		if (!strcasecmp(p, units[i].name))
			factor = units[i].factor;
	if (!factor)
		return -EINVAL;
	return __builtin_mul_overflow(v, factor, ret) ? -ERANGE : 0;
}

int option_parse_size(const char *text, uint64_t *ret, struct err *e)
{
	int r = parse_unit(text, size_units, 5, 1, ret);

	if (r == -ERANGE)
		return err_set(e, r, "size '%.40s' does not fit in 64 bits", text);
	if (r)
		return err_set(e, r, "'%.40s' is not a size; write a number and K, M, G or T",
			       text);
	return 0;
}

int option_parse_time(const char *text, uint64_t *ret_ns, struct err *e)
{
	int r = parse_unit(text, time_units, 4, 1000000, ret_ns);

	if (r == -ERANGE)
		return err_set(e, r, "time '%.40s' does not fit in 64 bits", text);
	if (r)
		return err_set(e, r, "'%.40s' is not a time; write a number and us, ms or s", text);
	return 0;
}

static void format_unit(uint64_t v, const struct unit *units, unsigned n, char *ret, size_t cap)
{
	unsigned i = 0;

	while (i < n - 1 && (!v || v % units[i].factor))
		i++;
	snprintf(ret, cap, "%" PRIu64 "%s", v / units[i].factor, v ? units[i].name : "");
}

void option_format_size(uint64_t bytes, char *ret, size_t cap)
{
	format_unit(bytes, size_units, 5, ret, cap);
}

void option_format_time(uint64_t ns, char *ret, size_t cap)
{
	format_unit(ns, time_units, 4, ret, cap);
}

const struct option *option_find(const struct option_table *t, const char *name, size_t len)
{
	for (unsigned i = 0; i < t->n; i++)
		if (strlen(t->rows[i].name) == len && !memcmp(t->rows[i].name, name, len))
			return &t->rows[i];
	return NULL;
}

const struct option *option_find_letter(const struct option_table *t, char letter)
{
	for (unsigned i = 0; i < t->n; i++)
		if (letter && t->rows[i].letter == letter)
			return &t->rows[i];
	return NULL;
}

/* Edit distance; only the first 31 characters of b count, which no option name exceeds. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32], n = strnlen(b, 31);

	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1]; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= n; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[n];
}

const char *option_nearest(const struct option_table *t, const char *name)
{
	const struct option *letter = name[0] && !name[1] ? option_find_letter(t, name[0]) : NULL;
	const char *best = letter ? letter->name : "";
	unsigned least = letter ? 0 : ~0u;

	for (unsigned i = 0; i < t->n; i++) {
		unsigned d = distance(t->rows[i].name, name);

		if (d < least) {
			least = d;
			best = t->rows[i].name;
		}
	}
	return best;
}

static int set_bounded(const struct option *o, void *field, uint64_t v, const char *where,
		       struct err *e)
{
	char lo[32], hi[32], is[32];
	void (*format)(uint64_t, char *, size_t) =
		o->type == OPT_TIME ? option_format_time : option_format_size;

	if (v >= o->min && v <= o->max) {
		uint32_t narrow = v;

		if (o->type == OPT_NUMBER)
			memcpy(field, &narrow, sizeof(narrow));
		else
			memcpy(field, &v, sizeof(v));
		return 0;
	}
	if (o->type == OPT_NUMBER)
		return err_set(e, -ERANGE, "%s: %" PRIu64 " is outside %" PRIu64 "..%" PRIu64,
			       where, v, o->min, o->max);
	format(v, is, sizeof(is));
	format(o->min, lo, sizeof(lo));
	format(o->max, hi, sizeof(hi));
	return err_set(e, -ERANGE, "%s: %s%s is outside %s..%s", where, is,
		       o->type == OPT_SIZE && v < 1024 ? " bytes" : "", lo, hi);
}

static int set_string(const struct option *o, char *field, const char *text, const char *where,
		      struct err *e)
{
	size_t n = strlen(text);

	if (!n)
		return err_set(e, -EINVAL, "%s: empty; give %s", where, o->metavar);
	if (n >= o->size)
		return err_set(e, -ENAMETOOLONG, "%s: %zu characters, at most %zu", where, n,
			       o->size - 1);
	memcpy(field, text, n + 1);
	return 0;
}

static int set_choice(const struct option *o, void *field, const char *text, const char *where,
		      struct err *e)
{
	char all[96] = "";
	size_t n = 0;

	for (const struct option_choice *c = o->choices; c->name; c++) {
		if (!strcmp(c->name, text)) {
			if (c->value < 0)
				return err_set(
					e, -EOPNOTSUPP,
					"%s: '%s' is not available in this version; use '%s'",
					where, text, o->choices[0].name);
			memcpy(field, &c->value, sizeof(c->value));
			return 0;
		}
		if (c->value >= 0 && n < sizeof(all))
			n += snprintf(all + n, sizeof(all) - n, "%s%s", n ? ", " : "", c->name);
	}
	return err_set(e, -EINVAL, "%s: '%.40s' is not one of: %s", where, text, all);
}

static int set_mac(uint8_t *field, const char *text, const char *where, struct err *e)
{
	uint8_t mac[6];
	int used = 0;

	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2],
		   &mac[3], &mac[4], &mac[5], &used) != 6 ||
	    used != 17 || text[17])
		return err_set(e, -EINVAL,
			       "%s: '%.40s' is not a MAC address like 52:54:00:00:00:01", where,
			       text);
	if (mac[0] & 1)
		return err_set(e, -EINVAL, "%s: '%s' is a multicast address; a card needs unicast",
			       where, text);
	if (!memcmp(mac, "\0\0\0\0\0", 6))
		return err_set(e, -EINVAL, "%s: the all-zero address is not usable", where);
	memcpy(field, mac, 6);
	return 0;
}

static int add_text(const struct option *o, void *base, const char *text, const char *where,
		    struct err *e)
{
	unsigned *count = (unsigned *)((char *)base + o->count);
	int r;

	if (*count == o->max)
		return err_set(e, -E2BIG, "%s: more than %" PRIu64 " entries", where, o->max);
	r = set_string(o, (char *)base + o->offset + *count * o->size, text, where, e);
	if (!r)
		++*count;
	return r;
}

/* Giving the option again replaces the former list: the last one wins. */
static int set_texts(const struct option *o, void *base, const char *text, const char *where,
		     struct err *e)
{
	char *copy = strdup(text), *rest = copy, *one;
	int r = copy ? 0 : err_set(e, -ENOMEM, "%s: out of memory", where);

	*(unsigned *)((char *)base + o->count) = 0;
	while (!r && (one = strsep(&rest, ",")))
		r = add_text(o, base, one, where, e);
	free(copy);
	return r;
}

/* Append a whole element; its id (the first field) must be new. */
static int list_append(const struct option *o, void *base, const char *elem, const char *where,
		       struct err *e)
{
	unsigned *count = (unsigned *)((char *)base + o->count);
	char *items = (char *)base + o->offset;
	const char *id = elem + o->sub[0].offset;

	if (!*id)
		return err_set(e, -EINVAL, "%s: %s is missing", where, o->sub[0].name);
	if (o->max == 1) /* the last one wins */
		*count = 0;
	for (unsigned i = 0; i < *count; i++)
		if (!strcmp(items + i * o->size + o->sub[0].offset, id))
			return err_set(e, -EEXIST, "%s: the id '%s' is already in use", where, id);
	if (*count == o->max)
		return err_set(e, -E2BIG, "%s: more than %" PRIu64 " of them", where, o->max);
	memcpy(items + *count * o->size, elem, o->size);
	++*count;
	return 0;
}

/* One "key", "key=value" of a list element. seen: bit per row. */
static int set_pair(const struct option *o, void *elem, char *pair, uint32_t *seen,
		    const char *where, struct err *e)
{
	const struct option_table t = {o->sub, o->nsub};
	char *value = strchr(pair, '=');
	const struct option *row;
	char at[128];

	if (value)
		*value++ = 0;
	row = option_find(&t, pair, strlen(pair));
	if (!row && !value)
		return err_set(e, -EINVAL, "%s: unknown word '%.40s'; write %s", where, pair,
			       o->metavar);
	if (!row)
		return err_set(e, -EINVAL, "%s: unknown key '%.40s'; the nearest is '%s'", where,
			       pair, option_nearest(&t, pair));
	if (*seen & 1u << (row - o->sub))
		return err_set(e, -EEXIST, "%s: %s is given twice", where, row->name);
	*seen |= 1u << (row - o->sub);
	if (row->type == OPT_FLAG && value)
		return err_set(e, -EINVAL, "%s: %s takes no value", where, row->name);
	if (row->type != OPT_FLAG && !value)
		return err_set(e, -EINVAL, "%s: %s needs a value: %s=%s", where, row->name,
			       row->name, row->metavar);
	snprintf(at, sizeof(at), "%s: %s", where, row->name);
	return option_set_text(row, elem, value ? value : "", at, e);
}

static int set_list_text(const struct option *o, void *base, const char *text, const char *where,
			 struct err *e)
{
	char *copy = strdup(text), *elem = calloc(1, o->size), *rest = copy, *pair;
	uint32_t seen = 0;
	int r = copy && elem ? 0 : err_set(e, -ENOMEM, "%s: out of memory", where);

	while (!r && (pair = strsep(&rest, ",")))
		r = set_pair(o, elem, pair, &seen, where, e);
	if (!r)
		r = list_append(o, base, elem, where, e);
	free(copy);
	free(elem);
	return r;
}

int option_set_text(const struct option *o, void *base, const char *text, const char *where,
		    struct err *e)
{
	void *field = (char *)base + o->offset;
	struct err inner = {0};
	int value = o->min;
	uint64_t v;

	switch (o->type) {
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_SET:
		memcpy(field, &value, sizeof(value));
		return 0;
	case OPT_TEXT:
		return set_string(o, field, text, where, e);
	case OPT_NUMBER:
		if (parse_unit(text, size_units, 0, 1, &v))
			return err_set(e, -EINVAL, "%s: '%.40s' is not a number", where, text);
		return set_bounded(o, field, v, where, e);
	case OPT_SIZE:
		if (option_parse_size(text, &v, &inner))
			return err_set(e, inner.code, "%s: %s", where, inner.msg);
		return set_bounded(o, field, v, where, e);
	case OPT_TIME:
		if (option_parse_time(text, &v, &inner))
			return err_set(e, inner.code, "%s: %s", where, inner.msg);
		return set_bounded(o, field, v, where, e);
	case OPT_CHOICE:
		return set_choice(o, field, text, where, e);
	case OPT_MAC:
		return set_mac(field, text, where, e);
	case OPT_TEXTS:
		return set_texts(o, base, text, where, e);
	case OPT_LIST:
		return set_list_text(o, base, text, where, e);
	}
	return -EINVAL;
}

static int wrong_json(const struct option *o, const char *where, struct err *e)
{
	static const char *const form[] = {
		[OPT_FLAG] = "true or false",
		[OPT_SET] = "true or false",
		[OPT_TEXT] = "a string",
		[OPT_NUMBER] = "a whole number",
		[OPT_SIZE] = "a string like \"512M\" or a whole number of bytes",
		[OPT_TIME] = "a string like \"25ms\" or a whole number of milliseconds",
		[OPT_CHOICE] = "a string",
		[OPT_MAC] = "a string",
		[OPT_TEXTS] = "a string or an array of strings",
		[OPT_LIST] = "an array of objects",
	};

	return err_set(e, -EINVAL, "%s: must be %s", where,
		       o->type == OPT_LIST && o->max == 1 ? "an object" : form[o->type]);
}

static int set_elem_json(const struct option *o, void *base, json_t *object, const char *where,
			 struct err *e)
{
	const struct option_table t = {o->sub, o->nsub};
	char *elem = calloc(1, o->size);
	int r = elem ? 0 : err_set(e, -ENOMEM, "%s: out of memory", where);
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		const struct option *row = option_find(&t, key, strlen(key));
		char at[288];

		if (r)
			break;
		snprintf(at, sizeof(at), "%s.%.40s", where, key);
		if (!row)
			r = err_set(e, -EINVAL, "%s: unknown key; the nearest is '%s'", at,
				    option_nearest(&t, key));
		else
			r = option_set_json(row, elem, value, at, e);
	}
	if (!r)
		r = list_append(o, base, elem, where, e);
	free(elem);
	return r;
}

static int set_list_json(const struct option *o, void *base, json_t *array, const char *where,
			 struct err *e)
{
	json_t *value;
	size_t i;
	int r = 0;

	json_array_foreach(array, i, value)
	{
		char at[224];

		snprintf(at, sizeof(at), "%s[%zu]", where, i);
		if (!json_is_object(value))
			r = err_set(e, -EINVAL, "%s: must be an object with %s=...", at,
				    o->sub[0].name);
		else
			r = set_elem_json(o, base, value, at, e);
		if (r)
			break;
	}
	return r;
}

static int set_texts_json(const struct option *o, void *base, json_t *array, const char *where,
			  struct err *e)
{
	json_t *value;
	size_t i;
	int r = 0;

	*(unsigned *)((char *)base + o->count) = 0;
	json_array_foreach(array, i, value)
	{
		if (!json_is_string(value))
			return wrong_json(o, where, e);
		r = add_text(o, base, json_string_value(value), where, e);
		if (r)
			return r;
	}
	return 0;
}

int option_set_json(const struct option *o, void *base, json_t *value, const char *where,
		    struct err *e)
{
	bool wants_text = o->type != OPT_FLAG && o->type != OPT_SET && o->type != OPT_NUMBER &&
			  o->type != OPT_LIST;
	bool wants_int = o->type == OPT_NUMBER || o->type == OPT_SIZE || o->type == OPT_TIME;
	char number[32];

	if (json_is_boolean(value) && o->type == OPT_FLAG) {
		*((bool *)((char *)base + o->offset)) = json_is_true(value);
		return 0;
	}
	if (json_is_boolean(value) && o->type == OPT_SET)
		return json_is_true(value) ? option_set_text(o, base, "", where, e) : 0;
	if (json_is_string(value) && wants_text)
		return option_set_text(o, base, json_string_value(value), where, e);
	if (json_is_integer(value) && wants_int) {
		if (json_integer_value(value) < 0)
			return err_set(e, -ERANGE, "%s: must not be negative", where);
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		return option_set_text(o, base, number, where, e);
	}
	if (json_is_object(value) && o->type == OPT_LIST && o->max == 1)
		return set_elem_json(o, base, value, where, e);
	if (json_is_array(value) && o->type == OPT_LIST && o->max > 1)
		return set_list_json(o, base, value, where, e);
	if (json_is_array(value) && o->type == OPT_TEXTS)
		return set_texts_json(o, base, value, where, e);
	return wrong_json(o, where, e);
}

/* A pipe or device could block or never end, so only regular files are read. */
static int read_file(const char *path, char **ret, size_t *ret_len, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r = 0;
	struct stat st;
	char *buf = NULL;
	ssize_t n = -1;

	if (fd < 0)
		return err_sys(e, "configuration '%s'", path);
	if (fstat(fd, &st) < 0)
		r = err_sys(e, "configuration '%s'", path);
	else if (!S_ISREG(st.st_mode))
		r = err_set(e, -EINVAL, "configuration '%s' is not a regular file", path);
	else if (st.st_size > FILE_MAX)
		r = err_set(e, -EFBIG, "configuration '%s' is larger than 1 MiB", path);
	else if (!(buf = malloc(FILE_MAX + 1)))
		r = err_set(e, -ENOMEM, "configuration '%s': out of memory", path);
	else if ((n = pread(fd, buf, FILE_MAX + 1, 0)) < 0)
		r = err_sys(e, "configuration '%s'", path);
	close(fd);
	if (r) {
		free(buf);
		return r;
	}
	*ret = buf;
	*ret_len = n;
	return 0;
}

json_t *option_load_file(const char *path, struct err *e)
{
	json_error_t je;
	json_t *root;
	bool object;
	size_t len = 0;
	char *buf = NULL;

	if (read_file(path, &buf, &len, e))
		return NULL;
	root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &je);
	object = len && memchr(buf, '{', len > 256 ? 256 : len);
	free(buf);
	if (!root) {
		err_set(e, -EINVAL, "%s:%d:%d: %s%s", path, je.line, je.column, je.text,
			object ? "" : "; a configuration is JSON, a kernel goes with -k");
		return NULL;
	}
	if (!json_is_object(root)) {
		err_set(e, -EINVAL, "%s: must be one JSON object", path);
		json_decref(root);
		return NULL;
	}
	return root;
}

void option_format(const struct option *o, const void *base, char *ret, size_t cap)
{
	const char *field = (const char *)base + o->offset;
	uint64_t v;
	uint32_t n;

	*ret = 0;
	if (o->type == OPT_TEXT) {
		snprintf(ret, cap, "%.*s", (int)o->size, field);
	} else if (o->type == OPT_NUMBER) {
		memcpy(&n, field, sizeof(n));
		snprintf(ret, cap, "%u", n);
	} else if (o->type == OPT_SIZE || o->type == OPT_TIME) {
		memcpy(&v, field, sizeof(v));
		if (v < o->min) /* none */
			return;
		if (o->type == OPT_SIZE)
			option_format_size(v, ret, cap);
		else
			option_format_time(v, ret, cap);
	}
}

void option_print(const struct option *o, const void *defaults)
{
	char left[128], value[64] = "", letter[8] = "    ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name, o->metavar ? " " : "",
		 o->metavar ? o->metavar : "");
	if (defaults)
		option_format(o, defaults, value, sizeof(value));
	if (strlen(left) > 30)
		printf("  %s\n  %-30s", left, "");
	else
		printf("  %-30s", left);
	printf(" %s%s%s%s\n", o->help, *value ? " (" : "", value, *value ? ")" : "");
}
