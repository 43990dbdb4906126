/* The configuration: every example loads, and every mistake names itself. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/conf/config.h"
#include "vmm/conf/option.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Run from the top of the tree; the tests run in a scratch folder with the files examples name. */
static char top[256], scratch[] = "/tmp/ftvmm-config-XXXXXX";

static void make_file(const char *path, const char *text, size_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void make_text(const char *path, const char *text)
{
	make_file(path, text, strlen(text));
}

static int setup(void **state)
{
	static const char sector[512];

	assert_non_null(getcwd(top, sizeof(top)));
	assert_non_null(mkdtemp(scratch));
	assert_int_equal(chdir(scratch), 0);
	assert_int_equal(mkdir("build", 0700) | mkdir("build/guests", 0700) | mkdir("dir", 0700),
			 0);
	make_text("build/guests/kv.elf", "kernel");
	make_text("k", "kernel");
	make_text("empty", "");
	make_file("odd.raw", sector, 100);
	make_file("root.raw", sector, sizeof(sector));
	make_file("two.raw", sector, sizeof(sector));
	make_text("big", "x");
	assert_int_equal(truncate("big", 3 << 20), 0);
	return 0;
}

static int teardown(void **state)
{
	char cmd[300];

	assert_int_equal(chdir(top), 0);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", scratch);
	return system(cmd);
}

/* Parse a line of words separated by spaces. */
static int parse(struct config *c, const char *line, struct err *e)
{
	char copy[1024], *words[64], *rest = copy, *word;
	int n = 0;

	memset(e, 0, sizeof(*e));
	snprintf(copy, sizeof(copy), "%s", line);
	while ((word = strsep(&rest, " ")))
		if (*word)
			words[n++] = word;
	return config_parse_run(c, n, words, e);
}

static void good(struct config *c, const char *line)
{
	struct err e;
	int r = parse(c, line, &e);

	if (r)
		fail_msg("%s: %s", line, e.msg);
}

static void examples_load(void **state)
{
	char path[600];
	struct dirent *d;
	unsigned seen = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/configs/examples", top);
	dir = opendir(path);
	assert_non_null(dir);
	while ((d = readdir(dir))) {
		struct machine m;
		struct config c;
		struct err e = {0};

		if (!strstr(d->d_name, ".json"))
			continue;
		snprintf(path, sizeof(path), "%s/configs/examples/%s", top, d->d_name);
		good(&c, path);
		assert_string_equal(c.name, "demo");
		assert_int_equal(c.role, strstr(d->d_name, "primary")	  ? ROLE_PRIMARY
					 : strstr(d->d_name, "secondary") ? ROLE_SECONDARY
									  : ROLE_PLAIN);
		assert_int_equal(config_to_machine(&c, &m, &e), 0);
		assert_int_equal(m.ndevs, 5);
		seen++;
	}
	closedir(dir);
	assert_true(seen >= 3);
}

static void defaults(void **state)
{
	struct config c;

	good(&c, "-k k");
	assert_string_equal(c.name, "vm");
	assert_string_equal(c.console, "stdio");
	assert_string_equal(c.arbiter, "none");
	assert_int_equal(c.mem_bytes, 512 << 20);
	assert_int_equal(c.vcpus, 1);
	assert_int_equal(c.role, ROLE_PLAIN);
	assert_int_equal(c.ft, FT_MODE_NONE);
	assert_int_equal(c.epoch_ns, 25000000);
	assert_int_equal(c.heartbeat_ns, 25000000);
	assert_int_equal(c.peer_timeout_ns, 100000000);
	assert_int_equal(c.staging_bytes, 64 << 20);
	assert_int_equal(c.output_bytes, 16 << 20);
	assert_int_equal(c.disklog_bytes, 64 << 20);
	assert_false(c.claim || c.verify || c.verbose || c.insecure);
	assert_int_equal(c.sandbox, SANDBOX_ON);
	assert_int_equal(c.log, LOG_TEXT);
}

static void every_flag(void **state)
{
	struct config c;

	good(&c,
	     "--primary --insecure --peer tcp:a:1,unix:/tmp/b --ft mc --epoch 10ms --heartbeat=5ms "
	     "--peer-timeout 1s --arbiter file:/x/y --claim --staging 8M --output-limit 1M "
	     "--disklog-limit 2M --verify --sandbox strict --log json --verbose -kk -i two.raw "
	     "-a x=1 -m "
	     "1G -c4 --name web1 "
	     "--console out -d id=a,path=root.raw,direct "
	     "-d id=b,path=two.raw,ro -n id=n0,tap=t0,bridge=br0,mac=02:00:00:00:00:0a");
	assert_int_equal(c.role, ROLE_PRIMARY);
	assert_int_equal(c.npeers, 2);
	assert_string_equal(c.peers[0], "tcp:a:1");
	assert_string_equal(c.peers[1], "unix:/tmp/b");
	assert_int_equal(c.ft, FT_MODE_MC);
	assert_int_equal(c.epoch_ns, 10000000);
	assert_int_equal(c.heartbeat_ns, 5000000);
	assert_int_equal(c.peer_timeout_ns, 1000000000);
	assert_string_equal(c.arbiter, "file:/x/y");
	assert_true(c.claim && c.verify && c.verbose && c.insecure);
	assert_int_equal(c.sandbox, SANDBOX_STRICT);
	assert_int_equal(c.log, LOG_JSON);
	assert_int_equal(c.staging_bytes, 8 << 20);
	assert_int_equal(c.output_bytes, 1 << 20);
	assert_int_equal(c.disklog_bytes, 2 << 20);
	assert_string_equal(c.kernel, "k");
	assert_string_equal(c.initrd, "two.raw");
	assert_string_equal(c.cmdline, "x=1");
	assert_int_equal(c.mem_bytes, 1 << 30);
	assert_int_equal(c.vcpus, 4);
	assert_string_equal(c.console, "out");
	assert_int_equal(c.ndisks, 2);
	assert_true(c.disks[0].direct && !c.disks[0].readonly);
	assert_int_equal(c.disks[0].ft, DISK_FT_MIRROR);
	assert_true(c.disks[1].readonly);
	assert_int_equal(c.disks[1].ft, DISK_FT_NONE);
	assert_true(c.nets[0].has_mac);
	assert_int_equal(c.nets[0].mac[5], 10);
	assert_string_equal(c.nets[0].bridge, "br0");
}

static void last_one_wins(void **state)
{
	struct config c;

	make_text("vm.json", "{\"kernel\":\"k\",\"memory\":\"64M\",\"cpus\":2}");
	good(&c, "-m 1G vm.json -c 3 --name a --name b");
	assert_int_equal(c.mem_bytes, 64 << 20);
	assert_int_equal(c.vcpus, 3);
	assert_string_equal(c.name, "b");
	good(&c, "-k k --primary --ft mc --peer unix:a,unix:b --peer unix:c");
	assert_int_equal(c.npeers, 1);
}

static void integers_in_json_have_units(void **state)
{
	static const char text[] =
		"{\"kernel\":\"k\",\"memory\":67108864,\"primary\":true,\"ft\":\"mc\","
		"\"secondary\":false,\"peer\":\"tcp:a:1\",\"insecure\":true,\"epoch\":7}";
	struct config c;

	make_text("vm.json", text);
	good(&c, "vm.json");
	assert_int_equal(c.mem_bytes, 64 << 20);
	assert_int_equal(c.epoch_ns, 7000000);
	assert_int_equal(c.role, ROLE_PRIMARY);
	assert_int_equal(c.npeers, 1);
}

/* A file for both hosts, so far. */
#define PAIR_JSON                                                                                  \
	"{\"kernel\":\"k\",\"memory\":\"64M\",\"listen\":\"tcp:b:7000\","                          \
	"\"peer\":\"tcp:b:7000\",\"insecure\":true,\"ft\":\"mc\","

/* One file for both hosts: what the other role needs is dropped, but never a flag. */
static void one_file_serves_both_roles(void **state)
{
	static const char text[] = PAIR_JSON "\"claim\":true,"
					     "\"disk\":[{\"id\":\"root\",\"path\":\"root.raw\"}]}";
	struct config c;

	make_text("vm.json", text);
	good(&c, "vm.json --primary");
	assert_string_equal(c.listen, "");
	assert_true(c.claim);
	good(&c, "--secondary vm.json");
	assert_string_equal(c.kernel, "k"); /* for a reset after a takeover */
	assert_string_equal(c.listen, "tcp:b:7000");
	assert_false(c.claim);
	assert_int_equal(c.npeers, 1);
	assert_int_equal(c.ndisks, 1);
	good(&c, "vm.json");
	assert_int_equal(c.npeers, 0);
	assert_int_equal(c.ft, FT_MODE_NONE);
	good(&c, "vm.json --restore big");
	assert_string_equal(c.kernel, "");
	assert_string_equal(c.restore, "big");
}

/* How fast a guest may be: of each device, in a file, too; none if not given. */
static void devices_have_limits(void **state)
{
	struct backends b;
	struct config c;

	good(&c, "-k k -d id=a,path=root.raw,rate=20M,ops=1000 -d id=b,path=two.raw");
	assert_int_equal(c.disks[0].limit.bytes, 20 << 20);
	assert_int_equal(c.disks[0].limit.ops, 1000);
	config_to_backends(&c, &b);
	assert_int_equal(backends_limit(&b, "a").bytes, 20 << 20);
	assert_int_equal(backends_limit(&b, "a").ops, 1000);
	assert_int_equal(backends_limit(&b, "b").bytes | backends_limit(&b, "b").ops, 0);
	assert_int_equal(backends_limit(&b, "console").bytes, 0);
	good(&c, "-k k -n id=n,tap=t,rate=64K -n id=m,socket=s,ops=7");
	config_to_backends(&c, &b);
	assert_int_equal(backends_limit(&b, "n").bytes, 64 << 10);
	assert_int_equal(backends_limit(&b, "n").ops, 0);
	assert_int_equal(backends_limit(&b, "m").bytes, 0);
	assert_int_equal(backends_limit(&b, "m").ops, 7);
	make_text("vm.json", "{\"kernel\":\"k\",\"disk\":[{\"id\":\"a\",\"path\":\"root.raw\","
			     "\"rate\":\"1M\",\"ops\":1}]}");
	good(&c, "vm.json");
	assert_int_equal(c.disks[0].limit.bytes, 1 << 20);
	assert_int_equal(c.disks[0].limit.ops, 1);
}

/* What a peer may bring, wherever one may come: in one file for all that a host does. */
static void a_peer_has_bounds(void **state)
{
	struct config c;

	good(&c, "--secondary --listen fd:3");
	assert_int_equal(c.max_mem_bytes | c.max_disk_bytes, 0);
	good(&c, "--secondary --listen fd:3 --max-memory 4G --max-disk 100G");
	assert_int_equal(c.max_mem_bytes, 4ull << 30);
	assert_int_equal(c.max_disk_bytes, 100ull << 30);
	good(&c, "--incoming unix:s --max-memory 64M");
	assert_int_equal(c.max_mem_bytes, 64 << 20);
	make_text("pair.json", PAIR_JSON "\"max-memory\":\"2G\",\"max-disk\":\"1T\"}");
	good(&c, "pair.json --secondary");
	assert_int_equal(c.max_mem_bytes, 2ull << 30);
	assert_int_equal(c.max_disk_bytes, 1ull << 40);
	good(&c, "pair.json --primary");
	assert_int_equal(c.max_mem_bytes | c.max_disk_bytes, 0);
	good(&c, "pair.json");
	assert_int_equal(c.max_mem_bytes | c.max_disk_bytes, 0);
	good(&c, "pair.json --incoming unix:s");
	assert_int_equal(c.max_mem_bytes, 2ull << 30);
	assert_int_equal(c.max_disk_bytes, 0); /* images are as large as they are here */
}

static void secondary_may_make_its_mirror(void **state)
{
	struct config c;

	good(&c, "--secondary --listen unix:s -d id=a,path=dir/new.raw");
	good(&c, "--secondary --listen fd:3 -d id=a,path=new.raw,ft=mirror");
}

struct bad {
	const char *given, *message;
};

static const struct bad bad_flags[] = {
	{"", "no kernel: give -k FILE, or --restore FILE"},
	{"--kernle k", "--kernle: no such option; the nearest is --kernel"},
	{"--outptu-limit=1M", "nearest is --output-limit"},
	{"-z", "-z: no such option; see ftvmm run --help"},
	{"-k", "--kernel needs a value: FILE"},
	{"-k none", "--kernel 'none': No such file"},
	{"-k empty", "--kernel 'empty' is empty"},
	{"-k dir", "--kernel 'dir' is not a regular file"},
	{"-k k -i none", "--initrd 'none': No such file"},
	{"-k big -m 2M", "kernel and initrd are 3M, the guest has 2M; give more with -m"},
	{"-k k -m 512", "--memory: 512 bytes is outside 2M..4T"},
	{"-k k -m 3000K", "--memory: 3000K is not a multiple of 2M"},
	{"-k k -m 16E", "--memory: '16E' is not a size; write a number and K, M, G or T"},
	{"-k k -m -5M", "'-5M' is not a size"},
	{"-k k -m 99999999999999999999", "does not fit in 64 bits"},
	{"-k k -m 99999999T", "does not fit in 64 bits"},
	{"-k k -c 0", "--cpus: 0 is outside 1..8"},
	{"-k k -c 9", "--cpus: 9 is outside 1..8"},
	{"-k k -c two", "--cpus: 'two' is not a number"},
	{"-k k --claim=yes", "--claim takes no value"},
	{"-k k --name a/b", "--name 'a/b': use letters, digits"},
	{"-k k --name .x", "--name '.x': use letters, digits"},
	{"-k k --name=", "--name: empty; give NAME"},
	{"-k k --restore big", "--kernel has no meaning with --restore: the snapshot says it"},
	{"--restore none", "--restore 'none': No such file"},
	{"none.json", "configuration 'none.json': No such file"},
	{"dir", "configuration 'dir' is not a regular file"},
	{"big", "configuration 'big' is larger than 1 MiB"},
	/* disks */
	{"-k k -d root.raw", "--disk: unknown word 'root.raw'; write id=ID,path=FILE"},
	{"-k k -d path=root.raw", "--disk: id is missing"},
	{"-k k -d id=a", "disk 'a': path is missing"},
	{"-k k -d id=a,path", "--disk: path needs a value: path=FILE"},
	{"-k k -d id=a,path=", "--disk: path: empty; give FILE"},
	{"-k k -d id=a,path=root.raw,ro=1", "--disk: ro takes no value"},
	{"-k k -d id=a,path=root.raw,id=b", "--disk: id is given twice"},
	{"-k k -d id=a,pth=x", "--disk: unknown key 'pth'; the nearest is 'path'"},
	{"-k k -d id=a,path=none", "disk 'a': 'none': No such file"},
	{"-k k -d id=a,path=dir", "disk 'a': 'dir' is neither a file nor a block device"},
	{"-k k -d id=a,path=odd.raw", "'odd.raw' has 100 bytes; must be a multiple of 512"},
	{"-k k -d id=a,path=empty", "'empty' has 0 bytes"},
	{"-k k -d id=a,path=root.raw,ft=copy", "'copy' is not one of: mirror, shared, none"},
	{"-k k -d id=a,path=root.raw,block=1536", "block must be 512 or 4096"},
	{"-k k -d id=a,path=root.raw,block=8K", "block"},
	{"-k k -d id=a,path=root.raw,ro,ft=mirror", "ro and ft=mirror exclude each other"},
	{"-k k -d id=a,path=root.raw -d id=a,path=two.raw", "--disk: the id 'a' is already in use"},
	{"-k k -d id=a,path=root.raw -d id=b,path=root.raw", "disks 'a' and 'b' use the same file"},
	{"-k k -d id=console,path=root.raw", "disk id 'console' is taken by the built-in device"},
	{"-k k -d id=a!,path=root.raw", "disk id 'a!': use letters"},
	{"-k k -d id=0123456789012345678901234567890123,path=x",
	 "--disk: id: 34 characters, at most 31"},
	{"--secondary --listen fd:3 -d id=a,path=none/x", "disk 'a': cannot be made in 'none'"},
	{"--secondary --listen fd:3 --arbiter file:/x -d id=a,path=none,ft=shared", "'none'"},
	{"--secondary --listen fd:3 -d id=a,path=none,ft=shared", "ft=shared needs an --arbiter"},
	{"--secondary --listen fd:3 --arbiter file:/x --ft colo -d id=a,path=none,ft=shared",
	 "ft=shared does not go with --ft colo"},
	/* vsock */
	{"-k k --vsock cid=3", "--vsock: path is missing"},
	{"-k k --vsock path=v,cid=2", "--vsock: cid: 2 is outside 3..4294967294"},
	{"-k k --vsock path=v,cid=4294967295", "--vsock: cid: 4294967295 is outside"},
	{"-k k --vsock path=none/v", "--vsock: no socket can be made in 'none'"},
	{"-k k --vsock path=0123456789012345678901234567890123456789012345678901234567890123456789"
	 "012345678901234567890123456",
	 "--vsock: path: 97 characters, at most 96"},
	{"-k k --vsock path=v -d id=vsock,path=root.raw",
	 "disk id 'vsock' is taken by the built-in device"},
	{"-k k --paused", "--paused goes with --restore"},
	/* nets */
	{"-k k -n id=n", "net 'n': tap or socket is missing"},
	{"-k k -n id=n,tap=t,socket=s", "net 'n': tap and socket exclude each other"},
	{"-k k -n id=n,socket=s,bridge=b", "net 'n': bridge goes with tap"},
	{"-k k -n id=n,socket=s -n id=m,socket=s", "nets 'n' and 'm' use the same socket 's'"},
	{"-k k -n "
	 "id=n,socket="
	 "01234567890123456789012345678901234567890123456789"
	 "0123456789012345678901234567890123456789012345678901234567",
	 "--net: socket: 108 characters, at most 107"},
	{"-k k -n id=n,tap=0123456789abcdef", "--net: tap: 16 characters, at most 15"},
	{"-k k -d id=a,path=root.raw,rate=1000K", "--disk: rate: 1000K is outside 1M..1T"},
	{"-k k -d id=a,path=root.raw,rate=2T", "--disk: rate: 2T is outside 1M..1T"},
	{"-k k -n id=n,tap=t,rate=63K", "--net: rate: 63K is outside 64K..1T"},
	{"-k k -d id=a,path=root.raw,ops=0", "--disk: ops: 0 is outside 1..100000000"},
	{"-k k -d id=a,path=root.raw,ops=1M", "--disk: ops: '1M' is not a number"},
	{"-k k -n id=n,tap=a/b", "net 'n': 'a/b' is no name for an interface"},
	{"-k k -n id=n,tap=t,mac=1:2:3", "'1:2:3' is not a MAC address"},
	{"-k k -n id=n,tap=t,mac=03:00:00:00:00:01", "is a multicast address"},
	{"-k k -n id=n,tap=t,mac=00:00:00:00:00:00", "the all-zero address is not usable"},
	{"-k k -n id=n,tap=t -n id=m,tap=t", "nets 'n' and 'm' use the same tap 't'"},
	{"-k k -n id=n,tap=t,mac=02:00:00:00:00:01 -n id=m,tap=u,mac=02:00:00:00:00:01",
	 "nets 'n' and 'm' have the same mac"},
	{"-k k -d id=n,path=root.raw -n id=n,tap=t", "'n' is the id of a disk and of a net"},
	{"-k k -n id=1,tap=a -n id=2,tap=b -n id=3,tap=c -n id=4,tap=d -n id=5,tap=e -n id=6,tap=f "
	 "-n id=7,tap=g",
	 "0 disks and 7 nets: together at most 5"},
	/* roles */
	{"--primary --secondary", "--primary and --secondary exclude each other"},
	{"-k k --primary --ft mc", "--primary needs --peer URI"},
	{"-k k --primary --peer tcp:a:1", "--primary needs --ft mc, kemari, auto or colo"},
	{"-k k --primary --peer tcp:a:1 --ft off", "--ft: 'off' is not one of: mc, kemari, auto"},
	{"-k k --primary --peer tcp:a:1 --ft fast", "--ft: 'fast' is not one of: mc, kemari, auto"},
	{"-k k --primary --peer tcp:a --ft mc", "--peer: 'tcp:a': port is missing"},
	{"-k k --primary --peer tls:a:1 --ft mc", "'tls:a:1' needs --tls-psk FILE"},
	{"--secondary --listen tls:a:1", "--listen 'tls:a:1' needs --tls-psk FILE"},
	{"--incoming tls:a:1", "--incoming 'tls:a:1' needs --tls-psk FILE"},
	{"-k k --tls-psk a --tls-dir b", "--tls-psk and --tls-dir exclude each other"},
	{"-k k --primary --peer file:x --ft mc", "a file is no connection"},
	{"-k k --primary --peer fd:1 --ft mc",
	 "--peer 'fd:1': a secondary is connected to more than once, a descriptor is one "
	 "connection; use tls:HOST:PORT or unix:PATH"},
	{"-k k --primary --peer unix:a,fd:7 --ft mc", "--peer 'fd:7'"},
	{"-k k --primary --peer fd:1,fd:2,fd:3,fd:4,fd:5 --ft mc", "--peer: more than 4 entries"},
	{"-k k --primary --peer fd:1,,fd:2 --ft mc", "--peer: empty; give URI[,URI]"},
	{"-k k --primary --peer fd:1 --ft mc --listen fd:2",
	 "--listen has no meaning with --primary"},
	{"-k k --primary --peer unix:b --ft mc -d id=a,path=root.raw,ft=none",
	 "disk 'a': ft=none would lose writes at a takeover"},
	{"--secondary", "--secondary needs --listen URI"},
	{"--secondary --listen fd:3 -m 64M",
	 "--memory has no meaning with --secondary: the primary sends"},
	{"--secondary --listen fd:3 -k none", "--kernel 'none': No such file"},
	{"--secondary --listen fd:3 -m 1G", "--memory has no meaning with --secondary"},
	{"--secondary --listen fd:3 --claim", "--claim has no meaning with --secondary"},
	{"-k k --max-memory 1G", "--max-memory has no meaning without --secondary or --incoming"},
	{"-k k --primary --peer fd:1 --ft mc --max-memory 1G",
	 "--max-memory has no meaning with --primary"},
	{"--incoming unix:s --max-disk 1G",
	 "--max-disk has no meaning without --primary or --secondary"},
	{"--secondary --listen fd:3 --max-memory 1M", "--max-memory: 1M is outside 2M..4T"},
	{"-k k --ft mc", "--ft has no meaning without --primary or --secondary"},
	{"-k k --listen fd:3", "--listen has no meaning without"},
	{"--secondary --listen fd:3 --epoch 50us", "--epoch: 50us is outside 100us..10s"},
	{"--secondary --listen fd:3 --epoch soon",
	 "'soon' is not a time; write a number and us, ms or s"},
	{"--secondary --listen fd:3 --heartbeat 80ms",
	 "--peer-timeout 100ms is less than two heartbeats of 80ms"},
	{"--secondary --listen fd:3 --staging 1K", "--staging: 1K is outside 1M..64G"},
	{"--secondary --listen fd:3 --arbiter etcd:x",
	 "--arbiter 'etcd:x': must be none, file:PATH, etcd:http://HOST:PORT[,...] or "
	 "exec:PROGRAM"},
	{"--secondary --listen fd:3 --arbiter file:", "--arbiter 'file:': must be none, file:PATH"},
	{"--secondary --listen fd:3 --arbiter exec:", "--arbiter 'exec:': must be none"},
	{"--secondary --listen fd:3 --arbiter etcd:http://", "'etcd:http://': must be none"},
};

static const struct bad bad_json[] = {
	{"", "bad.json:1:0:"},
	{"{", "bad.json:1:1:"},
	{"[]", "bad.json: must be one JSON object"},
	{"{\"kernel\":\"k\",}", "bad.json:1:"},
	{"{\"kernel\":\"k\"} x", "bad.json:1:"},
	{"{\n\"kernel\":\"k\",\n\"kernel\":\"k\"}", "bad.json:3:8: duplicate object key"},
	{"{\"kernel\":\"k\",\"memry\":\"1G\"}",
	 "bad.json: memry: unknown key; the nearest is 'memory'"},
	{"{\"k\":\"k\"}", "bad.json: k: unknown key; the nearest is 'kernel'"},
	{"{\"kernel\":7}", "bad.json: kernel: must be a string"},
	{"{\"kernel\":null}", "bad.json: kernel: must be a string"},
	{"{\"cpus\":\"2\"}", "bad.json: cpus: must be a whole number"},
	{"{\"cpus\":2.0}", "bad.json: cpus: must be a whole number"},
	{"{\"cpus\":-1}", "bad.json: cpus: must not be negative"},
	{"{\"cpus\":4294967297}", "bad.json: cpus: 4294967297 is outside 1..8"},
	{"{\"memory\":1.5}", "bad.json: memory: must be a string like \"512M\" or a whole number"},
	{"{\"epoch\":true}", "bad.json: epoch: must be a string like \"25ms\""},
	{"{\"claim\":\"yes\"}", "bad.json: claim: must be true or false"},
	{"{\"primary\":1}", "bad.json: primary: must be true or false"},
	{"{\"disk\":{\"id\":\"a\"}}", "bad.json: disk: must be an array of objects"},
	{"{\"disk\":[\"root.raw\"]}", "bad.json: disk[0]: must be an object with id=..."},
	{"{\"disk\":[{\"id\":\"a\",\"path\":\"root.raw\"},{\"id\":\"b\",\"paht\":\"x\"}]}",
	 "bad.json: disk[1].paht: unknown key; the nearest is 'path'"},
	{"{\"disk\":[{\"id\":\"a\",\"id\":\"b\"}]}", "duplicate object key"},
	{"{\"disk\":[{\"id\":\"a\",\"path\":\"x\"},{\"id\":\"a\",\"path\":\"y\"}]}",
	 "bad.json: disk[1]: the id 'a' is already in use"},
	{"{\"disk\":[{\"path\":\"x\"}]}", "bad.json: disk[0]: id is missing"},
	{"{\"disk\":[{\"id\":\"a\",\"ro\":\"yes\"}]}",
	 "bad.json: disk[0].ro: must be true or false"},
	{"{\"net\":[{\"id\":\"a\",\"mac\":\"x\"}]}",
	 "bad.json: net[0].mac: 'x' is not a MAC address"},
	{"{\"vsock\":[{\"path\":\"v\"}]}", "bad.json: vsock: must be an object"},
	{"{\"vsock\":{\"cid\":5}}", "bad.json: vsock: path is missing"},
	{"{\"vsock\":{\"paht\":\"v\"}}",
	 "bad.json: vsock.paht: unknown key; the nearest is 'path'"},
	{"{\"net\":[1]}", "bad.json: net[0]: must be an object"},
	{"{\"peer\":[1]}", "bad.json: peer: must be a string or an array of strings"},
	{"{\"primary\":true,\"secondary\":true}", "--primary and --secondary exclude each other"},
	{"{\"secondary\":true,\"listen\":\"fd:3\",\"memory\":\"64M\"}",
	 "--memory has no meaning with --secondary"},
	{"{\"restore\":\"big\",\"kernel\":\"k\"}", "--kernel has no meaning with --restore"},
	{"{\"name\":\"a\\u0000b\"}", "bad.json:1:"},
	{"{\"name\":\"\xff\"}", "bad.json:1:"},
};

static void check_bad(const struct bad *b, const char *line)
{
	struct config c;
	struct err e;
	int r = parse(&c, line, &e);

	if (r >= 0 || !strstr(e.msg, b->message) || strchr(e.msg, '\n'))
		fail_msg("%s: returned %d, said: %s; expected: %s", b->given, r, e.msg, b->message);
}

/* Its other side may run it: started plain it would be a second one, with the same addresses. */
static void a_file_with_an_arbiter_needs_a_role(void **state)
{
	static const char text[] = PAIR_JSON "\"arbiter\":\"file:/srv/vm\"}";
	struct config c;

	make_text("pair.json", text);
	good(&c, "pair.json --primary");
	assert_string_equal(c.arbiter, "file:/srv/vm");
	good(&c, "pair.json --secondary");
	good(&c, "pair.json --incoming unix:s"); /* the source gives it away */
	check_bad(&(struct bad){"", "names an arbiter (file:/srv/vm): is this to run as --primary"},
		  "pair.json");
	check_bad(&(struct bad){"", "names an arbiter"}, "pair.json --restore big");
	make_text("pair.json", "{\"kernel\":\"k\",\"memory\":\"64M\",\"arbiter\":\"none\"}");
	good(&c, "pair.json");
}

static void bad_flags_say_why(void **state)
{
	for (size_t i = 0; i < sizeof(bad_flags) / sizeof(bad_flags[0]); i++)
		check_bad(&bad_flags[i], bad_flags[i].given);
}

/* tcp: is for links on this host, and for who says that he knows what it is. */
static void tcp_between_hosts_is_asked_for(void **state)
{
	static const char *const inside[] = {"127.0.0.1", "127.9.9.9", "[::1]", "localhost"};
	static const char *const between[] = {
		"10.0.0.1", "0.0.0.0",	    "128.0.0.1",	 "127.1", "[::]",
		"[::2]",    "[fe80::1%lo]", "localhost.example", "a",	  "[::ffff:127.0.0.1]"};
	static const char *const roles[] = {"-k k --primary --ft mc --peer", "--secondary --listen",
					    "--incoming"};
	char words[128], why[128];
	struct config c;

	for (unsigned i = 0; i < COUNT(inside) * COUNT(roles); i++) {
		snprintf(words, sizeof(words), "%s tcp:%s:1", roles[i % COUNT(roles)],
			 inside[i / COUNT(roles)]);
		good(&c, words);
	}
	for (unsigned i = 0; i < COUNT(between) * COUNT(roles); i++) {
		const char *role = roles[i % COUNT(roles)], *host = between[i / COUNT(roles)];

		snprintf(words, sizeof(words), "%s tcp:%s:1", role, host);
		snprintf(why, sizeof(why), "%s: 'tcp:%s:1': tcp: between hosts is open to",
			 strrchr(role, '-') - 1, host);
		check_bad(&(struct bad){words, why}, words);
		snprintf(words, sizeof(words), "%s tcp:%s:1 --insecure", role, host);
		good(&c, words);
	}
}

static void bad_json_says_why(void **state)
{
	for (size_t i = 0; i < sizeof(bad_json) / sizeof(bad_json[0]); i++) {
		make_text("bad.json", bad_json[i].given);
		check_bad(&bad_json[i], "bad.json");
	}
}

static void deep_json_is_refused(void **state)
{
	static char text[200000];
	const struct bad b = {"deep JSON", "bad.json:1:"};

	memset(text, '[', sizeof(text));
	make_file("bad.json", text, sizeof(text));
	check_bad(&b, "bad.json");
}

static void vsock_is_one(void **state)
{
	static const char json[] = "{\"kernel\":\"k\",\"vsock\":{\"path\":\"f\",\"cid\":7}}";
	struct machine m;
	struct config c;

	good(&c, "-k k --vsock path=v");
	assert_int_equal(config_to_machine(&c, &m, NULL), 0);
	assert_int_equal(m.devs[3].kind, MDEV_VSOCK);
	assert_int_equal(m.devs[3].cid, 3);
	good(&c, "-k k --vsock path=v --vsock path=w,cid=4294967294");
	assert_int_equal(c.nvsocks, 1);
	assert_string_equal(c.vsock[0].path, "w");
	assert_int_equal(c.vsock[0].cid, 4294967294);
	make_file("vsock.json", json, strlen(json));
	good(&c, "vsock.json");
	assert_int_equal(c.vsock[0].cid, 7);
	good(&c, "vsock.json --vsock path=v");
	assert_string_equal(c.vsock[0].path, "v");
	assert_int_equal(c.vsock[0].cid, 3);
}

static void machine_is_in_fixed_order(void **state)
{
	struct machine m, again;
	struct config c;
	struct err e = {0};

	good(&c, "-k k -n id=n0,tap=t0 -d id=a,path=root.raw -d id=b,path=two.raw,ro --name web1 "
		 "-a quiet");
	assert_int_equal(config_to_machine(&c, &m, &e), 0);
	assert_int_equal(m.ndevs, 6);
	assert_int_equal(m.devs[0].kind, MDEV_CONSOLE);
	assert_int_equal(m.devs[1].kind, MDEV_RNG);
	assert_int_equal(m.devs[2].kind, MDEV_BALLOON);
	assert_int_equal(m.devs[3].kind, MDEV_BLK);
	assert_string_equal(m.devs[3].id, "a");
	assert_int_equal(m.devs[3].ft, DISK_FT_MIRROR);
	assert_true(m.devs[4].readonly);
	assert_int_equal(m.devs[5].kind, MDEV_NET);
	assert_int_equal(m.devs[5].gpa, MACHINE_MMIO_BASE + 5 * MACHINE_MMIO_STEP);
	assert_int_equal(m.devs[5].gsi, MACHINE_GSI_BASE + 5);
	assert_string_equal(m.cmdline, "quiet");
	assert_int_equal(m.devs[3].queues, 1);
	assert_int_equal(m.devs[5].queues, 1);
	assert_false(m.devs[5].no_offload);
	/* Derived: unicast, locally administered, the same every time, another for another name. */
	assert_int_equal(m.devs[5].mac[0] & 3, 2);
	assert_int_equal(config_to_machine(&c, &again, &e), 0);
	assert_memory_equal(m.devs[5].mac, again.devs[5].mac, 6);
	strcpy(c.name, "web2");
	assert_int_equal(config_to_machine(&c, &again, &e), 0);
	assert_memory_not_equal(m.devs[5].mac, again.devs[5].mac, 6);
	/* A queue for each CPU; and what a passt cannot do is not the guest's. */
	good(&c, "-k k -c 8 -n id=n0,socket=s0 -n id=n1,socket=s1 -d id=a,path=root.raw");
	assert_int_equal(config_to_machine(&c, &m, &e), 0);
	for (unsigned i = 3; i < 6; i++)
		assert_int_equal(m.devs[i].queues, 8);
	assert_true(m.devs[4].no_offload);
	assert_true(m.devs[5].no_offload);
}

/* What the devices use here; what was not given is NULL, and no empty name. */
static void backends_are_what_was_given(void **state)
{
	struct backends b;
	struct config c;

	good(&c, "-k k -d id=a,path=root.raw,direct -d id=b,path=two.raw,ro -n id=n0,tap=t0 "
		 "-n id=n1,tap=t1,bridge=br0 -n id=n2,socket=s0 --console none");
	config_to_backends(&c, &b);
	assert_int_equal(b.ndisks, 2);
	assert_string_equal(b.disks[0].id, "a");
	assert_string_equal(b.disks[0].path, "root.raw");
	assert_true(b.disks[0].direct && !b.disks[1].direct);
	assert_string_equal(b.disks[1].path, "two.raw");
	assert_int_equal(b.nnets, 3);
	assert_string_equal(b.nets[0].id, "n0");
	assert_string_equal(b.nets[0].tap, "t0");
	assert_true(!b.nets[0].bridge && !b.nets[0].socket);
	assert_string_equal(b.nets[1].bridge, "br0");
	assert_string_equal(b.nets[2].socket, "s0");
	assert_null(b.vsock);
	assert_string_equal(b.console, "none");
	assert_int_equal(b.output_bytes, 16 << 20);
	assert_false(b.standby);
	good(&c, "--secondary --listen unix:s -d id=a,path=root.raw --vsock path=v");
	config_to_backends(&c, &b);
	assert_string_equal(b.vsock, "v");
	assert_true(b.standby);
}

/* From the name and the id alone: many of them, each for one station and locally administered. */
static void derived_macs_are_usable(void **state)
{
	uint8_t seen[64][6];
	struct machine m, again;
	struct config c;
	char line[80];

	for (unsigned i = 0; i < 64; i++) {
		snprintf(line, sizeof(line), "-k k --name vm%u -n id=n%u,tap=t", i % 8, i);
		good(&c, line);
		assert_int_equal(config_to_machine(&c, &m, NULL), 0);
		assert_int_equal(config_to_machine(&c, &again, NULL), 0);
		for (unsigned d = 0; d < m.ndevs; d++)
			if (m.devs[d].kind == MDEV_NET)
				memcpy(seen[i], m.devs[d].mac, 6);
		assert_memory_equal(&m, &again, sizeof(m));
		assert_int_equal(seen[i][0] & 3, 2);
		for (unsigned k = 0; k < i; k++)
			assert_memory_not_equal(seen[k], seen[i], 6);
	}
}

static void units(void **state)
{
	struct err e = {0};
	char text[32];
	uint64_t v;

	assert_int_equal(config_parse_size("4k", &v, &e), 0);
	assert_int_equal(v, 4096);
	assert_int_equal(config_parse_size("7", &v, &e), 0);
	assert_int_equal(v, 7);
	assert_int_equal(config_parse_time("1s", &v, &e), 0);
	assert_int_equal(v, 1000000000);
	assert_int_equal(config_parse_time("25", &v, &e), 0);
	assert_int_equal(v, 25000000);
	assert_int_equal(config_parse_time("1.5ms", &v, &e), -EINVAL);
	option_format_size(3 << 20, text, sizeof(text));
	assert_string_equal(text, "3M");
	option_format_size(0, text, sizeof(text));
	assert_string_equal(text, "0");
	option_format_time(1500000, text, sizeof(text));
	assert_string_equal(text, "1500us");
}

/* Help and documentation come from the table; the help fits a screen of 80 columns. */
static void help_fits_a_screen(void **state)
{
	char *words[] = {"--help", "--help-md"};
	char line[1024];
	unsigned lines = 0;
	struct config c;
	int saved = dup(1);
	FILE *f;

	assert_non_null(freopen("help.txt", "w", stdout));
	assert_int_equal(config_parse_run(&c, 1, words, NULL), 1);
	fflush(stdout);
	f = fopen("help.txt", "r");
	while (fgets(line, sizeof(line), f)) {
		assert_true(strlen(line) <= 81);
		lines++;
	}
	fclose(f);
	assert_int_equal(config_parse_run(&c, 1, words + 1, NULL), 1);
	fflush(stdout);
	assert_true(dup2(saved, 1) >= 0);
	close(saved);
	assert_true(lines > 25 && lines <= 48);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(examples_load),
		cmocka_unit_test(defaults),
		cmocka_unit_test(every_flag),
		cmocka_unit_test(last_one_wins),
		cmocka_unit_test(integers_in_json_have_units),
		cmocka_unit_test(one_file_serves_both_roles),
		cmocka_unit_test(a_file_with_an_arbiter_needs_a_role),
		cmocka_unit_test(devices_have_limits),
		cmocka_unit_test(a_peer_has_bounds),
		cmocka_unit_test(secondary_may_make_its_mirror),
		cmocka_unit_test(bad_flags_say_why),
		cmocka_unit_test(tcp_between_hosts_is_asked_for),
		cmocka_unit_test(bad_json_says_why),
		cmocka_unit_test(deep_json_is_refused),
		cmocka_unit_test(machine_is_in_fixed_order),
		cmocka_unit_test(vsock_is_one),
		cmocka_unit_test(backends_are_what_was_given),
		cmocka_unit_test(derived_macs_are_usable),
		cmocka_unit_test(units),
		cmocka_unit_test(help_fits_a_screen),
	};

	return cmocka_run_group_tests_name("config", tests, setup, teardown);
}
