/* The file with a pair's key: 64 hexadecimal digits on a line. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/wire/tls.h"

#define DIGITS (2 * TLS_KEY_BYTES)

static int write_key(int fd, const char *path, struct err *e)
{
	unsigned char key[TLS_KEY_BYTES];
	char text[DIGITS + 2];
	int r = 0;

	if (getrandom(key, sizeof(key), 0) != sizeof(key))
		return err_sys(e, "key '%s': no random numbers", path);
	for (unsigned i = 0; i < TLS_KEY_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", key[i]);
	text[DIGITS] = '\n';
	if (write(fd, text, DIGITS + 1) != DIGITS + 1 || fsync(fd))
		r = err_sys(e, "key '%s'", path);
	explicit_bzero(key, sizeof(key));
	explicit_bzero(text, sizeof(text));
	return r;
}

int tls_make_key(const char *path, struct err *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600), r;

	if (fd < 0)
		return errno == EEXIST
			       ? err_set(e, -EEXIST,
					 "key '%s': exists, and may be in use; take another name",
					 path)
			       : err_sys(e, "key '%s': cannot create", path);
	r = write_key(fd, path, e);
	close(fd);
	if (r)
		unlink(path);
	return r;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse(const char *text, size_t len, unsigned char *key)
{
	if (len && text[len - 1] == '\n')
		len--;
	if (len != DIGITS)
		return -EINVAL;
	for (unsigned i = 0; i < TLS_KEY_BYTES; i++) {
		int hi = digit(text[2 * i]), lo = digit(text[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		key[i] = (unsigned char)(hi << 4 | lo);
	}
	return 0;
}

int tls_read_key(const char *path, unsigned char ret[TLS_KEY_BYTES], struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r = 0;
	char text[DIGITS + 2];
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return err_sys(e, "--tls-psk '%s'", path);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		r = err_set(e, -EINVAL, "--tls-psk '%s': is not a regular file", path);
	else if (st.st_mode & 077)
		r = err_set(e, -EPERM,
			    "--tls-psk '%s': others may read or change it (mode %03o); chmod 600",
			    path, st.st_mode & 0777);
	n = r ? 0 : read(fd, text, sizeof(text));
	if (!r && (n < 0 || parse(text, (size_t)n, ret)))
		r = err_set(e, -EINVAL,
			    "--tls-psk '%s': is not a line of %d hexadecimal digits, as `ftvmm "
			    "key FILE` writes it",
			    path, DIGITS);
	close(fd);
	explicit_bzero(text, sizeof(text));
	return r;
}
