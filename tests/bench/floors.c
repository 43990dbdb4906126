/*
 * What this machine can do without a virtual machine monitor, measured in the same run as the
 * figures that are compared with it. One JSON object on standard output.
 *
 *	floors memcpy row|scattered PAGES ROUNDS REST_US
 *		copy PAGES 4 KiB pages that lie in a row or far apart, as a checkpoint does
 *	floors tcp SECONDS
 *		bulk throughput of one loopback connection
 *	floors rtt ROUNDS
 *		there and back over one loopback connection, 40 bytes each way
 *	floors kick ROUNDS
 *		a signal takes a thread out of a system call, until it has said so
 *	floors nap ROUNDS
 *		how late a thread of the loop's priority wakes from a millisecond's sleep
 *	floors death ROUNDS
 *		SIGKILL of a process until another sees the end of its connection
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE	 4096u
#define RAM	 (64u << 20)
#define FAR	 7919u /* prime: neighbours are far apart, all RAM is used */
#define CHUNK	 (256u << 10)
#define NS_PER_S 1000000000ull
#define NAP_NS	 1000000

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "floors: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* --- memcpy ----------------------------------------------------------------------------------- */

/*
 * The pages are written by another thread between two copies, because a checkpoint copies what a
 * vCPU has just written, and the copying thread wakes from a timer, because a checkpoint does too.
 */
struct copy {
	uint8_t *ram, *staging;
	unsigned pages, stride;
	atomic_bool stop;
	atomic_uint asked, done; /* rounds of writing */
};

static uint8_t *page_of(const struct copy *c, unsigned i)
{
	return c->ram + (uint64_t)i * c->stride % (RAM / PAGE) * PAGE;
}

static void *guest(void *arg)
{
	struct copy *c = arg;

	while (!atomic_load(&c->stop)) {
		if (atomic_load(&c->asked) == atomic_load(&c->done)) {
			usleep(50);
			continue;
		}
		for (unsigned i = 0; i < c->pages; i++)
			for (unsigned w = 0; w < 8; w++)
				((uint64_t *)page_of(c, i))[2 + w] += i + w;
		atomic_fetch_add(&c->done, 1);
	}
	return NULL;
}

static uint64_t copy_once(struct copy *c)
{
	uint64_t start = now_ns();

	for (unsigned i = 0; i < c->pages; i++)
		memcpy(c->staging + (uint64_t)i * PAGE, page_of(c, i), PAGE);
	__asm__ volatile("" : : "r"(c->staging) : "memory");
	return now_ns() - start;
}

static int run_memcpy(unsigned stride, unsigned pages, unsigned rounds, unsigned rest_us)
{
	int fd = memfd_create("floors-ram", 0);
	struct copy c = {.pages = pages, .stride = stride};
	uint64_t *ns = calloc(rounds, sizeof(*ns));
	pthread_t t;

	if (!pages || pages > RAM / PAGE || !rounds || !ns) {
		errno = EINVAL;
		die("memcpy");
	}
	if (fd < 0 || ftruncate(fd, RAM))
		die("memfd");
	c.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	c.staging = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (c.ram == MAP_FAILED || c.staging == MAP_FAILED)
		die("mmap");
	if (pthread_create(&t, NULL, guest, &c))
		die("thread");
	for (unsigned r = 0; r < rounds; r++) {
		atomic_fetch_add(&c.asked, 1);
		while (atomic_load(&c.done) != atomic_load(&c.asked))
			usleep(rest_us);
		usleep(rest_us);
		ns[r] = copy_once(&c);
	}
	atomic_store(&c.stop, true);
	pthread_join(t, NULL);
	qsort(ns, rounds, sizeof(*ns), compare);
	printf("{\"pages\": %u, \"min_us\": %.2f, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", pages,
	       ns[0] / 1e3, ns[rounds / 2] / 1e3, ns[rounds * 99 / 100] / 1e3);
	return 0;
}

/* --- tcp -------------------------------------------------------------------------------------- */

static void *send_all(void *arg)
{
	int fd = *(int *)arg;
	uint8_t *buf = malloc(CHUNK);

	if (!buf)
		die("memory");
	memset(buf, 0x5a, CHUNK);
	while (send(fd, buf, CHUNK, MSG_NOSIGNAL) > 0)
		;
	free(buf);
	return NULL;
}

static void connect_pair(int *ret_from, int *ret_to)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (l < 0 || bind(l, (struct sockaddr *)&sa, sizeof(sa)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&sa, &len))
		die("listen on loopback");
	*ret_from = socket(AF_INET, SOCK_STREAM, 0);
	if (*ret_from < 0 || connect(*ret_from, (struct sockaddr *)&sa, sizeof(sa)))
		die("connect");
	*ret_to = accept(l, NULL, NULL);
	if (*ret_to < 0)
		die("accept");
	close(l);
}

static int run_tcp(double seconds)
{
	uint64_t start, until, bytes = 0;
	uint8_t *buf = malloc(CHUNK);
	int from, to;
	pthread_t t;

	if (!buf)
		die("memory");
	connect_pair(&from, &to);
	if (pthread_create(&t, NULL, send_all, &from))
		die("thread");
	start = now_ns();
	until = start + (uint64_t)(seconds * 1e9);
	while (now_ns() < until) {
		ssize_t n = recv(to, buf, CHUNK, 0);

		if (n <= 0)
			die("recv");
		bytes += (uint64_t)n;
	}
	printf("{\"mib_per_s\": %.1f}\n", bytes / 1048576.0 / ((now_ns() - start) / 1e9));
	close(to);
	pthread_join(t, NULL);
	close(from);
	free(buf);
	return 0;
}

/* --- rtt, kick, nap, death
 * ------------------------------------------------------------------------- */

static uint64_t *new_samples(unsigned rounds)
{
	uint64_t *ns = calloc(rounds ? rounds : 1, sizeof(*ns));

	if (!rounds || !ns) {
		errno = EINVAL;
		die("rounds");
	}
	return ns;
}

static void print_samples(uint64_t *ns, unsigned rounds)
{
	qsort(ns, rounds, sizeof(*ns), compare);
	printf("{\"rounds\": %u, \"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f}\n", rounds,
	       ns[rounds / 2] / 1e3, ns[(rounds - 1) * 99 / 100] / 1e3, ns[rounds - 1] / 1e3);
	free(ns);
}

#define MESSAGE 40 /* bytes of a frame without payload */

static void *answer(void *arg)
{
	char buf[MESSAGE];

	while (recv(*(int *)arg, buf, MESSAGE, MSG_WAITALL) == MESSAGE)
		if (send(*(int *)arg, buf, MESSAGE, MSG_NOSIGNAL) != MESSAGE)
			break;
	return NULL;
}

static int run_rtt(unsigned rounds)
{
	uint64_t *ns = new_samples(rounds);
	char buf[MESSAGE] = {0};
	int here, there, on = 1;
	pthread_t t;

	connect_pair(&here, &there);
	setsockopt(here, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(there, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (pthread_create(&t, NULL, answer, &there))
		die("thread");
	for (unsigned r = 0; r < rounds; r++) {
		uint64_t start = now_ns();

		if (send(here, buf, MESSAGE, MSG_NOSIGNAL) != MESSAGE ||
		    recv(here, buf, MESSAGE, MSG_WAITALL) != MESSAGE)
			die("rtt");
		ns[r] = now_ns() - start;
	}
	shutdown(here, SHUT_RDWR);
	pthread_join(t, NULL);
	close(here);
	close(there);
	print_samples(ns, rounds);
	return 0;
}

struct kicked {
	sem_t out, go;
	atomic_bool stop;
};

static void on_kick(int sig)
{
}

/* As a vCPU of an idle guest: in the kernel, where alone the signal reaches it. */
static void *wait_for_kick(void *arg)
{
	struct kicked *k = arg;
	sigset_t none;

	sigemptyset(&none);
	while (!atomic_load(&k->stop)) {
		ppoll(NULL, 0, NULL, &none);
		sem_post(&k->out);
		while (sem_wait(&k->go))
			;
	}
	return NULL;
}

static int run_kick(unsigned rounds)
{
	uint64_t *ns = new_samples(rounds);
	struct sigaction sa = {.sa_handler = on_kick};
	struct kicked k = {.stop = false};
	sigset_t usr1;
	pthread_t t;

	sem_init(&k.out, 0, 0);
	sem_init(&k.go, 0, 0);
	sigaction(SIGUSR1, &sa, NULL);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	if (pthread_create(&t, NULL, wait_for_kick, &k))
		die("thread");
	for (unsigned r = 0; r < rounds; r++) {
		uint64_t start;

		usleep(2000);
		start = now_ns();
		pthread_kill(t, SIGUSR1);
		while (sem_wait(&k.out))
			;
		ns[r] = now_ns() - start;
		if (r + 1 == rounds)
			atomic_store(&k.stop, true);
		sem_post(&k.go);
	}
	pthread_join(t, NULL);
	print_samples(ns, rounds);
	return 0;
}

static int run_nap(unsigned rounds)
{
	uint64_t *ns = new_samples(rounds);
	struct sched_param p = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_RR, &p))
		fprintf(stderr, "floors: at an ordinary priority: %s\n", strerror(errno));
	for (unsigned r = 0; r < rounds; r++) {
		struct timespec rest = {.tv_nsec = NAP_NS};
		uint64_t due = now_ns() + NAP_NS, now;

		nanosleep(&rest, NULL);
		now = now_ns();
		ns[r] = now > due ? now - due : 0;
	}
	print_samples(ns, rounds);
	return 0;
}

static int run_death(unsigned rounds)
{
	uint64_t *ns = new_samples(rounds);

	for (unsigned r = 0; r < rounds; r++) {
		int here, there;
		uint64_t start;
		char byte;
		pid_t pid;

		connect_pair(&here, &there);
		pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid) {
			close(here);
			for (;;)
				pause();
		}
		close(there);
		usleep(2000);
		start = now_ns();
		kill(pid, SIGKILL);
		if (recv(here, &byte, 1, 0) > 0)
			die("death");
		ns[r] = now_ns() - start;
		waitpid(pid, NULL, 0);
		close(here);
	}
	print_samples(ns, rounds);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "memcpy"))
		return run_memcpy(!strcmp(argv[2], "row") ? 1 : FAR, (unsigned)atoi(argv[3]),
				  (unsigned)atoi(argv[4]), (unsigned)atoi(argv[5]));
	if (argc == 3 && !strcmp(argv[1], "tcp"))
		return run_tcp(atof(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "rtt"))
		return run_rtt((unsigned)atoi(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "kick"))
		return run_kick((unsigned)atoi(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "nap"))
		return run_nap((unsigned)atoi(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "death"))
		return run_death((unsigned)atoi(argv[2]));
	fprintf(stderr,
		"usage: floors memcpy row|scattered PAGES ROUNDS REST_US | floors tcp SECONDS | "
		"floors rtt|kick|nap|death ROUNDS\n");
	return 2;
}
