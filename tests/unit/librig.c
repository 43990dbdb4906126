#include "tests/unit/librig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/cli/run_command.h"

char rig_out[16384];

const char *rig_hear(struct rig *rig)
{
	ssize_t n = 0, got;

	for (int i = 0; i < 8; i++) {
		loop_run_once(&rig->r->loop, 1000000);
		got = recv(rig->client, rig_out + n, sizeof(rig_out) - 1 - (size_t)n, MSG_DONTWAIT);
		n += got > 0 ? got : 0;
	}
	rig_out[n] = 0;
	return rig_out;
}

int rig_setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct sockaddr_un sa;

	log_init(LOG_ERROR, "test");
	strcpy(rig->dir, "/tmp/ftvmm-cmd-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	setenv("XDG_RUNTIME_DIR", rig->dir, 1);
	rig->r = calloc(1, sizeof(*rig->r));
	assert_int_equal(loop_init(&rig->r->loop, NULL), 0);
	assert_int_equal(ctl_open(&rig->r->ctl, &rig->r->loop, "vm-1", run_command, rig->r, NULL),
			 0);
	assert_int_equal(ctl_sock_addr("vm-1", &sa, NULL), 0);
	rig->client = ctl_sock_connect(&sa, 0);
	assert_true(rig->client >= 0);
	assert_string_equal(rig_hear(rig), "{\"greeting\":{\"control\":1,\"name\":\"vm-1\"}}\n");
	*state = rig;
	return 0;
}

int rig_teardown(void **state)
{
	struct rig *rig = *state;
	char cmd[64];

	close(rig->client);
	ctl_close(rig->r->ctl);
	loop_done(&rig->r->loop);
	free(rig->r);
	snprintf(cmd, sizeof(cmd), "rm -r %s", rig->dir);
	free(rig);
	return system(cmd);
}

const char *rig_ask(struct rig *rig, const char *cmd)
{
	char line[400];
	int n = snprintf(line, sizeof(line), "{\"cmd\":\"%s\"}\n", cmd);

	assert_int_equal(send(rig->client, line, (size_t)n, 0), n);
	return rig_hear(rig);
}
