/*
 * The control socket. The first byte picks: even, a server with more clients than it takes, each of
 * which sends what it likes and reads when it likes; odd, the rest is what a VM answers to a
 * subcommand. Every line that comes back is a JSON object of the protocol.
 */
#include <errno.h>
#include <sys/socket.h>

#include "tests/fuzz/fuzz.h"

#include "vmm/cli/ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/base/log.h"

#define CLIENTS 18
#define KEEP	(2 * CTL_CLIENT_MAX)

struct client {
	int fd;
	size_t have;
	char *got;
};

static struct loop loop;
static struct ctl *ctl;
static struct sockaddr_un addr;
static struct client clients[CLIENTS];

/*
 * Commands: x refuses in the client's words, b answers with much, events follows, other e tell all,
 * others echo.
 */
static json_t *command(void *arg, const char *cmd, json_t *args, struct err *e)
{
	static char much[50000];

	switch (cmd[0]) {
	case 'x':
		err_set(e, -EINVAL, "no command '%s'", cmd);
		return NULL;
	case 'n':
		return NULL;
	case 'b':
		memset(much, 'b', sizeof(much) - 1);
		return json_string(much);
	case 'e':
		if (!strcmp(cmd, "events"))
			ctl_follow(ctl);
		else
			ctl_event(ctl, json_pack("{ss}", "event", cmd));
		return json_object();
	default:
		return json_incref(args);
	}
}

static void start(void)
{
	log_init(LOG_ERROR, "fuzz");
	require(!setenv("XDG_RUNTIME_DIR", fuzz_make_folder(), 1) && !loop_init(&loop, NULL));
	require(!ctl_open(&ctl, &loop, "fz", command, NULL, NULL) &&
		!ctl_sock_addr("fz", &addr, NULL));
	for (unsigned i = 0; i < CLIENTS; i++) {
		clients[i].fd = -1;
		clients[i].got = malloc(KEEP);
		require(clients[i].got != NULL);
	}
}

static void rounds(unsigned n)
{
	while (n--)
		fuzz_turn(&loop);
}

static void check_line(const char *line, size_t n)
{
	json_t *j = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);

	require(json_is_object(j) && (json_object_get(j, "ok") != NULL) +
						     (json_object_get(j, "error") != NULL) +
						     (json_object_get(j, "greeting") != NULL) +
						     (json_object_get(j, "event") != NULL) ==
					     1);
	json_decref(j);
}

static void hang_up(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->have = 0;
}

static void read_lines(struct client *c)
{
	ssize_t n = c->fd < 0 ? -1 : recv(c->fd, c->got + c->have, KEEP - c->have, MSG_DONTWAIT);
	char *end;

	if (n > 0)
		c->have += (size_t)n;
	while ((end = memchr(c->got, '\n', c->have))) {
		size_t len = (size_t)(end - c->got);

		check_line(c->got, len);
		c->have -= len + 1;
		memmove(c->got, end + 1, c->have);
	}
	require(c->have < KEEP);
	if (n == 0)
		hang_up(c);
}

static void put(struct client *c, const void *p, size_t n)
{
	/* No room: what is cut off is one more thing that a client may do. */
	if (c->fd >= 0 && n && send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
	    errno != EAGAIN)
		hang_up(c);
}

static void request(struct client *c, struct input *in)
{
	static const char *const ids[] = {"1",	 "\"a\"", "null", "1.5",
					  "[1]", "-0",	  "{}",	  "9223372036854775807"};
	static const char *const cmds[] = {"\"events\"", "\"x\"",    "\"big\"",	     "\"e\"",
					   "\"status\"", "\"none\"", "\"x\\u00e9\"", "7"};
	unsigned how = (unsigned)take(in, 2), n;
	char text[256];

	n = (unsigned)snprintf(text, sizeof(text), "{\"cmd\":%s%s%s,\"v\":%.*s1%.*s}\n",
			       cmds[how & 7], how & 8 ? ",\"id\":" : "",
			       how & 8 ? ids[how >> 4 & 7] : "", how >> 8 & 15, "[[[[[[[[[[[[[[[",
			       how >> 12 & 15, "]]]]]]]]]]]]]]]");
	put(c, text, n);
}

static void step(struct input *in)
{
	static char xs[16384];
	unsigned c = (unsigned)take(in, 1);
	struct client *cl = &clients[(c & 0x10 ? take(in, 1) : 0) % CLIENTS];
	size_t n;

	if (cl->fd < 0 && (c & 7) < 4)
		cl->fd = ctl_sock_connect(&addr, 0);
	switch (c & 7) {
	case 0:
		request(cl, in);
		break;
	case 1:
		n = take(in, 1);
		put(cl, take_bytes(in, &n), n);
		break;
	case 2:
		n = take(in, 2) % 1024;
		put(cl, take_bytes(in, &n), n);
		put(cl, "\n", 1);
		break;
	case 3:
		memset(xs, c & 8 ? '[' : 'x', sizeof(xs));
		put(cl, xs, sizeof(xs));
		break;
	case 4:
		read_lines(cl);
		break;
	case 5:
		if (c & 8 && cl->fd >= 0)
			shutdown(cl->fd, SHUT_WR);
		else
			hang_up(cl);
		break;
	case 6:
		ctl_event(ctl, json_pack("{si}", "event", (int)c));
		break;
	default:
		break;
	}
	if (c & 0x20)
		rounds(1 + (c >> 6));
}

static void serve(struct input *in)
{
	unsigned n = 0;

	while (in->left && n++ < 200)
		step(in);
	rounds(4);
	for (unsigned i = 0; i < CLIENTS; i++)
		for (unsigned k = 0; clients[i].fd >= 0 && k < 4; k++) {
			read_lines(&clients[i]);
			rounds(1);
		}
	for (unsigned i = 0; i < CLIENTS; i++)
		hang_up(&clients[i]);
	rounds(20); /* a client is seen to go once it has its turn */
}

static void ask(struct input *in)
{
	struct ctl_client *c = malloc(sizeof(*c));
	struct err e = {0};
	char *line;
	json_t *ok;
	int sv[2];

	require(c && !socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv));
	c->fd = sv[0];
	c->name = "fz";
	c->greeted = false;
	c->len = c->used = 0;
	if (in->left && write(sv[1], in->p, in->left) < 0)
		require(errno == EAGAIN);
	require(!shutdown(sv[1], SHUT_WR));
	ok = ctl_client_call(c, json_pack("{ss}", "cmd", "status"), 1000, &e);
	require(ok || e.msg[0]);
	json_decref(ok);
	while (!ctl_client_line(c, 1000, &line, &e) && line)
		require(c->used <= c->len && strlen(line) < c->len);
	ctl_client_close(c);
	close(sv[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	if (!ctl)
		start();
	if (take(&in, 1) & 1)
		ask(&in);
	else
		serve(&in);
	return 0;
}
