#define _GNU_SOURCE
#include "tests/sim/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/sim/guest.h"
#include "tests/sim/heap.h"
#include "tests/sim/real.h"
#include "tests/sim/swarm.h"

#define PAGE	 4096ul
#define MAPS	 1024u
#define RAMS	 64u
#define KEPT_MAX (8ul << 20) /* a larger one is asked for anew each time */

struct map {
	uint8_t *p; /* NULL: none */
	size_t len;
	const struct proc *of; /* NULL: of the world itself */
	bool kept;	       /* anonymous, and given to the next who asks for as much */
	bool used;
};

struct ram { /* of a guest */
	int fd;
	uint8_t *p;
	size_t len; /* 0: it is new */
	bool open, mapped;
};

/* Not among the program's variables, which heap_rewind() sets back. */
static struct map *maps;
static struct ram *rams;

void memory_init(void)
{
	rams = calloc(RAMS, sizeof(*rams));
	if (heap_is_ours())
		maps = calloc(MAPS, sizeof(*maps));
}

static struct map *find(const void *p)
{
	for (unsigned i = 0; maps && i < MAPS; i++)
		if (maps[i].p == p)
			return &maps[i];
	return NULL;
}

static void *note(void *p, size_t len, bool kept)
{
	struct map *m;

	if (!maps || p == MAP_FAILED)
		return p;
	m = find(p); /* what it lies over now */
	m = m ? m : find(NULL);
	if (!m)
		abort();
	*m = (struct map){.p = p, .len = len, .of = proc_now(), .kept = kept, .used = true};
	return p;
}

/* As new: only what somebody touched can be other than zero. */
static void make_zero(const struct map *m)
{
	size_t pages = m->len / PAGE;
	uint8_t there[KEPT_MAX / PAGE];

	if (mincore(m->p, m->len, there))
		abort();
	for (size_t i = 0; i < pages; i++)
		if (there[i])
			memset(m->p + i * PAGE, 0, PAGE);
}

static void *anonymous(size_t len)
{
	void *p;

	for (unsigned i = 0; i < MAPS; i++)
		if (maps[i].kept && !maps[i].used && maps[i].len == len) {
			maps[i].used = true;
			maps[i].of = proc_now();
			make_zero(&maps[i]);
			return maps[i].p;
		}
	p = REAL(mmap)(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p != MAP_FAILED)
		madvise(p, len, MADV_NOHUGEPAGE);
	return note(p, len, true);
}

/* --- memory of guests ------------------------------------------------------------------------- */

static struct ram *ram_of(int number)
{
	for (unsigned i = 0; i < RAMS && number >= 0; i++)
		if (rams[i].open && rams[i].fd == number)
			return &rams[i];
	return NULL;
}

static struct ram *free_ram(bool unused)
{
	for (unsigned i = 0; i < RAMS; i++)
		if (!rams[i].open && !rams[i].mapped && (rams[i].len == 0) == unused)
			return &rams[i];
	return NULL;
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
	bool keeps = !swarm.moves && !swarm_has(SWARM_COLO);
	struct ram *r = keeps ? free_ram(false) : NULL;
	struct proc *p = proc_now();
	int fd = r ? r->fd : REAL(memfd_create)(name, flags);

	if (fd < 0 || p->nmemory == sizeof(p->memory) / sizeof(p->memory[0]))
		abort();
	p->memory[p->nmemory++] = fd;
	if (keeps && !r) {
		r = free_ram(true);
		if (!r)
			abort();
		*r = (struct ram){.fd = fd};
	}
	if (r)
		r->open = true;
	return fd;
}

bool memory_truncate(int number, off_t len, int *ret)
{
	struct ram *r = ram_of(number);

	if (!r)
		return false;
	if (r->len && r->len != (size_t)len)
		abort();
	*ret = r->len ? 0 : REAL(ftruncate)(number, len);
	r->len = (size_t)len;
	return true;
}

bool memory_seal(int number)
{
	return ram_of(number); /* nobody shrinks it here */
}

bool memory_close(int number)
{
	struct ram *r = ram_of(number);

	if (r)
		r->open = false;
	return r;
}

static void leave_file(int number)
{
	struct ram *r = ram_of(number);

	if (r)
		r->open = r->mapped = false;
	else
		REAL(close)(number);
}

static bool is_zero(const uint8_t *page)
{
	static const uint8_t zeros[PAGE];

	return !memcmp(page, zeros, PAGE);
}

bool memory_seek(int number, off_t off, int whence, off_t *ret)
{
	struct ram *r = ram_of(number);
	size_t at = (size_t)off;

	if (!r || !r->mapped || (whence != SEEK_DATA && whence != SEEK_HOLE))
		return false;
	while (at < r->len && is_zero(r->p + at / PAGE * PAGE) == (whence == SEEK_DATA))
		at = (at / PAGE + 1) * PAGE;
	if (at < r->len || (whence == SEEK_HOLE && (size_t)off < r->len))
		*ret = (off_t)(at < r->len ? at : r->len);
	else
		*ret = fail(ENXIO);
	return true;
}

static void *map_ram(struct ram *r, int prot, int flags)
{
	bool recycled = r->p, shut = recycled && !heap_is_ours();

	if (!recycled)
		r->p = REAL(mmap)(NULL, r->len, prot, flags, r->fd, 0);
	if (r->p == MAP_FAILED || (shut && mprotect(r->p, r->len, prot) < 0))
		abort();
	for (size_t at = 0; recycled && at < r->len; at += PAGE)
		if (!is_zero(r->p + at))
			memset(r->p + at, 0, PAGE);
	r->mapped = true;
	return r->p;
}

static bool unmap_ram(const void *p, size_t len)
{
	for (unsigned i = 0; i < RAMS; i++)
		if (rams[i].mapped && rams[i].p == p && rams[i].len == len) {
			rams[i].mapped = false;
			/* Who touches it now is found there; else that takes too long. */
			return heap_is_ours() || !mprotect(rams[i].p, len, PROT_NONE);
		}
	return false;
}

/* --- the calls -------------------------------------------------------------------------------- */

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int number, off_t off)
{
	bool any = flags & MAP_ANONYMOUS && !addr && !(len % PAGE) && len <= KEPT_MAX;
	struct ram *r = ram_of(number);

	if (vcpu_is(number)) {
		flags = MAP_PRIVATE | MAP_ANONYMOUS;
		addr = maps ? anonymous(len) : REAL(mmap)(addr, len, prot, flags, -1, 0);
		vcpu_mapped(number, addr);
		return addr;
	}
	if (r && !r->mapped && !addr && len == r->len && flags & MAP_SHARED)
		return map_ram(r, prot, flags);
	if (maps && any && prot == (PROT_READ | PROT_WRITE))
		return anonymous(len);
	return note(REAL(mmap)(addr, len, prot, flags, number, off), len, false);
}

void *__wrap_mremap(void *old, size_t len, size_t new_len, int flags, ...)
{
	struct map *m = find(old);
	void *to, *p;
	va_list ap;

	va_start(ap, flags);
	to = va_arg(ap, void *);
	va_end(ap);
	p = REAL(mremap)(old, len, new_len, flags, to);
	if (m && p != MAP_FAILED) /* what it lies over now is noted already */
		*m = (struct map){0};
	return p;
}

int __wrap_munmap(void *addr, size_t len)
{
	struct map *m = find(addr);

	if (unmap_ram(addr, len))
		return 0;
	if (m && m->kept && m->len == len) {
		m->used = false;
		return 0;
	}
	if (m)
		*m = (struct map){0};
	return REAL(munmap)(addr, len);
}

void memory_leave(struct proc *p)
{
	while (p->nmemory)
		leave_file(p->memory[--p->nmemory]);
	for (unsigned i = 0; maps && i < MAPS; i++) {
		struct map *m = &maps[i];

		if (!m->p || m->of != p)
			continue;
		if (!m->kept)
			REAL(munmap)(m->p, m->len);
		*m = m->kept ? (struct map){.p = m->p, .len = m->len, .kept = true}
			     : (struct map){0};
	}
}
