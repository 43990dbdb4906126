/*
 * The configuration of one `run`: from the command line and/or a JSON file, through ONE option
 * table (vmm/conf/config.c) that also prints --help and names the nearest key for an unknown one.
 */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/backends.h"
#include "vmm/base/err.h"
#include "vmm/base/limit.h"
#include "vmm/base/log.h"
#include "vmm/base/sandbox.h"
#include "vmm/machine/machine.h"

struct option_table;

#define CONFIG_MAX_PEERS      4
#define CONFIG_EPOCH_MIN_NS   100000ull /* the same bounds at start and while running */
#define CONFIG_EPOCH_MAX_NS   10000000000ull
#define CONFIG_STOP_NS	      30000000000ull /* a guest has this to switch itself off */
#define CONFIG_SNAPSHOT_BYTES (64ull << 20)  /* copied while the VM stands for it */
#define CONFIG_SNAPSHOT_MIN   (1ull << 20)
#define CONFIG_STOP_MAX_NS    480000000000ull
/* Of limits: the largest request is owed for a second at most. */
#define CONFIG_DISK_RATE_MIN (1ull << 20)
#define CONFIG_NET_RATE_MIN  (64ull << 10)
#define CONFIG_RATE_MAX	     (1ull << 40)
#define CONFIG_OPS_MAX	     100000000u

enum config_role { ROLE_PLAIN, ROLE_PRIMARY, ROLE_SECONDARY };
enum disk_error { DISK_ERROR_GUEST, DISK_ERROR_FAILOVER };
enum ft_mode { FT_MODE_NONE, FT_MODE_MC, FT_MODE_KEMARI, FT_MODE_AUTO, FT_MODE_COLO, FT_MODE_OFF };

struct config_disk {
	char id[32];
	char path[512];
	bool readonly, direct;
	uint64_t block;	 /* bytes that the guest sees as one; 0: as the image has it */
	enum disk_ft ft; /* default mirror; none when read-only */
	struct limit_rates limit;
};

struct config_net {
	char id[32];
	char tap[16];
	char socket[108]; /* of a passt; this or a tap */
	char bridge[16];
	uint8_t mac[6];
	bool has_mac; /* else derived from name and id, locally administered */
	struct limit_rates limit;
};

struct config_vsock {
	char path[97]; /* VSOCK_PATH_MAX: net/vsock_host.h */
	uint32_t cid;  /* default 3 */
};

struct config {
	char name[64]; /* default "vm" */
	char kernel[512], initrd[512], cmdline[2048];
	uint64_t mem_bytes; /* default 512M */
	uint32_t vcpus;	    /* default 1 */
	enum cpu_policy cpu;
	struct config_disk disks[MACHINE_MAX_DEVS];
	unsigned ndisks;
	struct config_net nets[MACHINE_MAX_DEVS];
	unsigned nnets;
	struct config_vsock vsock[1];
	unsigned nvsocks;   /* 0 or 1 */
	char console[512];  /* "stdio" (default), "none" or a file */
	char restore[512];  /* snapshot file to start from */
	char incoming[300]; /* URI; a migration comes in here instead of a kernel */
	char tls_psk[512];  /* file of a key; this or a folder of certificates, for tls: URIs */
	char tls_dir[400];
	bool insecure;	/* tcp: may leave this host */
	bool lazy;	/* the guest runs while its memory comes from restore */
	bool no_reboot; /* a reset ends the VM */
	bool paused;	/* vCPUs do not start until `ftvmm resume` */
	enum config_role role;
	char listen[300]; /* URI; secondary */
	char peers[CONFIG_MAX_PEERS][300];
	unsigned npeers;
	enum ft_mode ft;
	uint64_t epoch_ns;	       /* default 25 ms */
	uint64_t heartbeat_ns;	       /* default 25 ms */
	uint64_t peer_timeout_ns;      /* default 100 ms: silence that counts as death */
	char arbiter[512];	       /* none (default), file:, etcd:, exec: */
	enum disk_error on_disk_error; /* default: it is the guest's */
	bool claim; /* start although the arbiter names another holder: the operator is sure */
	uint64_t staging_bytes;	 /* default 64M: bound of captured pages not yet sent */
	uint64_t output_bytes;	 /* default 16M: bound of held output */
	uint64_t disklog_bytes;	 /* default 64M: bound of logged writes not yet acknowledged */
	uint64_t max_mem_bytes;	 /* of a VM that a peer brings, and of each image that is made */
	uint64_t max_disk_bytes; /* for it; 0: whatever the host has */
	enum sandbox sandbox;
	bool verify;  /* debug: hash all RAM and state of every epoch on both sides */
	bool verbose; /* log level debug */
	enum log_form log;
};

/* The defaults alone. */
void config_init(struct config *c);
/*
 * Defaults, then argv (after the word "run"), in which a bare word is a JSON file; last one wins.
 * 0, or 1 when --help or --help-md was asked for and printed, or a negative errno with e set.
 */
int config_parse_run(struct config *c, int argc, char **argv, struct err *e);
/* Is the whole consistent: role against flags, ids unique, files named. Called by config_parse_run.
 */
int config_check(struct config *c, struct err *e);
/* Is this an address of a secondary, with what is configured for it? */
int config_check_peer(const struct config *c, const char *uri, struct err *e);
/* -EPERM: a tcp: address of another host, which is to be asked for (insecure). */
int config_check_private(const char *uri, struct err *e);
const struct option_table *config_options(void);
void config_print_help(void);
void config_print_markdown(void); /* the option table for the documentation */
/* "512M", "25ms", "1s": units on the command line; a bare number is bytes, or ms for times. */
int config_parse_size(const char *text, uint64_t *ret, struct err *e);
int config_parse_time(const char *text, uint64_t *ret_ns, struct err *e);
/* The machine as the guest will see it; disk sizes are filled in by the caller. */
int config_to_machine(const struct config *c, struct machine *m, struct err *e);
/* What its devices use of this host; the strings stay those of c. */
void config_to_backends(const struct config *c, struct backends *b);

#endif
