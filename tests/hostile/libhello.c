/* Hellos that ask for machines which cannot or must not be. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/wire.h"
#include "tests/hostile/hostile.h"
#include "vmm/machine/fdt.h"
#include "vmm/machine/machine.h"

#define FDT_HEADER 40 /* bytes */

/* Play one hello alone; it must be refused with words. */
static void refuse_hello(struct attack *a, const char *what, const void *data, uint32_t n)
{
	uint64_t session = a->tape.preface.session;
	struct bytes b = {0};
	struct call c = {0};

	bytes_preface(&b, STREAM_MAIN, session);
	bytes_frame(&b, (struct frame_hdr){.type = FRAME_HELLO, .session = session}, data, n);
	a->sessions++;
	/* Without an answer it came while the session before was tidied up. */
	for (int tries = 0; tries < 200 && !c.refusal[0] && !c.welcomed; tries++)
		if (!call_play(a->uri, &b, session, 0, false, &c))
			break;
	if (c.welcomed || !c.ended || strlen(c.refusal) < 8)
		attack_fail(a, "%s: %s '%s'", what, c.welcomed ? "welcomed" : "not refused",
			    c.refusal);
	bytes_free(&b);
}

static uint8_t *hello_copy(const struct attack *a, struct wire_hello *h, uint32_t *ret_len)
{
	const struct shot *s = &a->tape.f[0];
	uint8_t *p = malloc(s->h.length + FDT_MAX_BYTES);

	if (!p)
		abort();
	memcpy(p, s->data, s->h.length);
	memcpy(h, p, sizeof(*h));
	*ret_len = s->h.length;
	return p;
}

static void refuse_values(struct attack *a)
{
	struct wire_hello good, h;
	uint32_t len;
	uint8_t *p = hello_copy(a, &good, &len);

#define BAD(field, value)                                                                          \
	do {                                                                                       \
		h = good;                                                                          \
		h.field = (value);                                                                 \
		memcpy(p, &h, sizeof(h));                                                          \
		refuse_hello(a, #field " = " #value, p, len);                                      \
	} while (0)
	BAD(generation, 0);
	BAD(generation, INT64_MAX);
	BAD(generation, UINT64_MAX);
	BAD(heartbeat_ns, 0);
	BAD(heartbeat_ns, UINT64_MAX);
	BAD(heartbeat_ns, h.peer_timeout_ns + 1);
	BAD(peer_timeout_ns, 0);
	BAD(peer_timeout_ns, UINT64_MAX);
	BAD(disklog_bytes, UINT64_MAX);
	BAD(disklog_bytes, 1ull << 40);
	BAD(shared_arbiter, 2);
	BAD(shared_arbiter, h.shared_arbiter ^ 1);
	BAD(verify, 2);
	BAD(verify, UINT32_MAX);
	BAD(fdt_bytes, 0);
	BAD(fdt_bytes, h.fdt_bytes + 1);
	BAD(fdt_bytes, h.fdt_bytes - 1);
	BAD(fdt_bytes, UINT32_MAX);
#undef BAD
	for (uint32_t n = 0; n <= sizeof(h); n += 8)
		refuse_hello(a, "short", p, n);
	free(p);
}

static void refuse_machine(struct attack *a, const char *what, const struct machine *m)
{
	struct wire_hello h;
	uint32_t len;
	uint8_t *p = hello_copy(a, &h, &len);
	int n = fdt_build(m, p + sizeof(h), FDT_MAX_BYTES, NULL);

	if (n > 0) {
		h.fdt_bytes = (uint32_t)n;
		memcpy(p, &h, sizeof(h));
		refuse_hello(a, what, p, (uint32_t)(sizeof(h) + (size_t)n));
	}
	free(p);
}

static void machine_of(const struct attack *a, struct machine *m)
{
	struct err e = {0};

	if (fdt_parse(a->tape.f[0].data + sizeof(struct wire_hello),
		      a->tape.f[0].h.length - sizeof(struct wire_hello), m, &e)) {
		fprintf(stderr, "hostile: the recorded hello: %s\n", e.msg);
		exit(2);
	}
}

static void refuse_machines(struct attack *a)
{
	struct machine good, m;
	unsigned d = 0;

	machine_of(a, &good);
	while (d < good.ndevs && good.devs[d].kind != MDEV_BLK)
		d++;
#define BAD(what, change)                                                                          \
	do {                                                                                       \
		m = good;                                                                          \
		change;                                                                            \
		refuse_machine(a, what, &m);                                                       \
	} while (0)
	BAD("1 TiB of memory", m.mem_bytes = 1ull << 40);
	BAD("64 TiB of memory", m.mem_bytes = 1ull << 46);
	BAD("no memory", m.mem_bytes = 0);
	BAD("1 MiB of memory", m.mem_bytes = 1u << 20);
	BAD("odd memory", m.mem_bytes += 4096);
	BAD("no vCPU", m.vcpus = 0);
	BAD("nine vCPUs", m.vcpus = MACHINE_MAX_VCPUS + 1);
	BAD("4096 vCPUs", m.vcpus = 4096);
	BAD("no CPUID", m.ncpuid = 0);
	BAD("AMX and nested VMs", m.cpuid[m.ncpuid++] = (struct machine_cpuid){.function = 0x1d});
	for (unsigned i = 0; i < good.ncpuid; i++)
		if (good.cpuid[i].function == 1)
			BAD("every CPU feature", m.cpuid[i].ecx = ~0u);
	for (unsigned i = 0; i < good.ncpuid; i++)
		if (good.cpuid[i].function == 0)
			BAD("another vendor", m.cpuid[i].ebx = 0x41414141);
	BAD("a TSC twice as fast", m.tsc_khz *= 2);
	BAD("a TSC of 100 GHz", m.tsc_khz = 100000000);
	BAD("a TSC that stands still", m.tsc_khz = 0);
	BAD("name with escapes", strcpy(m.name, "\033[2Jvm"));
	BAD("name that is no UTF-8", strcpy(m.name, "\xff\xfe"));
	BAD("no name", m.name[0] = 0);
	BAD("a device at another place", m.devs[0].gpa += 0x1000);
	BAD("a device at the APIC", m.devs[0].gpa = 0xfee00000);
	BAD("a device at the end", m.devs[0].gpa = UINT64_MAX - 0xfff);
	BAD("a device with another interrupt", m.devs[0].gsi = 0);
	BAD("an interrupt that does not exist", m.devs[0].gsi = UINT32_MAX);
	if (d == good.ndevs)
		return;
	BAD("a disk that is not here", strcpy(m.devs[d].id, "nodisk"));
	BAD("a disk's name with a path", strcpy(m.devs[d].id, "../../etc/passwd"));
	BAD("a disk of 1 PiB", m.devs[d].bytes = 1ull << 50);
	BAD("a disk of 2^63 bytes", m.devs[d].bytes = 1ull << 63);
	BAD("a disk of no bytes", m.devs[d].bytes = 0);
	BAD("a disk of an odd size", m.devs[d].bytes += 1);
	BAD("a disk of another size", m.devs[d].bytes += 512);
	BAD("a read-only mirror", m.devs[d].readonly = true);
	BAD("two disks of one name", m.devs[m.ndevs] = m.devs[d];
	    m.devs[m.ndevs].gpa = MACHINE_MMIO_BASE + m.ndevs * MACHINE_MMIO_STEP;
	    m.devs[m.ndevs].gsi = MACHINE_GSI_BASE + m.ndevs; m.ndevs++);
	BAD("a network that is not here", m.devs[m.ndevs] = m.devs[d];
	    strcpy(m.devs[m.ndevs].id, "nonet"); m.devs[m.ndevs].kind = MDEV_NET;
	    m.devs[m.ndevs].gpa = MACHINE_MMIO_BASE + m.ndevs * MACHINE_MMIO_STEP;
	    m.devs[m.ndevs].gsi = MACHINE_GSI_BASE + m.ndevs; m.ndevs++);
#undef BAD
}

void attack_hello(struct attack *a)
{
	refuse_values(a);
	refuse_machines(a);
}

/* A device tree with random bytes in it: refused, or the machine that it describes now. */
void attack_fdt(struct attack *a)
{
	for (unsigned i = 0; i < 60 * a->scale; i++) {
		struct tape t;
		struct shot *s;
		struct bytes b = {0};
		struct call c;

		tape_copy(&t, &a->tape);
		while (t.n > 1)
			tape_remove(&t, 1);
		s = &t.f[0];
		for (uint64_t n = 1 + random_below(4); n; n--) {
			uint64_t len = s->h.length - sizeof(struct wire_hello);
			/* Most of it is numbers of CPUID: its header gets its share, too. */
			uint64_t at = sizeof(struct wire_hello) +
				      random_below(random_below(4) ? len : FDT_HEADER);

			s->data[at] =
				(uint8_t)(random_below(2) ? s->data[at] ^ (1u << random_below(8))
							  : random_next());
		}
		tape_write(&t, &b);
		a->sessions++;
		if (!call_play(a->uri, &b, t.preface.session, 0, false, &c))
			attack_fail(a, "no end");
		bytes_free(&b);
		tape_free(&t);
	}
}
