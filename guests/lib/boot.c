/*
 * The first C code, at CPL3: takes over what the boot loader left (PVH start info), sets the
 * library up, runs main().
 */
#include "guests/lib/sys.h"

#define START_MAGIC  0x336ec578u
#define MAP_MAX	     128u
#define MODULE_MAX   8u
#define CMDLINE_CAP  4096u
#define MAP_TYPE_RAM 1u

/* Xen's hvm_start_info, version 1 (version 0 ends before memmap_paddr). */
struct start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct start_module {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};

struct start_map {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

static struct start_module modules[MODULE_MAX];
static unsigned module_count;
static char cmdline_copy[CMDLINE_CAP];

static void take_start_info(void)
{
	const struct start_info *si = (const struct start_info *)boot_info;
	const struct start_module *mods;
	const struct start_map *map;
	const char *text;

	if (!si || si->magic != START_MAGIC)
		return;
	text = (const char *)si->cmdline_paddr;
	for (unsigned i = 0; text && i < CMDLINE_CAP - 1 && text[i]; i++)
		cmdline_copy[i] = text[i];
	mods = (const struct start_module *)si->modlist_paddr;
	for (unsigned i = 0; mods && i < si->nr_modules && i < MODULE_MAX; i++) {
		modules[module_count++] = mods[i];
		mem_reserve(mods[i].paddr, mods[i].size);
	}
	map = (const struct start_map *)si->memmap_paddr;
	if (si->version < 1)
		return;
	for (unsigned i = 0; map && i < si->memmap_entries && i < MAP_MAX; i++) {
		if (map[i].type == MAP_TYPE_RAM)
			mem_add_ram(map[i].addr, map[i].size);
	}
}

const void *boot_module(unsigned i, uint64_t *ret_size)
{
	if (i >= module_count)
		return NULL;
	*ret_size = modules[i].size;
	return (const void *)modules[i].paddr;
}

/* boot.S enters here on every CPU, on its user stack. */
void start_cpu(void)
{
	struct percpu *c = cpu_this();

	if (c->index == 0) {
		trap_init();
		take_start_info();
		cmdline_init(cmdline_copy);
		mem_init();
		clock_init();
		print_init();
		guest_exit(main());
	}
	__atomic_store_n(&c->started, 1, __ATOMIC_RELEASE);
	c->fn(c->arg);
	for (;;)
		guest_wait(guest_events());
}

void guest_exit(int code)
{
	console_drain(clock_ns() + 5000000000ull);
	cpu_out8(0xf4, (uint8_t)code);
	for (;;)
		guest_wait(guest_events());
}

void guest_die(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_v(fmt, ap);
	va_end(ap);
	print("\n");
	guest_exit(code);
}
