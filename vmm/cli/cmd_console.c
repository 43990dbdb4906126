#include "vmm/cli/cmd_console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/cli/ctl_sock.h"
#include "vmm/base/loop.h"

#define CONNECT_MS 5000
#define HANG_UP_MS 1000
#define ESCAPE	   0x1d /* Ctrl-] */
#define LOOK_MS	   500	/* until a signal is looked for that came right before the wait */

struct terminal {
	int sock;
	bool is_tty, input_ended, left;
	struct termios before;
	char out[4096]; /* typed, on its way to the guest */
	size_t out_len;
};

static volatile sig_atomic_t signalled;

static void on_signal(int sig)
{
	signalled = sig;
}

/* Without SA_RESTART: poll() returns, and the terminal is put back. */
static void watch_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction sa = {.sa_handler = on_signal};

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &sa, NULL);
}

/* Every key is the guest's, but lines that it ends without a carriage return look right. */
static void make_raw(struct terminal *t)
{
	struct termios raw;

	t->is_tty = !tcgetattr(STDIN_FILENO, &t->before);
	if (!t->is_tty)
		return;
	raw = t->before;
	cfmakeraw(&raw);
	raw.c_oflag = t->before.c_oflag;
	signal(SIGTSTP, SIG_IGN); /* whoever stops us would have a terminal that is raw */
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static void take_typed(struct terminal *t)
{
	ssize_t n = read(STDIN_FILENO, t->out, sizeof(t->out));
	char *escape = n > 0 && t->is_tty ? memchr(t->out, ESCAPE, (size_t)n) : NULL;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		t->input_ended = true;
	else
		t->out_len = escape ? (size_t)(escape - t->out) : (size_t)n;
	t->left = escape || (t->input_ended && t->is_tty); /* it was hung up */
}

/* False: the VM has closed the console, or nobody reads what we write. */
static bool show(struct terminal *t)
{
	char buf[4096];
	ssize_t n = read(t->sock, buf, sizeof(buf)), done = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	while (done < n) {
		struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
		ssize_t w = write(STDOUT_FILENO, buf + done, (size_t)(n - done));

		if (w == 0 || (w < 0 && errno != EAGAIN && errno != EINTR) || signalled)
			return false;
		if (w < 0)
			poll(&p, 1, LOOK_MS);
		else
			done += w;
	}
	return n > 0;
}

static void send_typed(struct terminal *t)
{
	ssize_t n = write(t->sock, t->out, t->out_len);

	if (n <= 0)
		return; /* its end is seen when reading */
	t->out_len -= (size_t)n;
	memmove(t->out, t->out + n, t->out_len);
}

static void talk(struct terminal *t)
{
	while ((!t->left || t->out_len) && !signalled) {
		bool listen = !t->out_len && !t->input_ended && !t->left;
		struct pollfd p[2] = {
			{.fd = t->sock, .events = (short)(POLLIN | (t->out_len ? POLLOUT : 0))},
			{.fd = listen ? STDIN_FILENO : -1, .events = POLLIN}};

		if (poll(p, 2, LOOK_MS) <= 0)
			continue;
		if (p[0].revents & POLLOUT)
			send_typed(t);
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR) && !show(t))
			return;
		if (p[1].revents)
			take_typed(t);
	}
}

/* Closed with output unread, the socket would lose what was typed last: let the VM end it. */
static void hang_up(struct terminal *t)
{
	struct pollfd p = {.fd = t->sock, .events = POLLIN};
	uint64_t until = loop_now_ns() + HANG_UP_MS * 1000000ull;
	char buf[4096];
	ssize_t n = 1;

	shutdown(t->sock, SHUT_WR);
	while (n && !signalled && loop_now_ns() < until && poll(&p, 1, HANG_UP_MS) > 0) {
		n = read(t->sock, buf, sizeof(buf));
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			break;
	}
	close(t->sock);
}

int console_attach(const char *name)
{
	struct terminal t = {0};
	struct sockaddr_un sa;
	struct err e = {0};

	if (ctl_sock_console_addr(name, &sa, &e)) {
		fprintf(stderr, "ftvmm: %s\n", e.msg);
		return 1;
	}
	t.sock = ctl_sock_connect(&sa, CONNECT_MS);
	if (t.sock < 0) {
		if (t.sock == -ENOENT || t.sock == -ECONNREFUSED)
			fprintf(stderr, "ftvmm: no VM named '%s' runs here (`ftvmm status`)\n",
				name);
		else
			fprintf(stderr, "ftvmm: console of '%s': %s\n", name, strerror(-t.sock));
		return t.sock == -ENOENT || t.sock == -ECONNREFUSED ? 1 : 2;
	}
	watch_signals();
	make_raw(&t);
	if (t.is_tty)
		fprintf(stderr, "console of '%s'; Ctrl-] leaves it\n", name);
	talk(&t);
	if (t.is_tty) {
		tcsetattr(STDIN_FILENO, TCSANOW, &t.before);
		fprintf(stderr, "\n%s\n",
			t.left || signalled ? "left the console" : "the console has ended");
	}
	hang_up(&t);
	return 0;
}
