#include "vmm/machine/fdt.h"

#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>

#include "vmm/machine/cpuid.h"
#include "vmm/machine/mem.h"

#define MODEL "ftvmm,machine-2" /* changes when the same description means another machine */

static const char *const kind_name[] = {
	[MDEV_BLK] = "block", [MDEV_NET] = "net",	  [MDEV_CONSOLE] = "console",
	[MDEV_RNG] = "rng",   [MDEV_BALLOON] = "balloon", [MDEV_VSOCK] = "vsock"};
static const char *const ft_name[] = {
	[DISK_FT_MIRROR] = "mirror", [DISK_FT_SHARED] = "shared", [DISK_FT_NONE] = "none"};

/* --- building: the first error of libfdt is kept in *r ------------------------------------- */

static void begin(void *f, int *r, const char *name)
{
	if (!*r)
		*r = fdt_begin_node(f, name);
}

static void end(void *f, int *r)
{
	if (!*r)
		*r = fdt_end_node(f);
}

static void str(void *f, int *r, const char *name, const char *val)
{
	if (!*r)
		*r = fdt_property_string(f, name, val);
}

static void u32(void *f, int *r, const char *name, uint32_t val)
{
	if (!*r)
		*r = fdt_property_u32(f, name, val);
}

static void cells(void *f, int *r, const char *name, uint64_t a, uint64_t b)
{
	fdt64_t v[2] = {cpu_to_fdt64(a), cpu_to_fdt64(b)};

	if (!*r)
		*r = fdt_property(f, name, v, sizeof(v));
}

static void build_memory(void *f, int *r, const struct machine *m)
{
	uint64_t low = m->mem_bytes < MEM_LOW_MAX ? m->mem_bytes : MEM_LOW_MAX;
	fdt64_t v[4] = {0, cpu_to_fdt64(low), cpu_to_fdt64(MEM_HIGH_BASE),
			cpu_to_fdt64(m->mem_bytes - low)};

	begin(f, r, "memory@0");
	str(f, r, "device_type", "memory");
	if (!*r)
		*r = fdt_property(f, "reg", v, m->mem_bytes > low ? 32 : 16);
	end(f, r);
}

#define CPUID_CELLS 7

/* {function, index, flags, eax, ebx, ecx, edx} of each leaf. */
static void build_cpuid(void *f, int *r, const struct machine *m)
{
	fdt32_t v[MACHINE_MAX_CPUID][CPUID_CELLS];

	if (m->ncpuid > MACHINE_MAX_CPUID) {
		*r = *r ? *r : -FDT_ERR_BADVALUE;
		return;
	}
	for (uint32_t i = 0; i < m->ncpuid; i++) {
		const struct machine_cpuid *c = &m->cpuid[i];
		const uint32_t cell[CPUID_CELLS] = {c->function, c->index, c->flags, c->eax,
						    c->ebx,	 c->ecx,   c->edx};

		for (unsigned n = 0; n < CPUID_CELLS; n++)
			v[i][n] = cpu_to_fdt32(cell[n]);
	}
	str(f, r, "ftvmm,cpu", cpuid_policy_name(m->cpu));
	u32(f, r, "ftvmm,tsc-khz", m->tsc_khz);
	if (!*r)
		*r = fdt_property(f, "ftvmm,cpuid", v, (int)(m->ncpuid * sizeof(v[0])));
}

static void build_cpus(void *f, int *r, const struct machine *m)
{
	char name[32];

	begin(f, r, "cpus");
	u32(f, r, "#address-cells", 1);
	u32(f, r, "#size-cells", 0);
	build_cpuid(f, r, m);
	for (uint32_t i = 0; i < m->vcpus; i++) {
		snprintf(name, sizeof(name), "cpu@%x", i);
		begin(f, r, name);
		str(f, r, "device_type", "cpu");
		u32(f, r, "reg", i);
		end(f, r);
	}
	end(f, r);
}

static void build_dev(void *f, int *r, const struct mdev *d)
{
	char name[48];

	snprintf(name, sizeof(name), "virtio_mmio@%llx", (unsigned long long)d->gpa);
	begin(f, r, name);
	str(f, r, "compatible", "virtio,mmio");
	cells(f, r, "reg", d->gpa, MACHINE_MMIO_STEP);
	u32(f, r, "interrupts", d->gsi);
	str(f, r, "ftvmm,kind", kind_name[d->kind]);
	str(f, r, "ftvmm,id", d->id);
	if (d->kind == MDEV_BLK || d->kind == MDEV_NET)
		u32(f, r, "ftvmm,queues", d->queues);
	if (d->kind == MDEV_BLK) {
		if (!*r)
			*r = fdt_property_u64(f, "ftvmm,bytes", d->bytes);
		u32(f, r, "ftvmm,block", machine_block(d));
		u32(f, r, "ftvmm,physical", d->physical ? d->physical : machine_block(d));
		str(f, r, "ftvmm,ft", ft_name[d->ft]);
		u32(f, r, "ftvmm,readonly", d->readonly);
	}
	if (d->kind == MDEV_NET) {
		u32(f, r, "ftvmm,no-offload", d->no_offload);
		if (!*r)
			*r = fdt_property(f, "local-mac-address", d->mac, 6);
	}
	if (d->kind == MDEV_VSOCK)
		u32(f, r, "ftvmm,cid", d->cid);
	end(f, r);
}

int fdt_build(const struct machine *m, void *buf, size_t cap, struct err *e)
{
	int r = fdt_create(buf, cap);

	if (!r)
		r = fdt_finish_reservemap(buf);
	begin(buf, &r, "");
	str(buf, &r, "compatible", MODEL);
	str(buf, &r, "model", m->name);
	u32(buf, &r, "#address-cells", 2);
	u32(buf, &r, "#size-cells", 2);
	begin(buf, &r, "chosen");
	str(buf, &r, "bootargs", m->cmdline);
	end(buf, &r);
	build_memory(buf, &r, m);
	build_cpus(buf, &r, m);
	for (uint32_t i = 0; i < m->ndevs; i++)
		build_dev(buf, &r, &m->devs[i]);
	end(buf, &r);
	if (!r)
		r = fdt_finish(buf);
	if (r)
		return err_set(e, -ENOSPC, "machine description: %s", fdt_strerror(r));
	return fdt_totalsize(buf);
}

/* --- parsing -------------------------------------------------------------------------------- */

static int bad(struct err *e, const char *what)
{
	return err_set(e, -EBADMSG, "machine description: %s", what);
}

/* A property that must be a terminated string shorter than cap. */
static int get_str(const void *f, int node, const char *name, char *ret, size_t cap)
{
	int len;
	const char *p = fdt_getprop(f, node, name, &len);

	if (!p || len < 1 || (size_t)len > cap || p[len - 1] || memchr(p, 0, len - 1))
		return -EBADMSG;
	memcpy(ret, p, len);
	return 0;
}

/*
 * Names end up in messages, on terminals and in JSON: the characters that the configuration allows
 * (vmm/conf/config_check.c).
 */
static bool name_ok(const char *s)
{
	static const char ok[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	return *s && !s[strspn(s, ok)];
}

static int get_u32(const void *f, int node, const char *name, uint32_t *ret)
{
	int len;
	const void *p = fdt_getprop(f, node, name, &len);

	if (!p || len != 4)
		return -EBADMSG;
	*ret = fdt32_ld(p);
	return 0;
}

static int get_u64(const void *f, int node, const char *name, unsigned index, uint64_t *ret)
{
	int len;
	const uint8_t *p = fdt_getprop(f, node, name, &len);

	if (!p || len % 8 || (unsigned)len / 8 <= index)
		return -EBADMSG;
	*ret = fdt64_ld((const fdt64_t *)(p + index * 8));
	return 0;
}

static int find_name(const char *const *names, unsigned n, const char *want)
{
	for (unsigned i = 1; i < n; i++)
		if (!strcmp(names[i], want))
			return i;
	return -EBADMSG;
}

/* Descriptions of before there were several (snapshots) do not say: one. */
static int parse_queues(const void *f, int node, struct mdev *d)
{
	if (!fdt_getprop(f, node, "ftvmm,queues", NULL))
		d->queues = 1;
	else if (get_u32(f, node, "ftvmm,queues", &d->queues))
		return -EBADMSG;
	return !d->queues || d->queues > MACHINE_MAX_QUEUES ? -EBADMSG : 0;
}

/* Those of before disks had one (snapshots) do not say: 512. */
static int parse_block(const void *f, int node, struct mdev *d)
{
	d->block = d->physical = MACHINE_BLOCK_MIN;
	if (!fdt_getprop(f, node, "ftvmm,block", NULL))
		return 0;
	if (get_u32(f, node, "ftvmm,block", &d->block) ||
	    get_u32(f, node, "ftvmm,physical", &d->physical) || d->block & (d->block - 1) ||
	    d->physical & (d->physical - 1))
		return -EBADMSG;
	return d->block < MACHINE_BLOCK_MIN || d->block > MACHINE_BLOCK_MAX ||
			       d->physical < d->block || d->physical > MACHINE_PHYSICAL_MAX
		       ? -EBADMSG
		       : 0;
}

static int parse_vsock(const void *f, int node, const struct machine *m, struct mdev *d)
{
	for (uint32_t i = 0; i < m->ndevs; i++)
		if (m->devs[i].kind == MDEV_VSOCK)
			return -EBADMSG;
	if (get_u32(f, node, "ftvmm,cid", &d->cid))
		return -EBADMSG;
	return d->cid < MACHINE_CID_MIN || d->cid > MACHINE_CID_MAX ? -EBADMSG : 0;
}

static int parse_dev(const void *f, int node, struct machine *m, struct err *e)
{
	struct mdev *d = &m->devs[m->ndevs];
	char word[32];
	uint32_t ro, flag = 0;
	int len;

	if (m->ndevs == MACHINE_MAX_DEVS)
		return bad(e, "too many devices");
	memset(d, 0, sizeof(*d));
	if (get_str(f, node, "ftvmm,id", d->id, sizeof(d->id)) ||
	    get_u64(f, node, "reg", 0, &d->gpa) || get_u32(f, node, "interrupts", &d->gsi) ||
	    get_str(f, node, "ftvmm,kind", word, sizeof(word)))
		return bad(e, "device without id, kind, registers or interrupt");
	if (!name_ok(d->id))
		return bad(e,
			   "device id with characters other than letters, digits, '.', '_', '-'");
	if (d->gpa != MACHINE_MMIO_BASE + m->ndevs * MACHINE_MMIO_STEP ||
	    d->gsi != MACHINE_GSI_BASE + m->ndevs)
		return bad(e, "device at an unexpected address or interrupt");
	int kind = find_name(kind_name, sizeof(kind_name) / sizeof(kind_name[0]), word);

	if (kind < 0)
		return bad(e, "unknown kind of device");
	d->kind = kind;
	if ((d->kind == MDEV_BLK || d->kind == MDEV_NET) && parse_queues(f, node, d))
		return bad(e, "disk or NIC with a bad number of queues");
	if (d->kind == MDEV_BLK) {
		if (get_u64(f, node, "ftvmm,bytes", 0, &d->bytes) ||
		    get_u32(f, node, "ftvmm,readonly", &ro) ||
		    get_str(f, node, "ftvmm,ft", word, sizeof(word)) || ro > 1)
			return bad(e, "disk without size, mode or protection");
		int ft = find_name(ft_name, sizeof(ft_name) / sizeof(ft_name[0]), word);

		if (parse_block(f, node, d))
			return bad(e, "disk with blocks of a bad size");
		if (ft < 0 || d->bytes % d->block || d->bytes == 0 || d->bytes > 1ull << 50)
			return bad(e, "disk with a bad size or protection");
		if (ro && ft == DISK_FT_MIRROR)
			return bad(e, "read-only disk that is a mirror");
		d->ft = ft;
		d->readonly = ro;
	}
	if (d->kind == MDEV_NET) {
		const void *mac = fdt_getprop(f, node, "local-mac-address", &len);

		if (!mac || len != 6)
			return bad(e, "NIC without a MAC address");
		if (fdt_getprop(f, node, "ftvmm,no-offload", NULL) &&
		    (get_u32(f, node, "ftvmm,no-offload", &flag) || flag > 1))
			return bad(e, "NIC with a bad word about offloads");
		d->no_offload = flag;
		memcpy(d->mac, mac, 6);
	}
	if (d->kind == MDEV_VSOCK && parse_vsock(f, node, m, d))
		return bad(e, "vsock with a bad cid, or a second one");
	m->ndevs++;
	return 0;
}

static int parse_memory(const void *f, struct machine *m)
{
	uint64_t low, high = 0;
	int len, node = fdt_path_offset(f, "/memory@0");

	if (node < 0 || !fdt_getprop(f, node, "reg", &len) || (len != 16 && len != 32))
		return -EBADMSG;
	if (get_u64(f, node, "reg", 1, &low) || low > MEM_LOW_MAX)
		return -EBADMSG;
	if (len == 32 &&
	    (get_u64(f, node, "reg", 3, &high) || low != MEM_LOW_MAX || high > 1ull << 46))
		return -EBADMSG;
	m->mem_bytes = low + high;
	return m->mem_bytes < MEM_MIN_BYTES || m->mem_bytes % (2u << 20) ? -EBADMSG : 0;
}

static int count_cpus(const void *f, struct machine *m)
{
	int node, cpus = fdt_path_offset(f, "/cpus");

	if (cpus < 0)
		return -EBADMSG;
	fdt_for_each_subnode(node, f, cpus) if (++m->vcpus > MACHINE_MAX_VCPUS) return -EBADMSG;
	return m->vcpus ? 0 : -EBADMSG;
}

#define TSC_MIN_KHZ 10000u
#define TSC_MAX_KHZ 100000000u

/* What is a number and no feature: KVM and cpuid_check() judge the rest. */
static int parse_cpuid(const void *f, struct machine *m)
{
	int len, cpus = fdt_path_offset(f, "/cpus");
	const fdt32_t *p = fdt_getprop(f, cpus, "ftvmm,cpuid", &len);
	const int each = CPUID_CELLS * (int)sizeof(fdt32_t);
	char word[32];

	if (!p || len < each || len % each || len / each > MACHINE_MAX_CPUID ||
	    get_str(f, cpus, "ftvmm,cpu", word, sizeof(word)) ||
	    get_u32(f, cpus, "ftvmm,tsc-khz", &m->tsc_khz) || m->tsc_khz < TSC_MIN_KHZ ||
	    m->tsc_khz > TSC_MAX_KHZ)
		return -EBADMSG;
	m->cpu = 0;
	while (cpuid_policy_name(m->cpu) && strcmp(cpuid_policy_name(m->cpu), word))
		m->cpu++;
	if (!cpuid_policy_name(m->cpu))
		return -EBADMSG;
	for (int i = 0; i < len / each; i++, p += CPUID_CELLS) {
		struct machine_cpuid c = {fdt32_ld(p),	   fdt32_ld(p + 1), fdt32_ld(p + 2),
					  fdt32_ld(p + 3), fdt32_ld(p + 4), fdt32_ld(p + 5),
					  fdt32_ld(p + 6)};

		if (c.flags & ~KVM_CPUID_FLAG_SIGNIFCANT_INDEX || (c.index && !c.flags) ||
		    cpuid_find(m, c.function, c.index))
			return -EBADMSG;
		m->cpuid[m->ncpuid++] = c;
	}
	return cpuid_find(m, 0, 0) && cpuid_find(m, 1, 0) ? 0 : -EBADMSG;
}

int fdt_parse(const void *buf, size_t len, struct machine *m, struct err *e)
{
	char model[32];
	int node, chosen;

	memset(m, 0, sizeof(*m));
	if (len > FDT_MAX_BYTES || fdt_check_full(buf, len))
		return bad(e, "not a valid device tree");
	chosen = fdt_path_offset(buf, "/chosen");
	if (get_str(buf, 0, "compatible", model, sizeof(model)) || strcmp(model, MODEL))
		return bad(e, "another kind of machine than " MODEL
			      "; use the same ftvmm version on both sides");
	if (get_str(buf, 0, "model", m->name, sizeof(m->name)) || chosen < 0 ||
	    get_str(buf, chosen, "bootargs", m->cmdline, sizeof(m->cmdline)))
		return bad(e, "no name or command line");
	if (!name_ok(m->name))
		return bad(e, "name with characters other than letters, digits, '.', '_', '-'");
	if (parse_memory(buf, m))
		return bad(e, "bad memory size");
	if (count_cpus(buf, m))
		return bad(e, "bad number of vCPUs");
	if (parse_cpuid(buf, m))
		return bad(e, "bad CPUID table, --cpu or TSC frequency");
	fdt_for_each_subnode(node, buf, 0)
	{
		int r;

		if (!fdt_getprop(buf, node, "ftvmm,kind", NULL))
			continue;
		r = parse_dev(buf, node, m, e);
		if (r)
			return r;
	}
	for (uint32_t i = 0; i < m->ndevs; i++)
		for (uint32_t j = 0; j < i; j++)
			if (!strcmp(m->devs[i].id, m->devs[j].id))
				return bad(e, "two devices with the same id");
	return 0;
}
