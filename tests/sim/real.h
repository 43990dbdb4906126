/*
 * The simulated kernel stands in by the linker's --wrap for every call of the C library that the
 * program makes and that waits, tells time, draws chance or reaches out of the process. The
 * Makefile finds the names in the __wrap_* of this folder. REAL(name) is the library's own.
 */
#ifndef TESTS_SIM_REAL_H
#define TESTS_SIM_REAL_H

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define REAL(name) __real_##name

struct stat;
void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int __real_munmap(void *addr, size_t len);
void *__real_mremap(void *old, size_t len, size_t new_len, int flags, ...);
int __real_close(int fd);
int __real_open(const char *path, int flags, ...);
ssize_t __real_read(int fd, void *buf, size_t n);
ssize_t __real_write(int fd, const void *buf, size_t n);
ssize_t __real_pread(int fd, void *buf, size_t n, off_t off);
off_t __real_lseek(int fd, off_t off, int whence);
int __real_fstat(int fd, struct stat *st);
int __real_stat(const char *path, struct stat *st);
int __real_access(const char *path, int mode);
int __real_ftruncate(int fd, off_t len);
int __real_fallocate(int fd, int mode, off_t off, off_t len);
int __real_fcntl(int fd, int cmd, ...);
time_t __real_time(time_t *t);
int __real_memfd_create(const char *name, unsigned flags);

#endif
