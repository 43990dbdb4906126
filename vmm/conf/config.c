#include "vmm/conf/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/machine/mem.h"
#include "vmm/conf/option.h"

/* For which roles an option is (bits 0..2), and where the help shows it. */
enum {
	PLAIN = 1 << ROLE_PLAIN,
	PRIMARY = 1 << ROLE_PRIMARY,
	SECONDARY = 1 << ROLE_SECONDARY,
	OWNER = PLAIN | PRIMARY, /* whoever brings the guest */
	PAIR = PRIMARY | SECONDARY,
	ALL = OWNER | SECONDARY,
	GUEST = 1 << 3, /* describes the guest: a snapshot or the primary already says it */
	GROUP_FT = 1 << 4,
	GROUP_DEBUG = 1 << 5,
	TAKES = 1 << 6, /* plain: only if the VM comes from elsewhere */
	GROUPS = GROUP_FT | GROUP_DEBUG,
};

#define MS 1000000ull
#define MB (1ull << 20)

#define FIELD(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)
#define ARRAY(type, member, n)                                                                     \
	.offset = offsetof(type, member), .size = sizeof(((type *)0)->member[0]),                  \
	.count = offsetof(type, n)
#define ROWS(a) (sizeof(a) / sizeof((a)[0]))

static const struct option_choice disk_ft_choices[] = {
	{"mirror", DISK_FT_MIRROR},
	{"shared", DISK_FT_SHARED},
	{"none", DISK_FT_NONE},
	{0},
};
static const struct option_choice ft_choices[] = {
	{"mc", FT_MODE_MC},
	{"kemari", FT_MODE_KEMARI},
	{"auto", FT_MODE_AUTO},
	{"colo", FT_MODE_COLO},
	{0},
};

static const struct option_choice disk_error_choices[] = {
	{"guest", DISK_ERROR_GUEST},
	{"failover", DISK_ERROR_FAILOVER},
	{0},
};

static const struct option_choice log_choices[] = {
	{"text", LOG_TEXT},
	{"json", LOG_JSON},
	{NULL},
};
static const struct option_choice sandbox_choices[] = {
	{"on", SANDBOX_ON},
	{"strict", SANDBOX_STRICT},
	{"off", SANDBOX_OFF},
	{0},
};

static const struct option_choice cpu_choices[] = {
	{"host", CPU_HOST},
	{"x86-64-v1", CPU_V1},
	{"x86-64-v2", CPU_V2},
	{"x86-64-v3", CPU_V3},
	{0},
};

/* clang-format off */
static const struct option disk_rows[] = {
	{ "id", .type = OPT_TEXT, FIELD(struct config_disk, id), .metavar = "ID",
	  .help = "the same on both sides" },
	{ "path", .type = OPT_TEXT, FIELD(struct config_disk, path), .metavar = "FILE",
	  .help = "raw image or block device" },
	{ "ro", .type = OPT_FLAG, FIELD(struct config_disk, readonly),
	  .help = "the guest may not write" },
	{ "direct", .type = OPT_FLAG, FIELD(struct config_disk, direct),
	  .help = "bypass the host's page cache" },
	{ "block", .type = OPT_SIZE, FIELD(struct config_disk, block), .min = MACHINE_BLOCK_MIN,
	  .max = MACHINE_BLOCK_MAX, .metavar = "SIZE",
	  .help = "of the guest's blocks, default 512, or what the block device has; the primary's counts" },
	{ "ft", .type = OPT_CHOICE, FIELD(struct config_disk, ft), .choices = disk_ft_choices,
	  .metavar = "mirror|shared|none",
	  .help = "each side its own image, one image both sides see, or never written" },
	{ "rate", .type = OPT_SIZE, FIELD(struct config_disk, limit.bytes),
	  .min = CONFIG_DISK_RATE_MIN, .max = CONFIG_RATE_MAX, .metavar = "SIZE",
	  .help = "the guest may move so many bytes a second; each side has its own" },
	{ "ops", .type = OPT_NUMBER, FIELD(struct config_disk, limit.ops), .min = 1,
	  .max = CONFIG_OPS_MAX, .metavar = "N", .help = "likewise requests a second" },
};
static const struct option net_rows[] = {
	{ "id", .type = OPT_TEXT, FIELD(struct config_net, id), .metavar = "ID",
	  .help = "the same on both sides" },
	{ "tap", .type = OPT_TEXT, FIELD(struct config_net, tap), .metavar = "NAME",
	  .help = "made when it does not exist" },
	{ "socket", .type = OPT_TEXT, FIELD(struct config_net, socket), .metavar = "PATH",
	  .help = "instead of a tap: the socket of a passt" },
	{ "bridge", .type = OPT_TEXT, FIELD(struct config_net, bridge), .metavar = "NAME",
	  .help = "existing bridge to put the tap in" },
	{ "mac", .type = OPT_MAC, FIELD(struct config_net, mac), .metavar = "MAC",
	  .help = "default: derived from name and id" },
	{ "rate", .type = OPT_SIZE, FIELD(struct config_net, limit.bytes),
	  .min = CONFIG_NET_RATE_MIN, .max = CONFIG_RATE_MAX, .metavar = "SIZE",
	  .help = "bytes a second, to the guest and from it, each; each side has its own" },
	{ "ops", .type = OPT_NUMBER, FIELD(struct config_net, limit.ops), .min = 1,
	  .max = CONFIG_OPS_MAX, .metavar = "N", .help = "likewise frames a second" },
};
static const struct option vsock_rows[] = {
	{ "path", .type = OPT_TEXT, FIELD(struct config_vsock, path), .metavar = "SOCK",
	  .help = "programs connect here; the guest reaches port P at SOCK_P" },
	{ "cid", .type = OPT_NUMBER, FIELD(struct config_vsock, cid), .min = MACHINE_CID_MIN,
	  .max = MACHINE_CID_MAX, .metavar = "N",
	  .help = "the guest's address, default 3; the primary's counts" },
};
static const struct option rows[] = {
	{ "kernel", 'k', OPT_TEXT, FIELD(struct config, kernel), .tags = ALL | GUEST,
	  .metavar = "FILE", .help = "bzImage, or ELF file with a PVH entry" },
	{ "initrd", 'i', OPT_TEXT, FIELD(struct config, initrd), .tags = ALL | GUEST,
	  .metavar = "FILE", .help = "initial RAM disk" },
	{ "cmdline", 'a', OPT_TEXT, FIELD(struct config, cmdline), .tags = OWNER | GUEST,
	  .metavar = "TEXT", .help = "kernel command line" },
	{ "memory", 'm', OPT_SIZE, FIELD(struct config, mem_bytes), .min = MEM_MIN_BYTES,
	  .max = 1ull << 42, .tags = OWNER | GUEST, .metavar = "SIZE", .help = "guest RAM" },
	{ "cpus", 'c', OPT_NUMBER, FIELD(struct config, vcpus), .min = 1, .max = MACHINE_MAX_VCPUS,
	  .tags = OWNER | GUEST, .metavar = "N", .help = "virtual CPUs" },
	{ "cpu", .type = OPT_CHOICE, FIELD(struct config, cpu), .choices = cpu_choices,
	  .tags = OWNER | GUEST, .metavar = "NAME",
	  .help = "features: host, x86-64-v1, -v2, -v3" },
	{ "disk", 'd', OPT_LIST, ARRAY(struct config, disks, ndisks), .max = MACHINE_MAX_DEVS,
	  .sub = disk_rows, .nsub = ROWS(disk_rows), .tags = ALL,
	  .metavar = "id=ID,path=FILE[,ro][,direct][,block=N][,ft=HOW][,rate=N][,ops=N]",
	  .help = "add a disk (again for more)" },
	{ "net", 'n', OPT_LIST, ARRAY(struct config, nets, nnets), .max = MACHINE_MAX_DEVS,
	  .sub = net_rows, .nsub = ROWS(net_rows), .tags = ALL,
	  .metavar = "id=ID,tap=NAME|socket=PATH[,bridge=NAME][,mac=MAC][,rate=N][,ops=N]",
	  .help = "add a network card (again for more)" },
	{ "vsock", .type = OPT_LIST, ARRAY(struct config, vsock, nvsocks), .max = 1,
	  .sub = vsock_rows, .nsub = ROWS(vsock_rows), .tags = ALL, .metavar = "path=SOCK[,cid=N]",
	  .help = "sockets between guest and host programs" },
	{ "console", .type = OPT_TEXT, FIELD(struct config, console), .tags = ALL,
	  .metavar = "stdio|none|FILE", .help = "where guest output goes" },
	{ "name", .type = OPT_TEXT, FIELD(struct config, name), .tags = ALL, .metavar = "NAME",
	  .help = "name for ftvmm status, stop, ..." },
	{ "restore", .type = OPT_TEXT, FIELD(struct config, restore), .tags = OWNER,
	  .metavar = "FILE", .help = "start from a snapshot instead of a kernel" },
	{ "incoming", .type = OPT_TEXT, FIELD(struct config, incoming), .tags = PLAIN,
	  .metavar = "URI", .help = "a VM comes at tls:HOST:PORT, tcp: or unix:PATH" },
	{ "tls-psk", .type = OPT_TEXT, FIELD(struct config, tls_psk), .tags = ALL,
	  .metavar = "FILE", .help = "for tls: addresses, a key of ftvmm key FILE" },
	{ "tls-dir", .type = OPT_TEXT, FIELD(struct config, tls_dir), .tags = ALL,
	  .metavar = "DIR", .help = "or certificates: ca.pem, cert.pem, key.pem" },
	{ "insecure", .type = OPT_FLAG, FIELD(struct config, insecure), .tags = ALL,
	  .help = "let tcp: go between hosts, open to all" },
	{ "max-memory", .type = OPT_SIZE, FIELD(struct config, max_mem_bytes), .min = MEM_MIN_BYTES,
	  .max = 1ull << 42, .tags = PLAIN | SECONDARY | TAKES, .metavar = "SIZE",
	  .help = "refuse a peer's VM with more RAM" },
	{ "lazy", .type = OPT_FLAG, FIELD(struct config, lazy), .tags = OWNER,
	  .help = "with --restore: run while memory comes" },
	{ "no-reboot", .type = OPT_FLAG, FIELD(struct config, no_reboot), .tags = ALL,
	  .help = "a reset by the guest ends the VM" },
	{ "paused", .type = OPT_FLAG, FIELD(struct config, paused), .tags = OWNER,
	  .help = "with --restore: vCPUs wait for ftvmm resume" },

	{ "primary", .type = OPT_SET, FIELD(struct config, role), .min = ROLE_PRIMARY,
	  .tags = ALL | GROUP_FT, .help = "run the guest and protect it" },
	{ "secondary", .type = OPT_SET, FIELD(struct config, role), .min = ROLE_SECONDARY,
	  .tags = ALL | GROUP_FT, .help = "stand by for a primary and take over" },
	{ "peer", .type = OPT_TEXTS, ARRAY(struct config, peers, npeers), .max = CONFIG_MAX_PEERS,
	  .tags = PAIR | GROUP_FT, .metavar = "URI[,URI]",
	  .help = "to try in order: tls:HOST:PORT, tcp: or unix:" },
	{ "listen", .type = OPT_TEXT, FIELD(struct config, listen), .tags = SECONDARY | GROUP_FT,
	  .metavar = "URI", .help = "tls:HOST:PORT, tcp:, unix:PATH or fd:N" },
	{ "max-disk", .type = OPT_SIZE, FIELD(struct config, max_disk_bytes),
	  .min = MACHINE_BLOCK_MIN, .max = 1ull << 50, .tags = SECONDARY | GROUP_FT,
	  .metavar = "SIZE", .help = "refuse a primary whose mirrored disk is larger" },
	{ "ft", .type = OPT_CHOICE, FIELD(struct config, ft), .choices = ft_choices,
	  .tags = PAIR | GROUP_FT, .metavar = "MODE",
	  .help = "protect by mc, kemari, auto or colo" },
	{ "epoch", .type = OPT_TIME, FIELD(struct config, epoch_ns), .min = CONFIG_EPOCH_MIN_NS,
	  .max = CONFIG_EPOCH_MAX_NS,
	  .tags = PAIR | GROUP_FT, .metavar = "TIME", .help = "between two checkpoints" },
	{ "heartbeat", .type = OPT_TIME, FIELD(struct config, heartbeat_ns), .min = MS,
	  .max = 10000 * MS, .tags = PAIR | GROUP_FT, .metavar = "TIME", .help = "between two signs of life" },
	{ "peer-timeout", .type = OPT_TIME, FIELD(struct config, peer_timeout_ns), .min = 5 * MS,
	  .max = 60000 * MS, .tags = PAIR | GROUP_FT, .metavar = "TIME", .help = "silence that counts as death" },
	{ "arbiter", .type = OPT_TEXT, FIELD(struct config, arbiter), .tags = PAIR | GROUP_FT,
	  .metavar = "none|file:PATH|etcd:URL,..|exec:PROGRAM", .help = "who decides who may run" },
	{ "claim", .type = OPT_FLAG, FIELD(struct config, claim), .tags = OWNER | GROUP_FT,
	  .help = "start though arbiter or image say no" },
	{ "on-disk-error", .type = OPT_CHOICE, FIELD(struct config, on_disk_error),
	  .choices = disk_error_choices, .tags = PAIR | GROUP_FT, .metavar = "WHO",
	  .help = "an image fails: guest or failover" },
	{ "staging", .type = OPT_SIZE, FIELD(struct config, staging_bytes), .min = MB,
	  .max = 1ull << 36, .tags = PAIR | GROUP_FT, .metavar = "SIZE", .help = "bound of captured, unsent pages" },
	{ "output-limit", .type = OPT_SIZE, FIELD(struct config, output_bytes), .min = 128 << 10,
	  .max = 1ull << 32, .tags = PAIR | GROUP_FT, .metavar = "SIZE", .help = "bound of held output" },
	{ "disklog-limit", .type = OPT_SIZE, FIELD(struct config, disklog_bytes), .min = MB,
	  .max = 1ull << 36, .tags = PAIR | GROUP_FT, .metavar = "SIZE", .help = "bound of unacknowledged disk writes" },

	{ "verify", .type = OPT_FLAG, FIELD(struct config, verify), .tags = PAIR | GROUP_DEBUG,
	  .help = "compare a hash of both sides every epoch" },
	{ "sandbox", .type = OPT_CHOICE, FIELD(struct config, sandbox), .choices = sandbox_choices,
	  .tags = ALL | GROUP_DEBUG, .metavar = "on|strict|off",
	  .help = "other system calls: fail, end ftvmm, allowed" },
	{ "log", .type = OPT_CHOICE, FIELD(struct config, log), .choices = log_choices,
	  .tags = ALL | GROUP_DEBUG, .metavar = "text|json", .help = "lines of the log" },
	{ "verbose", .type = OPT_FLAG, FIELD(struct config, verbose), .tags = ALL | GROUP_DEBUG,
	  .help = "log debug messages" },
};
/* clang-format on */

_Static_assert(ROWS(rows) <= 64, "a bit per row in struct given");
static const struct option_table table = {rows, ROWS(rows)};

const struct option_table *config_options(void)
{
	return &table;
}

void config_init(struct config *c)
{
	*c = (struct config){
		.name = "vm",
		.mem_bytes = 512 * MB,
		.vcpus = 1,
		.console = "stdio",
		.epoch_ns = 25 * MS,
		.heartbeat_ns = 25 * MS,
		.peer_timeout_ns = 100 * MS,
		.arbiter = "none",
		.sandbox = SANDBOX_ON,
		.log = LOG_TEXT,
		.staging_bytes = 64 * MB,
		.output_bytes = 16 * MB,
		.disklog_bytes = 64 * MB,
	};
}

/* Which options were given, and where: bit per row. */
struct given {
	uint64_t by_flag, by_file;
	const char *file; /* the last one, for messages */
};

static int parse_file(struct config *c, struct given *g, const char *path, struct err *e)
{
	json_t *root = option_load_file(path, e), *value;
	const char *key;
	int r = 0;

	if (!root)
		return e && e->code ? e->code : -EINVAL;
	g->file = path;
	json_object_foreach(root, key, value)
	{
		const struct option *o = option_find(&table, key, strlen(key));
		char where[160];

		snprintf(where, sizeof(where), "%.100s: %.40s", path, key);
		if (!o)
			r = err_set(e, -EINVAL, "%s: unknown key; the nearest is '%s'", where,
				    option_nearest(&table, key));
		else
			r = option_set_json(o, c, value, where, e);
		if (r)
			break;
		if (!json_is_false(value))
			g->by_file |= 1ull << (o - rows);
	}
	json_decref(root);
	return r;
}

static int parse_flag(struct config *c, struct given *g, int argc, char **argv, int *at,
		      struct err *e)
{
	const char *arg = argv[*at], *value = NULL;
	bool is_long = arg[1] == '-';
	const struct option *o;
	char where[48];

	if (is_long) {
		size_t len = strcspn(arg + 2, "=");

		o = option_find(&table, arg + 2, len);
		value = arg[2 + len] ? arg + 2 + len + 1 : NULL;
	} else {
		o = option_find_letter(&table, arg[1]);
		value = arg[1] && arg[2] ? arg + 2 : NULL;
	}
	if (!o && is_long)
		return err_set(e, -EINVAL, "%.40s: no such option; the nearest is --%s", arg,
			       option_nearest(&table, arg + 2));
	if (!o)
		return err_set(e, -EINVAL, "%.40s: no such option; see ftvmm run --help", arg);
	snprintf(where, sizeof(where), "--%s", o->name);
	if (o->type == OPT_FLAG || o->type == OPT_SET) {
		if (value)
			return err_set(e, -EINVAL, "%s takes no value", where);
	} else if (!value) {
		if (*at + 1 >= argc)
			return err_set(e, -EINVAL, "%s needs a value: %s", where, o->metavar);
		value = argv[++*at];
	}
	g->by_flag |= 1ull << (o - rows);
	return option_set_text(o, c, value ? value : "", where, e);
}

/* Of a VM with an arbiter the other side may run: it is not to be started beside that one. */
static int check_role(const struct config *c, struct err *e)
{
	if (c->role != ROLE_PLAIN || c->incoming[0] || !strcmp(c->arbiter, "none"))
		return 0;
	return err_set(e, -EINVAL,
		       "the file names an arbiter (%.60s): is this to run as --primary or as "
		       "--secondary? For a VM that no other host runs, take the arbiter out of it",
		       c->arbiter);
}

static bool fits_role(const struct config *c, const struct option *o)
{
	bool own = c->role == ROLE_PLAIN && !c->incoming[0];

	return o->tags & 1u << c->role && !(own && o->tags & TAKES);
}

static const char *role_words(const struct config *c, const struct option *o)
{
	static const char *const words[] = {"without --primary or --secondary", "with --primary",
					    "with --secondary"};

	return c->role == ROLE_PLAIN && o->tags & TAKES ? "without --secondary or --incoming"
							: words[c->role];
}

/*
 * Drop or refuse what does not apply. One file may serve both hosts, so a file's option for the
 * other role is dropped, unless that file also chose the role; a flag is always meant.
 */
static int drop_unfit(struct config *c, const struct given *g, struct err *e)
{
	struct config fresh;
	uint64_t role_rows = 0, restore_row = 0, incoming_row = 0;

	config_init(&fresh);
	for (unsigned i = 0; i < table.n; i++) {
		if (rows[i].type == OPT_SET)
			role_rows |= 1ull << i;
		if (rows[i].offset == offsetof(struct config, restore))
			restore_row = 1ull << i;
		if (rows[i].offset == offsetof(struct config, incoming))
			incoming_row = 1ull << i;
	}
	if ((g->by_flag & role_rows) == role_rows ||
	    (!(g->by_flag & role_rows) && (g->by_file & role_rows) == role_rows))
		return err_set(e, -EINVAL, "--primary and --secondary exclude each other");
	for (unsigned i = 0; i < table.n; i++) {
		const struct option *o = &rows[i];
		bool role_bad = !fits_role(c, o);
		bool restore_bad = c->restore[0] && o->tags & GUEST;
		/* It may be asked for the guest's next boot. */
		bool incoming_bad = c->incoming[0] && o->tags & GUEST && !(o->tags & SECONDARY);
		uint64_t why = role_bad ? role_rows : restore_bad ? restore_row : incoming_row;
		bool meant = g->by_flag & 1ull << i || (g->by_file & 1ull << i && g->by_file & why);

		if (!((g->by_flag | g->by_file) & 1ull << i) ||
		    (!role_bad && !restore_bad && !incoming_bad))
			continue;
		if (meant)
			return err_set(e, -EINVAL, "--%s has no meaning %s%s", o->name,
				       role_bad	     ? role_words(c, o)
				       : restore_bad ? "with --restore"
						     : "with --incoming",
				       !role_bad && restore_bad ? ": the snapshot says it"
				       : !role_bad		? ": the source sends it"
				       : c->role == ROLE_SECONDARY && o->tags & GUEST
					       ? ": the primary sends it"
					       : "");
		if (o->offset == offsetof(struct config, arbiter) && check_role(c, e))
			return -EINVAL;
		if (o->type == OPT_TEXTS || o->type == OPT_LIST)
			*(unsigned *)((char *)c + o->count) = 0;
		else
			memcpy((char *)c + o->offset, (char *)&fresh + o->offset, o->size);
	}
	return 0;
}

int config_parse_run(struct config *c, int argc, char **argv, struct err *e)
{
	struct given g = {0};
	int r = 0;

	config_init(c);
	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			config_print_help();
			return 1;
		}
		if (!strcmp(argv[i], "--help-md")) {
			config_print_markdown();
			return 1;
		}
		if (argv[i][0] == '-' && argv[i][1])
			r = parse_flag(c, &g, argc, argv, &i, e);
		else
			r = parse_file(c, &g, argv[i], e);
		if (r)
			return r;
	}
	for (unsigned i = 0; i < c->nnets; i++)
		c->nets[i].has_mac = memcmp(c->nets[i].mac, "\0\0\0\0\0", 6);
	if (!c->vsock[0].cid)
		c->vsock[0].cid = MACHINE_CID_MIN;
	for (unsigned i = 0; i < c->ndisks; i++)
		if (!c->disks[i].ft)
			c->disks[i].ft = c->disks[i].readonly ? DISK_FT_NONE : DISK_FT_MIRROR;
	r = drop_unfit(c, &g, e);
	return r ? r : config_check(c, e);
}

int config_parse_size(const char *text, uint64_t *ret, struct err *e)
{
	return option_parse_size(text, ret, e);
}

int config_parse_time(const char *text, uint64_t *ret_ns, struct err *e)
{
	return option_parse_time(text, ret_ns, e);
}

void config_print_help(void)
{
	struct config defaults;
	unsigned group = 0;

	config_init(&defaults);
	printf("usage: ftvmm run [VM.json] [options]     start a VM in the foreground\n"
	       "Every option is also a key of VM.json; what comes last wins.\n");
	for (unsigned i = 0; i < table.n; i++) {
		if ((rows[i].tags & GROUPS) != group) {
			group = rows[i].tags & GROUPS;
			printf("%s\n", group == GROUP_FT ? "fault tolerance:" : "debugging:");
		}
		option_print(&rows[i], &defaults);
	}
}

static void print_markdown_rows(const struct option_table *t, const void *defaults)
{
	for (unsigned i = 0; i < t->n; i++) {
		const struct option *o = &t->rows[i];
		char lo[32] = "", hi[32] = "", value[64] = "";

		if (defaults)
			option_format(o, defaults, value, sizeof(value));
		if (o->type == OPT_SIZE) {
			option_format_size(o->min, lo, sizeof(lo));
			option_format_size(o->max, hi, sizeof(hi));
		} else if (o->type == OPT_TIME) {
			option_format_time(o->min, lo, sizeof(lo));
			option_format_time(o->max, hi, sizeof(hi));
		} else if (o->type == OPT_NUMBER) {
			snprintf(lo, sizeof(lo), "%u", (unsigned)o->min);
			snprintf(hi, sizeof(hi), "%u", (unsigned)o->max);
		}
		printf("| `%s%s` | %s%c%s | ", t == &table ? "--" : "", o->name,
		       o->letter ? "`-" : "", o->letter ? o->letter : ' ', o->letter ? "`" : "");
		for (const char *p = o->metavar ? o->metavar : "flag"; *p; p++)
			printf("%s%c", *p == '|' ? "\\" : "", *p);
		printf(" | %s%s%s | %s | %s%s%s | %s |\n", lo, *lo ? " .. " : "", hi, value,
		       o->tags & PLAIN ? "plain " : "", o->tags & PRIMARY ? "primary " : "",
		       o->tags & SECONDARY ? "secondary" : "", o->help);
	}
}

void config_print_markdown(void)
{
	static const char head[] =
		"| option | short | value | limits | default | roles | meaning |\n"
		"| --- | --- | --- | --- | --- | --- | --- |\n";
	struct config defaults;

	config_init(&defaults);
	fputs(head, stdout);
	print_markdown_rows(&table, &defaults);
	for (unsigned i = 0; i < table.n; i++) {
		const struct option_table sub = {rows[i].sub, rows[i].nsub};

		if (!sub.rows)
			continue;
		printf("\nKeys of `%s`:\n\n%s", rows[i].name, head);
		print_markdown_rows(&sub, NULL);
	}
}
