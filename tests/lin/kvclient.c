/*
 * kvclient: load on the kv guest and a record of what its clients saw. See README.md.
 * Exit codes: 0 ran, 1 a byte stream or reply was wrong or a connection lost, 2 could not run.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <fcntl.h>
#include <unistd.h>

#include "guests/kv_proto.h"
#include "guests/stream_proto.h"
#include "tests/lin/load.h"

#define MS	     ((uint64_t)1000000)
#define KVCLIENT_MAX 1024

static const char usage[] =
	"usage: kvclient --server IP[:PORT] [options]\n"
	"  --udp N --tcp N       kv clients of each kind (default 2 and 2)\n"
	"  --echo N --stream N   byte-stream clients (default 0)\n"
	"  --ops TOTAL           end after so many operations\n"
	"  --seconds S           end after that time; else at SIGTERM, or SIGINT: without --drain\n"
	"  --keys K              registers used (default 16)\n"
	"  --rate OPS            operations per second and client (default: no pause)\n"
	"  --echo-rate BYTES     per second and echo client (default 20000, 0: no pause)\n"
	"  --window BYTES        an echo client has in flight (default 4096)\n"
	"  --bytes BYTES         then a byte-stream client has done its work (default 0: never)\n"
	"  --stream-rate BYTES   per second and stream client (default 200000, 0: no pause)\n"
	"  --echo-port P --stream-port P   (default 7 and 9)\n"
	"  --timeout MS          then a UDP operation is given up (default 1000)\n"
	"  --drain MS            operations in flight get at the end (default 2000)\n"
	"  --connect-timeout MS  for TCP connections (default 10000)\n"
	"  --seed S --client-base N        (default 1 and 1)\n"
	"  --history FILE        record every operation\n"
	"  --status FILE|FD      one JSON line per second\n"
	"A final JSON summary goes to standard output.\n";

enum {
	OPT_SERVER = 1,
	OPT_UDP,
	OPT_TCP,
	OPT_ECHO,
	OPT_STREAM,
	OPT_OPS,
	OPT_SECONDS,
	OPT_KEYS,
	OPT_RATE,
	OPT_ECHO_RATE,
	OPT_WINDOW,
	OPT_BYTES,
	OPT_ECHO_PORT,
	OPT_STREAM_PORT,
	OPT_STREAM_RATE,
	OPT_TIMEOUT,
	OPT_DRAIN,
	OPT_CONNECT,
	OPT_SEED,
	OPT_BASE,
	OPT_HISTORY,
	OPT_STATUS,
	OPT_HELP,
};

static const struct option options[] = {
	{"server", required_argument, NULL, OPT_SERVER},
	{"udp", required_argument, NULL, OPT_UDP},
	{"tcp", required_argument, NULL, OPT_TCP},
	{"echo", required_argument, NULL, OPT_ECHO},
	{"stream", required_argument, NULL, OPT_STREAM},
	{"stream-port", required_argument, NULL, OPT_STREAM_PORT},
	{"stream-rate", required_argument, NULL, OPT_STREAM_RATE},
	{"ops", required_argument, NULL, OPT_OPS},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"keys", required_argument, NULL, OPT_KEYS},
	{"rate", required_argument, NULL, OPT_RATE},
	{"echo-rate", required_argument, NULL, OPT_ECHO_RATE},
	{"window", required_argument, NULL, OPT_WINDOW},
	{"bytes", required_argument, NULL, OPT_BYTES},
	{"echo-port", required_argument, NULL, OPT_ECHO_PORT},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"drain", required_argument, NULL, OPT_DRAIN},
	{"connect-timeout", required_argument, NULL, OPT_CONNECT},
	{"seed", required_argument, NULL, OPT_SEED},
	{"client-base", required_argument, NULL, OPT_BASE},
	{"history", required_argument, NULL, OPT_HISTORY},
	{"status", required_argument, NULL, OPT_STATUS},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

struct kvclient {
	struct load load;
	double seconds;
	const char *history, *status;
	int statusfd, sigfd;
	uint64_t start;
	struct load_client client[KVCLIENT_MAX];
	pthread_t thread[KVCLIENT_MAX];
	unsigned n;
};

static bool kvclient_parse_server(struct load_config *cfg, const char *arg)
{
	const char *colon = strchr(arg, ':');
	size_t len = colon ? (size_t)(colon - arg) : strlen(arg);
	char host[64];
	long port = colon ? strtol(colon + 1, NULL, 10) : KV_PORT;

	if (len >= sizeof(host) || port < 1 || port > 65535)
		return false;
	memcpy(host, arg, len);
	host[len] = 0;
	cfg->server.sin_family = AF_INET;
	cfg->server.sin_port = htons((uint16_t)port);
	return inet_pton(AF_INET, host, &cfg->server.sin_addr) == 1;
}

static int kvclient_set(struct kvclient *k, int opt, const char *arg)
{
	struct load_config *cfg = &k->load.cfg;
	char *end = NULL;
	double num = 0;

	if (opt == OPT_SERVER)
		return kvclient_parse_server(cfg, arg) ? 0 : -1;
	if (opt == OPT_HISTORY || opt == OPT_STATUS) {
		*(opt == OPT_HISTORY ? &k->history : &k->status) = arg;
		return 0;
	}
	num = arg ? strtod(arg, &end) : 0;
	if (!arg || end == arg || *end || !(num >= 0) || num > 1e15)
		return -1;
	switch (opt) {
	case OPT_UDP:
		cfg->udp = (unsigned)num;
		break;
	case OPT_TCP:
		cfg->tcp = (unsigned)num;
		break;
	case OPT_ECHO:
		cfg->echo = (unsigned)num;
		break;
	case OPT_STREAM:
		cfg->stream = (unsigned)num;
		break;
	case OPT_STREAM_PORT:
		cfg->stream_port = (uint16_t)num;
		break;
	case OPT_STREAM_RATE:
		cfg->stream_rate = num;
		break;
	case OPT_OPS:
		cfg->ops = (uint64_t)num;
		break;
	case OPT_SECONDS:
		k->seconds = num;
		break;
	case OPT_KEYS:
		cfg->keys = (unsigned)num;
		break;
	case OPT_RATE:
		cfg->rate = num;
		break;
	case OPT_ECHO_RATE:
		cfg->echo_rate = num;
		break;
	case OPT_WINDOW:
		cfg->window = (unsigned)num;
		break;
	case OPT_BYTES:
		cfg->bytes = (uint64_t)num;
		break;
	case OPT_ECHO_PORT:
		cfg->echo_port = (uint16_t)num;
		break;
	case OPT_TIMEOUT:
		cfg->timeout = (uint64_t)(num * MS);
		break;
	case OPT_DRAIN:
		cfg->drain = (uint64_t)(num * MS);
		break;
	case OPT_CONNECT:
		cfg->connect = (uint64_t)(num * MS);
		break;
	case OPT_SEED:
		cfg->seed = (uint64_t)num;
		break;
	case OPT_BASE:
		cfg->client_base = (unsigned)num;
		break;
	default:
		return -1;
	}
	return 0;
}

/* 0 go on, 1 help, -1 usage error. */
static int kvclient_parse(struct kvclient *k, int argc, char **argv)
{
	struct load_config *cfg = &k->load.cfg;
	unsigned clients;
	int c;

	*cfg = (struct load_config){.udp = 2,
				    .tcp = 2,
				    .keys = 16,
				    .seed = 1,
				    .client_base = 1,
				    .echo_port = KV_ECHO_PORT,
				    .stream_port = STREAM_PORT,
				    .echo_rate = 20000,
				    .stream_rate = 200000,
				    .window = 4096,
				    .timeout = 1000 * MS,
				    .drain = 2000 * MS,
				    .connect = 10000 * MS};
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'h' || c == OPT_HELP)
			return 1;
		if (c == '?' || kvclient_set(k, c, optarg)) {
			if (c != '?')
				fprintf(stderr, "kvclient: bad value: %s\n", optarg);
			return -1;
		}
	}
	clients = cfg->udp + cfg->tcp + cfg->echo + cfg->stream;
	cfg->lists = cfg->keys < KV_LISTS ? cfg->keys : KV_LISTS;
	if (optind != argc || !cfg->server.sin_family || !cfg->keys || cfg->keys > KV_KEYS ||
	    !cfg->window || cfg->client_base > 1000000)
		return -1;
	if (cfg->udp > KVCLIENT_MAX || cfg->tcp > KVCLIENT_MAX || cfg->echo > KVCLIENT_MAX ||
	    cfg->stream > KVCLIENT_MAX || !clients || clients > KVCLIENT_MAX)
		return -1;
	return 0;
}

static int kvclient_open(struct kvclient *k)
{
	struct load *l = &k->load;
	sigset_t set;
	char *end;
	int rc;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	k->sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	l->stopfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->donefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (k->sigfd < 0 || l->stopfd < 0 || l->donefd < 0)
		return -errno;
	k->statusfd = -1;
	if (k->status) {
		long fd = strtol(k->status, &end, 10);

		k->statusfd = *end ? open(k->status, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)
				   : (int)fd;
		if (k->statusfd < 0)
			return -errno;
	}
	stats_init(&l->kv);
	stats_init(&l->bytes);
	k->start = load_now();
	if (!k->history)
		return 0;
	rc = history_create(&l->history, k->history, l->cfg.seed, k->start);
	return rc;
}

static int kvclient_spawn(struct kvclient *k, unsigned count, bool tcp, void *(*run)(void *))
{
	for (unsigned i = 0; i < count; i++) {
		struct load_client *c = &k->client[k->n];
		int rc;

		c->load = &k->load;
		c->number = k->load.cfg.client_base + k->n;
		c->tcp = tcp;
		c->rng = k->load.cfg.seed * 0x100000001b3ull + c->number;
		load_random(&c->rng);
		rc = pthread_create(&k->thread[k->n], NULL, run, c);
		if (rc)
			return -rc;
		k->n++;
	}
	return 0;
}

static void kvclient_print_status(struct kvclient *k, uint64_t now)
{
	struct load *l = &k->load;
	uint64_t acked, gap;

	if (k->statusfd < 0)
		return;
	stats_read(&l->kv, &acked, &gap);
	dprintf(k->statusfd,
		"{\"type\":\"status\",\"t_ms\":%" PRIu64 ",\"acked\":%" PRIu64
		",\"waiting\":%" PRIu64 ",\"client_gap_ms\":%.3f,\"tcp_kept\":%" PRIu64
		",\"tcp_total\":%" PRIu64 "}\n",
		(now - k->start) / MS, acked, l->timeouts - l->late, (double)gap / 1e6,
		l->tcp_total - l->tcp_lost, l->tcp_total);
}

/* Until all clients have ended. */
static void kvclient_watch(struct kvclient *k)
{
	uint64_t end = k->seconds > 0 ? k->start + (uint64_t)(k->seconds * 1e9) : LOAD_NEVER;
	uint64_t tick = k->start + 1000 * MS, done = 0, count;
	struct signalfd_siginfo si;

	while (done < k->n) {
		uint64_t now = load_now(), next = tick < end ? tick : end;
		struct pollfd p[2] = {{.fd = k->load.donefd, .events = POLLIN},
				      {.fd = k->sigfd, .events = POLLIN}};

		if (now >= end) {
			load_stop(&k->load);
			end = LOAD_NEVER;
			continue;
		}
		if (now >= tick) {
			kvclient_print_status(k, now);
			tick += 1000 * MS;
			continue;
		}
		poll(p, 2, (int)((next - now) / MS) + 1);
		if (p[0].revents && read(p[0].fd, &count, sizeof(count)) == sizeof(count))
			done += count;
		if (p[1].revents && read(p[1].fd, &si, sizeof(si)) == sizeof(si)) {
			/* Nobody is there to answer any more: what has arrived counts. */
			if (si.ssi_signo == SIGINT)
				k->load.cfg.drain = 0;
			load_stop(&k->load);
		}
	}
}

static void kvclient_print_summary(struct kvclient *k)
{
	struct load *l = &k->load;
	uint64_t stop = l->stop_ns ? l->stop_ns : load_now();

	stats_end(&l->kv, stop);
	stats_end(&l->bytes, stop);
	printf("{\"type\":\"summary\",\"seconds\":%.3f,\"acked\":%" PRIu64 ",\"failed\":%" PRIu64
	       ",\"unknown\":%" PRIu64 ",\"timeouts\":%" PRIu64 ",\"late\":%" PRIu64
	       ",\"dups\":%" PRIu64 ",\"strays\":%" PRIu64 ",\"bad_replies\":%" PRIu64
	       ",\"client_gap_ms\":%.3f,\"max_gap_at\":%" PRIu64
	       ",\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"ops_per_s\":%.1f",
	       (double)(stop - k->start) / 1e9, l->kv.acked, l->failed, l->unknown, l->timeouts,
	       l->late, l->dups, l->strays, l->bad_replies, (double)l->kv.gap / 1e6, l->kv.gap_at,
	       (double)stats_percentile(&l->kv, 0.5) / 1e3,
	       (double)stats_percentile(&l->kv, 0.99) / 1e3, (double)l->kv.max / 1e3,
	       (double)l->kv.acked * 1e9 / (double)(stop - k->start + 1));
	printf(",\"silent\":%" PRIu64 ",\"tcp_total\":%" PRIu64 ",\"tcp_kept\":%" PRIu64
	       ",\"echo_total\":%" PRIu64 ",\"echo_ok\":%" PRIu64 ",\"echo_bytes\":%" PRIu64
	       ",\"stream_total\":%" PRIu64 ",\"stream_ok\":%" PRIu64 ",\"stream_bytes\":%" PRIu64
	       ",\"bytes_gap_ms\":%.3f,\"bytes_gap_at\":%" PRIu64 "}\n",
	       l->silent, l->tcp_total, l->tcp_total - l->tcp_lost, l->echo_total, l->echo_ok,
	       l->echo_bytes, l->stream_total, l->stream_ok, l->stream_bytes,
	       (double)l->bytes.gap / 1e6, l->bytes.gap_at);
	fflush(stdout);
}

static bool kvclient_clean(const struct load *l)
{
	return !l->tcp_lost && !l->bad_replies && l->echo_ok == l->echo_total &&
	       l->stream_ok == l->stream_total;
}

static int kvclient_run(struct kvclient *k)
{
	const struct load_config *cfg = &k->load.cfg;
	int rc = kvclient_spawn(k, cfg->udp, false, kvload_run);

	if (!rc)
		rc = kvclient_spawn(k, cfg->tcp, true, kvload_run);
	if (!rc)
		rc = kvclient_spawn(k, cfg->echo, true, echoload_run);
	if (!rc)
		rc = kvclient_spawn(k, cfg->stream, true, streamload_run);
	if (rc)
		load_stop(&k->load);
	kvclient_watch(k);
	for (unsigned i = 0; i < k->n; i++)
		pthread_join(k->thread[i], NULL);
	return rc;
}

int main(int argc, char **argv)
{
	struct kvclient *k = calloc(1, sizeof(*k));
	int rc = k ? kvclient_parse(k, argc, argv) : -ENOMEM, closed;

	if (rc) {
		if (rc > 0)
			fputs(usage, stdout);
		else
			fputs("kvclient: bad arguments; try --help\n", stderr);
		free(k);
		return rc > 0 ? 0 : 2;
	}
	rc = kvclient_open(k);
	if (rc) {
		fprintf(stderr, "kvclient: cannot start: %s\n", strerror(-rc));
		free(k);
		return 2;
	}
	rc = kvclient_run(k);
	closed = history_close(k->load.history);
	kvclient_print_summary(k);
	if (rc || k->load.broken)
		fprintf(stderr, "kvclient: a client could not start or connect\n");
	if (closed)
		fprintf(stderr, "kvclient: history: %s\n", strerror(-closed));
	rc = rc || k->load.broken || closed ? 2 : !kvclient_clean(&k->load);
	free(k);
	return rc;
}
