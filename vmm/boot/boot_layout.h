/*
 * Where boot data lies in guest memory. All of it is below 1 MiB and is the guest's to reuse once
 * it runs, except the ACPI area, which the memory map reserves.
 */
#ifndef VMM_BOOT_LAYOUT_H
#define VMM_BOOT_LAYOUT_H

#define GDT_GPA		 0x500ull
#define START_INFO_GPA	 0x6000ull
#define MODLIST_GPA	 0x6100ull
#define MEMMAP_GPA	 0x6200ull
#define CMDLINE_GPA	 0x7000ull
#define ZERO_PAGE_GPA	 0x8000ull
#define PML4_GPA	 0x9000ull /* then one page of 1 GiB entries, then 4 of 2 MiB entries */
#define SETUP_DATA_GPA	 0xfff0ull /* struct setup_data; its payload is the device tree */
#define FDT_GPA		 0x10000ull
#define LOW_RAM_END	 0x9fc00ull
#define ACPI_GPA	 0xe0000ull /* the RSDP; kernels without a boot protocol look for it here */
#define ACPI_BYTES	 0xf000u
#define GENID_GPA	 0xef000ull /* page of the VM generation ID */
#define RESET_VECTOR_GPA 0xffff0ull /* F000:FFF0, where a PC without other means is reset */
#define KERNEL_MIN_GPA	 0x100000ull

#endif
