#include "ft/common/steps.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/log.h"

#define HOLD_S 20

static const char *const names[] = {
#define X(e, name) name,
	STEP_LIST(X)
#undef X
};

const char *step_name(enum step s)
{
	return s < STEP_MAX ? names[s] : "?";
}

/* The environment is process-wide and constant, and so is what is read from it, once. */
struct at {
	int step; /* -1: none */
	int left;
};

static struct {
	struct at die, stop, hold;
	int holder; /* who is told, and says when to go on; -1: nobody */
} asked = {.holder = -1};

static struct at parse(const char *env)
{
	const char *colon = env ? strchr(env, ':') : NULL;
	size_t len = colon ? (size_t)(colon - env) : env ? strlen(env) : 0;
	struct at at = {-1, colon ? atoi(colon + 1) : 1};

	for (int i = 0; env && i < STEP_MAX; i++)
		if (strlen(names[i]) == len && !strncmp(names[i], env, len))
			at.step = i;
	return at;
}

/* Now: a sandbox would not let it. */
static int connect_to(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct timeval most = {.tv_sec = HOLD_S};
	int fd;

	if (!path || strlen(path) >= sizeof(to.sun_path))
		return -1;
	strcpy(to.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (!connect(fd, (struct sockaddr *)&to, sizeof(to)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most)))
		return fd;
	close(fd);
	return -1;
}

__attribute__((constructor)) static void read_environment(void)
{
	asked.hold = parse(getenv("FTVMM_HOLD_AT"));
	if (asked.hold.step >= 0)
		asked.holder = connect_to(getenv("FTVMM_HOLD"));
	asked.die = parse(getenv("FTVMM_DIE_AT"));
	asked.stop = parse(getenv("FTVMM_STOP_AT"));
}

static bool is_now(struct at *at, enum step s)
{
	if (__builtin_expect((int)s != at->step, 1))
		return false;
	return __atomic_sub_fetch(&at->left, 1, __ATOMIC_RELAXED) == 0;
}

/* Whoever waits for this has given up when it does not say so. */
static void hold(void)
{
	char word = 0;

	if (asked.holder >= 0 && write(asked.holder, &word, 1) == 1 &&
	    read(asked.holder, &word, 1) != 1)
		log_warn("nobody says when to go on from this step");
}

void step_reached(enum step s)
{
	if (is_now(&asked.hold, s))
		hold();
	if (is_now(&asked.stop, s))
		raise(SIGSTOP);
	if (!is_now(&asked.die, s))
		return;
	log_flush();
	kill(getpid(), SIGKILL);
}
