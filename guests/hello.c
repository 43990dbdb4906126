/* Says what machine it found, and leaves. */
#include "guests/lib/guest.h"

#define FDT_MAGIC 0xd00dfeedu

int main(void)
{
	const uint32_t *module;
	uint64_t size;

	print("READY\n");
	print("hello from CPL3\n");
	print("memory %lu KiB, %lu KiB free\n", mem_bytes() >> 10, mem_free() >> 10);
	print("cpus %u\n", cpu_count());
	print("clock %s, %lu ns\n", clock_is_kvm() ? "kvmclock" : "tsc", clock_ns());
	print("cmdline %s\n", cmdline_text());
	module = boot_module(0, &size);
	if (module && size >= sizeof(*module)) {
		uint32_t magic = __builtin_bswap32(*module);

		print("module %lu bytes, %s %#x\n", size,
		      magic == FDT_MAGIC ? "FDT magic" : "first word", magic);
	}
	return 0;
}
