/* Says what machine it found, and leaves. With devices=1 it opens every device as well. */
#include "guests/lib/guest.h"

#define FDT_MAGIC 0xd00dfeedu

static void show_devices(void)
{
	uint8_t mac[6], random[8];
	struct netdev *net;
	struct blk *disk;

	for (unsigned i = 0; (disk = blk_open(i)); i++)
		print("disk %u: %lu sectors%s%s%s%s\n", i, blk_sectors(disk),
		      blk_readonly(disk) ? " ro" : "", blk_can(disk, BLK_FLUSH) ? " flush" : "",
		      blk_can(disk, BLK_DISCARD) ? " discard" : "",
		      blk_can(disk, BLK_ZEROES) ? " zeroes" : "");
	for (unsigned i = 0; (net = net_dev_open(i)); i++) {
		net_dev_mac(net, mac);
		print("net %u: %02x:%02x:%02x:%02x:%02x:%02x\n", i, mac[0], mac[1], mac[2], mac[3],
		      mac[4], mac[5]);
	}
	if (rng_read(random, sizeof(random)) == 0)
		print("rng: %02x%02x...\n", random[0], random[1]);
}

int main(void)
{
	const uint32_t *module;
	uint64_t size;

	print("READY\n");
	print("hello from CPL3\n");
	print("memory %lu KiB, %lu KiB free\n", mem_bytes() >> 10, mem_free() >> 10);
	print("cpus %u\n", cpu_count());
	print("clock %s, %lu ns\n", clock_is_kvm() ? "kvmclock" : "tsc", clock_ns());
	print("cmdline ");
	for (const char *text = cmdline_text(); *text; text++)
		print("%c", *text);
	print("\n");
	/* ftvmm's second module; QEMU has at most one. */
	module = boot_module(1, &size);
	if (!module)
		module = boot_module(0, &size);
	if (module && size >= sizeof(*module)) {
		uint32_t magic = __builtin_bswap32(*module);

		print("module %lu bytes, %s %#x\n", size,
		      magic == FDT_MAGIC ? "FDT magic" : "first word", magic);
	}
	if (cmdline_u64("devices", 0))
		show_devices();
	return 0;
}
