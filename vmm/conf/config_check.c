#include "vmm/conf/config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "vmm/wire/chan.h"
#include "vmm/base/log.h"
#include "vmm/conf/option.h"

#define SECTOR 512
/* Console, random numbers and balloon are always there. */
#define FIXED_DEVS 3

static bool name_ok(const char *s)
{
	static const char ok[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	return *s && *s != '.' && *s != '-' && !s[strspn(s, ok)];
}

/* The name of a disk or net; the guest's devices and their replicas are known by it. */
static int check_id(const char *what, const char *id, struct err *e)
{
	if (!name_ok(id))
		return err_set(e, -EINVAL, "%s id '%s': use letters, digits, '.', '_' and '-'",
			       what, id);
	if (!strcmp(id, "console") || !strcmp(id, "rng") || !strcmp(id, "balloon") ||
	    !strcmp(id, "vsock"))
		return err_set(e, -EEXIST, "%s id '%s' is taken by the built-in device", what, id);
	return 0;
}

/* A file that must be there, be readable and not empty. */
static int check_input(const char *what, const char *path, uint64_t *ret_size, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_sys(e, "--%s '%s'", what, path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "--%s '%s' is not a regular file", what, path);
	if (access(path, R_OK) < 0)
		return err_sys(e, "--%s '%s'", what, path);
	if (!st.st_size)
		return err_set(e, -EINVAL, "--%s '%s' is empty", what, path);
	*ret_size = st.st_size;
	return 0;
}

static int check_boot(const struct config *c, struct err *e)
{
	uint64_t kernel = 0, initrd = 0, ignored;
	char size[32];
	int r;

	if (c->paused && (!c->restore[0] || c->role != ROLE_PLAIN))
		return err_set(e, -EINVAL, "--paused goes with --restore and without --primary");
	if (c->lazy && (!c->restore[0] || c->role != ROLE_PLAIN))
		return err_set(e, -EINVAL, "--lazy goes with --restore and without --primary");
	if (c->restore[0])
		return check_input("restore", c->restore, &ignored, e);
	if (!c->kernel[0])
		return err_set(e, -EINVAL, "no kernel: give -k FILE, or --restore FILE");
	if (c->mem_bytes % (2 << 20)) {
		option_format_size(c->mem_bytes, size, sizeof(size));
		return err_set(e, -EINVAL, "--memory: %s is not a multiple of 2M", size);
	}
	r = check_input("kernel", c->kernel, &kernel, e);
	if (!r && c->initrd[0])
		r = check_input("initrd", c->initrd, &initrd, e);
	if (!r && kernel + initrd > c->mem_bytes)
		r = err_set(e, -E2BIG,
			    "--memory: kernel and initrd are %" PRIu64 "M, the guest has %" PRIu64
			    "M; give more with -m",
			    (kernel + initrd + (1 << 20) - 1) >> 20, c->mem_bytes >> 20);
	return r;
}

/* What a secondary boots when the guest is reset after a takeover. */
static int check_reboot(const struct config *c, struct err *e)
{
	uint64_t ignored;
	int r = c->kernel[0] ? check_input("kernel", c->kernel, &ignored, e) : 0;

	if (!r && c->initrd[0])
		r = check_input("initrd", c->initrd, &ignored, e);
	return r;
}

/* A secondary makes a mirror that is missing, so only its folder must be there. */
static int check_new_disk(const struct config_disk *d, struct err *e)
{
	char path[sizeof(d->path)], *folder;

	memcpy(path, d->path, sizeof(path));
	folder = dirname(path);
	if (access(folder, W_OK | X_OK) < 0)
		return err_sys(e, "disk '%s': cannot be made in '%s'", d->id, folder);
	return 0;
}

/* Only a warning: it is for the guest to say what its disk begins with. */
static void warn_qcow2(const struct config_disk *d)
{
	char head[4];
	int fd = open(d->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return;
	if (pread(fd, head, sizeof(head), 0) == sizeof(head) && !memcmp(head, "QFI\xfb", 4))
		log_warn("disk '%s': '%s' looks like a qcow2 image, and is taken as a raw one; to "
			 "convert it: qemu-img convert -O raw",
			 d->id, d->path);
	close(fd);
}

static int check_disk_file(const struct config *c, const struct config_disk *d, struct err *e)
{
	struct stat st;

	if (stat(d->path, &st) < 0) {
		if (errno == ENOENT && c->role == ROLE_SECONDARY && d->ft == DISK_FT_MIRROR)
			return check_new_disk(d, e);
		return err_sys(e, "disk '%s': '%s'", d->id, d->path);
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, -EINVAL, "disk '%s': '%s' is neither a file nor a block device",
			       d->id, d->path);
	if (c->role == ROLE_SECONDARY && d->ft == DISK_FT_MIRROR && !S_ISREG(st.st_mode))
		return err_set(
			e, -EINVAL,
			"disk '%s': '%s' is a block device; the image of a secondary must be "
			"a regular file in this version",
			d->id, d->path);
	if (access(d->path, d->readonly ? R_OK : R_OK | W_OK) < 0)
		return err_set(e, -errno, "disk '%s': '%s': %s%s", d->id, d->path, strerror(errno),
			       d->readonly ? "" : "; with ro the guest only reads it");
	if (c->role != ROLE_SECONDARY)
		warn_qcow2(d);
	if (S_ISREG(st.st_mode) && (!st.st_size || st.st_size % SECTOR) &&
	    c->role != ROLE_SECONDARY)
		return err_set(e, -EINVAL,
			       "disk '%s': '%s' has %" PRIu64
			       " bytes; must be a multiple of %d and not 0 (truncate -s)",
			       d->id, d->path, (uint64_t)st.st_size, SECTOR);
	return 0;
}

/* It is the lock of the image that keeps two hosts from writing; other hosts see that of a file. */
static int check_shared(const struct config *c, const struct config_disk *d, struct err *e)
{
	struct stat st;

	if (c->ft == FT_MODE_COLO)
		return err_set(e, -EINVAL,
			       "disk '%s': ft=shared does not go with --ft colo, whose two guests "
			       "would both write; use --ft kemari, or ft=mirror",
			       d->id);
	if (!strcmp(c->arbiter, "none"))
		return err_set(e, -EINVAL,
			       "disk '%s': ft=shared needs an --arbiter: without one nobody knows "
			       "which side goes on with the image",
			       d->id);
	if (stat(d->path, &st) == 0 && S_ISBLK(st.st_mode))
		return err_set(e, -EINVAL,
			       "disk '%s': '%s' is a block device, whose lock other hosts do not "
			       "see: ft=shared needs a file on a file system that both hosts mount",
			       d->id, d->path);
	return 0;
}

static int check_disk(const struct config *c, const struct config_disk *d, struct err *e)
{
	int r = check_id("disk", d->id, e);

	if (r)
		return r;
	if (!d->path[0])
		return err_set(e, -EINVAL, "disk '%s': path is missing", d->id);
	if (d->block & (d->block - 1))
		return err_set(e, -EINVAL,
			       "disk '%s': block must be 512 or 4096, or a power of two between",
			       d->id);
	if (d->readonly && d->ft == DISK_FT_MIRROR)
		return err_set(e, -EINVAL, "disk '%s': ro and ft=mirror exclude each other", d->id);
	if (c->role != ROLE_PLAIN && d->ft == DISK_FT_SHARED && !d->readonly) {
		r = check_shared(c, d, e);
		if (r)
			return r;
	}
	if (c->role != ROLE_PLAIN && !d->readonly && d->ft == DISK_FT_NONE)
		return err_set(e, -EINVAL,
			       "disk '%s': ft=none would lose writes at a takeover; add ro or use "
			       "ft=mirror",
			       d->id);
	return check_disk_file(c, d, e);
}

static int check_net(const struct config_net *n, struct err *e)
{
	int r = check_id("net", n->id, e);

	if (r)
		return r;
	if (!n->tap[0] == !n->socket[0])
		return err_set(e, -EINVAL, "net '%s': %s", n->id,
			       n->tap[0] ? "tap and socket exclude each other"
					 : "tap or socket is missing");
	if (n->socket[0] && n->bridge[0])
		return err_set(e, -EINVAL, "net '%s': bridge goes with tap, not with socket",
			       n->id);
	if (n->tap[0] && !name_ok(n->tap))
		return err_set(e, -EINVAL, "net '%s': '%s' is no name for an interface", n->id,
			       n->tap);
	if (n->bridge[0] && !name_ok(n->bridge))
		return err_set(e, -EINVAL, "net '%s': '%s' is no name for a bridge", n->id,
			       n->bridge);
	return 0;
}

static int check_net_pair(const struct config_net *a, const struct config_net *b, struct err *e)
{
	if (a->socket[0] && !strcmp(a->socket, b->socket))
		return err_set(e, -EEXIST, "nets '%s' and '%s' use the same socket '%s'", a->id,
			       b->id, a->socket);
	if (a->tap[0] && !strcmp(a->tap, b->tap))
		return err_set(e, -EEXIST, "nets '%s' and '%s' use the same tap '%s'", a->id, b->id,
			       a->tap);
	if (a->has_mac && b->has_mac && !memcmp(a->mac, b->mac, 6))
		return err_set(e, -EEXIST, "nets '%s' and '%s' have the same mac", a->id, b->id);
	return 0;
}

/* A secondary makes its socket when it takes over: too late to learn that it cannot. */
static int check_vsock(const struct config_vsock *v, struct err *e)
{
	char path[sizeof(v->path)], *folder;

	memcpy(path, v->path, sizeof(path));
	folder = dirname(path);
	if (access(folder, W_OK | X_OK) < 0)
		return err_sys(e, "--vsock: no socket can be made in '%s'", folder);
	return 0;
}

static int check_devices(const struct config *c, struct err *e)
{
	unsigned most = MACHINE_MAX_DEVS - FIXED_DEVS - c->nvsocks;
	int r;

	if (c->ndisks + c->nnets > most)
		return err_set(e, -E2BIG, "%u disks and %u nets: together at most %u%s", c->ndisks,
			       c->nnets, most, c->nvsocks ? " beside a vsock" : "");
	if (c->nvsocks) {
		r = check_vsock(&c->vsock[0], e);
		if (r)
			return r;
	}
	for (unsigned i = 0; i < c->ndisks; i++) {
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(c->disks[i].path, c->disks[j].path))
				return err_set(e, -EEXIST,
					       "disks '%s' and '%s' use the same file '%s'",
					       c->disks[j].id, c->disks[i].id, c->disks[i].path);
		r = check_disk(c, &c->disks[i], e);
		if (r)
			return r;
	}
	for (unsigned i = 0; i < c->nnets; i++) {
		r = check_net(&c->nets[i], e);
		for (unsigned j = 0; j < i && !r; j++)
			r = check_net_pair(&c->nets[j], &c->nets[i], e);
		for (unsigned j = 0; j < c->ndisks && !r; j++)
			if (!strcmp(c->nets[i].id, c->disks[j].id))
				r = err_set(e, -EEXIST, "'%s' is the id of a disk and of a net",
					    c->nets[i].id);
		if (r)
			return r;
	}
	return 0;
}

int config_check_private(const char *text, struct err *e)
{
	struct chan_uri uri;

	if (chan_parse(text, &uri, NULL) || !chan_is_open(&uri))
		return 0;
	return err_set(e, -EPERM,
		       "'%s': tcp: between hosts is open to whoever is on the way or reaches the "
		       "port: use tls: (`ftvmm run --tls-psk FILE` at both, `ftvmm key FILE` makes "
		       "it), or `ftvmm run --insecure` on a link that is yours alone",
		       text);
}

static int check_uri(const struct config *c, const char *option, const char *text, struct err *e)
{
	struct err inner = {0};
	struct chan_uri uri;

	if (chan_parse(text, &uri, &inner))
		return err_set(e, inner.code ? inner.code : -EINVAL, "--%s: %s", option, inner.msg);
	if (uri.kind == CHAN_TLS && !c->tls_psk[0] && !c->tls_dir[0])
		return err_set(e, -EINVAL,
			       "--%s '%s' needs --tls-psk FILE, which `ftvmm key FILE` makes once "
			       "for both sides, or --tls-dir DIR",
			       option, text);
	if (uri.kind == CHAN_FILE)
		return err_set(e, -EINVAL, "--%s '%s': a file is no connection; use tls:HOST:PORT",
			       option, text);
	if (!c->insecure && config_check_private(text, e))
		return err_wrap(e, "--%s", option);
	return 0;
}

/* A primary connects twice, and again after each loss. */
int config_check_peer(const struct config *c, const char *text, struct err *e)
{
	if (!strncmp(text, "fd:", 3))
		return err_set(e, -EINVAL,
			       "--peer '%s': a secondary is connected to more than once, a "
			       "descriptor is one connection; use tls:HOST:PORT or unix:PATH",
			       text);
	return check_uri(c, "peer", text, e);
}

static int check_arbiter(const char *uri, struct err *e)
{
	static const char *const begins[] = {"file:", "etcd:http://", "exec:"};

	if (!strcmp(uri, "none"))
		return 0;
	for (unsigned i = 0; i < sizeof(begins) / sizeof(begins[0]); i++)
		if (!strncmp(uri, begins[i], strlen(begins[i])) && uri[strlen(begins[i])])
			return 0;
	return err_set(e, -EINVAL,
		       "--arbiter '%.80s': must be none, file:PATH, etcd:http://HOST:PORT[,...] or "
		       "exec:PROGRAM",
		       uri);
}

static int check_pair(const struct config *c, struct err *e)
{
	char timeout[32], heartbeat[32];
	int r = 0;

	if (c->role == ROLE_PRIMARY && !c->npeers)
		return err_set(e, -EINVAL,
			       "--primary needs --peer URI: the secondary to connect to");
	if (c->role == ROLE_PRIMARY && c->ft == FT_MODE_NONE)
		return err_set(e, -EINVAL, "--primary needs --ft mc, kemari, auto or colo");
	if (c->role == ROLE_SECONDARY && !c->listen[0])
		return err_set(e, -EINVAL,
			       "--secondary needs --listen URI: where the primary connects");
	if (c->peer_timeout_ns < 2 * c->heartbeat_ns) {
		option_format_time(c->peer_timeout_ns, timeout, sizeof(timeout));
		option_format_time(c->heartbeat_ns, heartbeat, sizeof(heartbeat));
		return err_set(e, -EINVAL, "--peer-timeout %s is less than two heartbeats of %s",
			       timeout, heartbeat);
	}
	r = check_arbiter(c->arbiter, e);
	if (r)
		return r;
	if (c->listen[0])
		r = check_uri(c, "listen", c->listen, e);
	for (unsigned i = 0; i < c->npeers && !r; i++)
		r = config_check_peer(c, c->peers[i], e);
	return r;
}

static int check_incoming(const struct config *c, struct err *e)
{
	if (c->restore[0])
		return err_set(e, -EINVAL,
			       "--restore and --incoming: each brings a VM; give one of them");
	if (c->claim)
		return err_set(e, -EINVAL, "--claim has no meaning with --incoming");
	if (c->paused)
		return err_set(
			e, -EINVAL,
			"--paused has no meaning with --incoming: a VM that is paused at the "
			"source stays so");
	if (!strncmp(c->incoming, "fd:", 3))
		return err_set(e, -EINVAL,
			       "--incoming '%s': a source connects again when the link breaks, a "
			       "descriptor is one connection; use tls:HOST:PORT or unix:PATH",
			       c->incoming);
	return check_uri(c, "incoming", c->incoming, e);
}

static int check_plain(const struct config *c, struct err *e)
{
	if (c->npeers || c->ft != FT_MODE_NONE)
		return err_set(e, -EINVAL, "--%s needs --primary or --secondary",
			       c->npeers ? "peer" : "ft");
	if (c->listen[0])
		return err_set(e, -EINVAL, "--listen needs --secondary");
	return c->incoming[0] ? check_incoming(c, e) : 0;
}

int config_check(struct config *c, struct err *e)
{
	int r;

	if (!name_ok(c->name))
		return err_set(e, -EINVAL, "--name '%s': use letters, digits, '.', '_' and '-'",
			       c->name);
	if (!c->vcpus || c->vcpus > MACHINE_MAX_VCPUS)
		return err_set(e, -ERANGE, "--cpus: %u is outside 1..%d", c->vcpus,
			       MACHINE_MAX_VCPUS);
	if (c->role == ROLE_SECONDARY && c->restore[0])
		return err_set(e, -EINVAL,
			       "--restore has no meaning with --secondary: the primary sends it");
	if (c->tls_psk[0] && c->tls_dir[0])
		return err_set(e, -EINVAL,
			       "--tls-psk and --tls-dir exclude each other: one says who a peer "
			       "is");
	r = c->role == ROLE_PLAIN ? check_plain(c, e) : check_pair(c, e);
	if (!r)
		r = c->role == ROLE_SECONDARY || c->incoming[0] ? check_reboot(c, e)
								: check_boot(c, e);
	return r ? r : check_devices(c, e);
}

/* Stable over restarts and hosts; locally administered, unicast. */
static void derive_mac(const char *name, const char *id, uint8_t mac[6])
{
	char both[128];
	int n = snprintf(both, sizeof(both), "%s/%s", name, id);
	uint64_t hash = XXH3_64bits(both, n);

	memcpy(mac, &hash, 6);
	mac[0] = (mac[0] & 0xfc) | 2;
}

static struct mdev *add_dev(struct machine *m, enum mdev_kind kind, const char *id)
{
	struct mdev *d = &m->devs[m->ndevs];

	d->kind = kind;
	snprintf(d->id, sizeof(d->id), "%s", id);
	d->gpa = MACHINE_MMIO_BASE + m->ndevs * MACHINE_MMIO_STEP;
	d->gsi = MACHINE_GSI_BASE + m->ndevs;
	m->ndevs++;
	return d;
}

int config_to_machine(const struct config *c, struct machine *m, struct err *e)
{
	_Static_assert(MACHINE_MAX_VCPUS <= MACHINE_MAX_QUEUES, "a queue for each CPU");
	if (c->ndisks + c->nnets + c->nvsocks + FIXED_DEVS > MACHINE_MAX_DEVS)
		return err_set(e, -E2BIG, "more than %d devices", MACHINE_MAX_DEVS);
	memset(m, 0, sizeof(*m));
	snprintf(m->name, sizeof(m->name), "%s", c->name);
	snprintf(m->cmdline, sizeof(m->cmdline), "%s", c->cmdline);
	m->mem_bytes = c->mem_bytes;
	m->vcpus = c->vcpus;
	m->cpu = c->cpu;
	add_dev(m, MDEV_CONSOLE, "console");
	add_dev(m, MDEV_RNG, "rng");
	add_dev(m, MDEV_BALLOON, "balloon");
	for (unsigned i = 0; i < c->ndisks; i++) {
		struct mdev *d = add_dev(m, MDEV_BLK, c->disks[i].id);

		d->queues = c->vcpus; /* each CPU its own */
		d->readonly = c->disks[i].readonly;
		d->ft = c->disks[i].ft;
	}
	for (unsigned i = 0; i < c->nnets; i++) {
		struct mdev *d = add_dev(m, MDEV_NET, c->nets[i].id);

		d->queues = c->vcpus;
		d->no_offload = c->nets[i].socket[0]; /* passt can do none */
		if (c->nets[i].has_mac)
			memcpy(d->mac, c->nets[i].mac, 6);
		else
			derive_mac(c->name, c->nets[i].id, d->mac);
	}
	if (c->nvsocks)
		add_dev(m, MDEV_VSOCK, "vsock")->cid = c->vsock[0].cid;
	return 0;
}

void config_to_backends(const struct config *c, struct backends *b)
{
	*b = (struct backends){.ndisks = c->ndisks,
			       .nnets = c->nnets,
			       .vsock = c->nvsocks ? c->vsock[0].path : NULL,
			       .console = c->console,
			       .output_bytes = c->output_bytes,
			       .sandbox = c->sandbox,
			       .standby = c->role == ROLE_SECONDARY};
	for (unsigned i = 0; i < c->ndisks; i++)
		b->disks[i] = (struct disk_backend){c->disks[i].id, c->disks[i].path,
						    c->disks[i].direct, c->disks[i].limit};
	for (unsigned i = 0; i < c->nnets; i++) {
		const struct config_net *n = &c->nets[i];

		b->nets[i] = (struct net_backend){n->id, n->socket[0] ? n->socket : NULL, n->tap,
						  n->bridge[0] ? n->bridge : NULL, n->limit};
	}
}
