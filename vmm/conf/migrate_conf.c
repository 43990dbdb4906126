#include "vmm/conf/migrate_conf.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "vmm/conf/option.h"
#include "vmm/wire/chan.h"

#define MS	      1000000ull
#define TIMEOUT	      (60000 * MS)
#define TIMEOUT_DISKS (86400000 * MS)
#define FIELD(f)                                                                                   \
	.offset = offsetof(struct migrate_conf, f), .size = sizeof(((struct migrate_conf *)0)->f)

/* clang-format off */
static const struct option rows[] = {
	{ "precopy", .type = OPT_TEXT, FIELD(precopy), .metavar = "URI",
	  .help = "all memory is there before it runs there" },
	{ "postcopy", .type = OPT_TEXT, FIELD(postcopy), .metavar = "URI",
	  .help = "it runs there at once, and memory follows" },
	{ "auto", .type = OPT_TEXT, FIELD(automatic), .metavar = "URI",
	  .help = "precopy, and postcopy when that does not converge" },
	{ "secondary", .type = OPT_TEXT, FIELD(secondary), .metavar = "URI",
	  .help = "of a protected VM: this one takes the place of its secondary" },
	{ "downtime", .type = OPT_TIME, FIELD(downtime_ns), .min = MS, .max = 60000 * MS,
	  .metavar = "TIME", .help = "stop it when the rest takes no longer than this" },
	{ "timeout", .type = OPT_TIME, FIELD(timeout_ns), .min = 100 * MS, .max = 86400000 * MS,
	  .metavar = "TIME", .help = "not switched by then, it is given up; with --copy-disks: a day" },
	{ "passes", .type = OPT_NUMBER, FIELD(passes), .min = 0, .max = 1000, .metavar = "N",
	  .help = "over memory, at most; of postcopy: before the switch" },
	{ "bandwidth", .type = OPT_SIZE, FIELD(bandwidth), .min = 1 << 20, .max = 1ull << 40,
	  .metavar = "SIZE", .help = "bytes a second while the guest runs" },
	{ "no-background", .type = OPT_FLAG, FIELD(no_background),
	  .help = "of postcopy: send only what is asked for" },
	{ "copy-disks", .type = OPT_FLAG, FIELD(copy_disks),
	  .help = "images that are not one file at both hosts go along" },
	{ "cancel", .type = OPT_FLAG, FIELD(cancel), .help = "give up the one that is under way" },
	{ "force", .type = OPT_FLAG, FIELD(force),
	  .help = "with --cancel: although nobody here can know; see the manual" },
	{ "insecure", .type = OPT_FLAG, FIELD(insecure),
	  .help = "URI may be tcp: to another host, as with ftvmm run --insecure" },
	{ "recover", .type = OPT_TEXT, FIELD(recover), .metavar = "URI",
	  .help = "its link is lost: go on over this one, or file:PATH" },
};
/* clang-format on */

static const struct option_table table = {rows, sizeof(rows) / sizeof(rows[0])};

static void init(struct migrate_conf *c)
{
	*c = (struct migrate_conf){.downtime_ns = 50 * MS, .passes = MIGRATE_PASSES_ANY};
}

static int check_uri(const struct migrate_conf *c, struct err *e)
{
	struct err inner = {0};
	struct chan_uri uri;

	if (chan_parse(c->uri, &uri, &inner))
		return err_set(e, -EINVAL, "migrate: %s", inner.msg);
	if (uri.kind == CHAN_FILE && c->recover[0])
		return 0;
	if (uri.kind != CHAN_TCP && uri.kind != CHAN_TLS && uri.kind != CHAN_UNIX)
		return err_set(e, -EINVAL,
			       "migrate: '%s': the destination is connected to again when the "
			       "link breaks; use tls:HOST:PORT, tcp:HOST:PORT or unix:PATH",
			       c->uri);
	return 0;
}

static const char *const how_name[] = {"precopy", "postcopy", "auto", "secondary"};

static int check_how(struct migrate_conf *c, struct err *e)
{
	const char *given[] = {c->precopy, c->postcopy, c->automatic, c->secondary};
	int how = -1;

	for (int i = 0; i < 4; i++) {
		if (!given[i][0])
			continue;
		if (how >= 0)
			return err_set(e, -EINVAL, "migrate: --%s and --%s exclude each other",
				       how_name[how], how_name[i]);
		how = i;
	}
	if (how < 0)
		return err_set(e, -EINVAL,
			       "migrate: where to? Give --precopy URI, on which the destination "
			       "has --incoming, or --postcopy URI, --auto URI, --secondary URI, "
			       "--cancel or --recover URI");
	c->how = (enum migrate_how)how;
	snprintf(c->uri, sizeof(c->uri), "%s", given[how]);
	return 0;
}

/* The first option that is of a new migration: it means nothing to one that is under way. */
static const char *of_a_new_one(const struct migrate_conf *c)
{
	struct migrate_conf none;

	init(&none);
	none.cancel = c->cancel;
	none.force = c->force;
	none.insecure = c->insecure;
	memcpy(none.recover, c->recover, sizeof(none.recover));
	for (unsigned i = 0; i < table.n; i++)
		if (memcmp((const char *)c + rows[i].offset, (const char *)&none + rows[i].offset,
			   rows[i].size) != 0)
			return rows[i].name;
	return NULL;
}

static int check_recover(struct migrate_conf *c, struct err *e)
{
	const char *other = c->cancel ? "cancel" : c->force ? "force" : of_a_new_one(c);

	if (other)
		return err_set(e, -EINVAL,
			       "migrate: --recover is about the one that is under way: it goes "
			       "alone, without --%s",
			       other);
	snprintf(c->uri, sizeof(c->uri), "%s", c->recover);
	return check_uri(c, e);
}

static int check_cancel(const struct migrate_conf *c, struct err *e)
{
	const char *other = of_a_new_one(c);

	return other ? err_set(e, -EINVAL, "migrate: --cancel and --%s exclude each other", other)
		     : 0;
}

/* It stands by, and the VM stays where it is: nothing is to be chosen. */
static int check_secondary(struct migrate_conf *c, struct err *e)
{
	char uri[sizeof(c->uri)];
	const char *other;

	memcpy(uri, c->secondary, sizeof(uri));
	memset(c->secondary, 0, sizeof(c->secondary));
	other = of_a_new_one(c);
	memcpy(c->secondary, uri, sizeof(uri));
	return other ? err_set(e, -EINVAL, "migrate: --secondary and --%s exclude each other",
			       other)
		     : check_uri(c, e);
}

static int check(struct migrate_conf *c, struct err *e)
{
	int r;

	if (c->recover[0])
		return check_recover(c, e);
	if (c->force && !c->cancel)
		return err_set(e, -EINVAL, "migrate: --force goes with --cancel");
	if (c->cancel)
		return check_cancel(c, e);
	r = check_how(c, e);
	if (r)
		return r;
	if (c->how == MIGRATE_HOW_SECONDARY)
		return check_secondary(c, e);
	if (!c->timeout_ns)
		c->timeout_ns = c->copy_disks ? TIMEOUT_DISKS : TIMEOUT;
	if (c->how == MIGRATE_HOW_POSTCOPY && c->passes == MIGRATE_PASSES_ANY)
		c->passes = 0;
	if (c->how != MIGRATE_HOW_POSTCOPY && !c->passes)
		return err_set(e, -EINVAL, "migrate: --passes 0 goes with --postcopy");
	if (c->no_background && c->how == MIGRATE_HOW_PRECOPY)
		return err_set(e, -EINVAL,
			       "migrate: --no-background goes with --postcopy or --auto");
	return check_uri(c, e);
}

static int set_word(struct migrate_conf *c, const char *const *words, int n, int *at, struct err *e)
{
	const char *word = words[*at], *value = "";
	const struct option *o;
	char where[64];

	if (strncmp(word, "--", 2))
		return err_set(e, -EINVAL,
			       "migrate: unknown argument '%.40s'; see ftvmm migrate "
			       "--help",
			       word);
	o = option_find(&table, word + 2, strcspn(word + 2, "="));
	if (!o)
		return err_set(e, -EINVAL, "migrate: %.40s: no such option; the nearest is --%s",
			       word, option_nearest(&table, word + 2));
	snprintf(where, sizeof(where), "migrate: --%s", o->name);
	if (o->type != OPT_FLAG) {
		value = strchr(word, '=');
		if (!value && *at + 1 >= n)
			return err_set(e, -EINVAL, "%s needs a value: %s", where, o->metavar);
		value = value ? value + 1 : words[++*at];
	}
	return option_set_text(o, c, value, where, e);
}

int migrate_conf_words(struct migrate_conf *c, const char *const *words, int n, struct err *e)
{
	int r = 0;

	init(c);
	for (int i = 0; i < n && !r; i++)
		r = set_word(c, words, n, &i, e);
	return r ? r : check(c, e);
}

int migrate_conf_request(struct migrate_conf *c, json_t *request, struct err *e)
{
	int r = 0;

	init(c);
	for (unsigned i = 0; i < table.n && !r; i++) {
		json_t *value = json_object_get(request, rows[i].name);
		char where[64];

		snprintf(where, sizeof(where), "migrate: %s", rows[i].name);
		if (value)
			r = option_set_json(&rows[i], c, value, where, e);
	}
	return r ? r : check(c, e);
}

json_t *migrate_conf_json(const struct migrate_conf *c)
{
	json_t *o = json_pack("{s:s}", "cmd", "migrate");
	char text[32];

	if (c->insecure && !c->cancel)
		json_object_set_new(o, "insecure", json_true());
	if (c->recover[0]) {
		if (!json_object_set_new(o, "recover", json_string(c->uri)))
			return o;
		json_decref(o);
		return NULL;
	}
	if (c->cancel) {
		json_object_set_new(o, "cancel", json_true());
		json_object_set_new(o, "force", json_boolean(c->force));
		return o;
	}
	if (json_object_set_new(o, how_name[c->how], json_string(c->uri))) {
		json_decref(o);
		return NULL;
	}
	if (c->how == MIGRATE_HOW_SECONDARY)
		return o;
	option_format_time(c->downtime_ns, text, sizeof(text));
	json_object_set_new(o, "downtime", json_string(text));
	option_format_time(c->timeout_ns, text, sizeof(text));
	json_object_set_new(o, "timeout", json_string(text));
	if (c->passes != MIGRATE_PASSES_ANY)
		json_object_set_new(o, "passes", json_integer(c->passes));
	if (c->no_background)
		json_object_set_new(o, "no-background", json_true());
	if (c->copy_disks)
		json_object_set_new(o, "copy-disks", json_true());
	if (c->bandwidth)
		json_object_set_new(o, "bandwidth", json_integer((json_int_t)c->bandwidth));
	return o;
}

void migrate_conf_print_help(void)
{
	struct migrate_conf defaults;

	init(&defaults);
	defaults.timeout_ns = TIMEOUT;
	/* That a number is not given is no default that says anything. */
	for (unsigned i = 0; i < table.n; i++)
		option_print(&rows[i], rows[i].type == OPT_TIME ? &defaults : NULL);
	printf("URI: where the destination's ftvmm run --incoming listens, or with --secondary "
	       "the\n"
	       "ftvmm run --secondary: tls:HOST:PORT, tcp:HOST:PORT or unix:PATH.\n"
	       "Exit code 0: it runs there. 2: it goes on here. 3: it is the destination's, and\n"
	       "was let go here (--cancel --force). 5: nobody knows.\n");
}
