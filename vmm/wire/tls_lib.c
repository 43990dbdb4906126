#include "vmm/wire/tls_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define LIBRARY "libssl.so.3"

/* Threads may still be at work when the process ends: nothing is taken down by then. */
#define INIT (OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_LOAD_SSL_STRINGS)

int tls_lib_load(struct tls_lib *l, struct err *e)
{
#define NAME(name) #name,
	static const char *const names[] = {TLS_FUNCTIONS(NAME)};
#undef NAME
	void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_NODELETE);

	_Static_assert(sizeof(*l) == sizeof(names), "a pointer for each name");
	if (!lib)
		return err_set(e, -ENOENT, "TLS needs OpenSSL 3: %s (apt-get install libssl3)",
			       dlerror());
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		void *function = dlsym(lib, names[i]);

		if (!function)
			return err_set(e, -ENOENT, "%s has no %s: OpenSSL 3.0 or newer is needed",
				       LIBRARY, names[i]);
		memcpy((char *)l + i * sizeof(function), &function, sizeof(function));
	}
	if (!l->OPENSSL_init_ssl(INIT, NULL))
		return err_set(e, -EIO, "%s: %s", LIBRARY, tls_lib_why(l));
	return 0;
}

const char *tls_lib_why(const struct tls_lib *l)
{
	unsigned long code = l->ERR_peek_error();
	const char *text = code ? l->ERR_reason_error_string(code) : NULL;

	l->ERR_clear_error();
	return text ? text : "no reason is known";
}

void *tls_lib_owner(const SSL *ssl)
{
	void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_NOLOAD), *function;
	typeof(SSL_get_ex_data) *get;

	function = dlsym(lib, "SSL_get_ex_data");
	dlclose(lib);
	memcpy(&get, &function, sizeof(get));
	return get(ssl, 0);
}
