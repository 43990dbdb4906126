#include "tests/unit/libfakevm.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/base/log.h"
#include "vmm/cli/ctl_client.h"

#define WAIT_MS 20000

int fakevm_setup(void **state)
{
	char dir[] = "/tmp/ftvmm-fakevm-XXXXXX";

	log_init(LOG_ERROR, "test");
	assert_non_null(mkdtemp(dir));
	setenv("XDG_RUNTIME_DIR", dir, 1);
	*state = strdup(dir);
	return 0;
}

int fakevm_teardown(void **state)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -r %s", (char *)*state);
	free(*state);
	return system(cmd);
}

static json_t *state_event(struct fakevm *vm, const char *from)
{
	json_t *note = json_object_get(vm->status, "note");

	return json_pack("{ss, ss*, sO, ss}", "event", "ft-state", "old", from, "new",
			 json_object_get(vm->status, "state"), "note",
			 note ? json_string_value(note) : "so it is");
}

static json_t *serve(void *arg, const char *cmd, json_t *request, struct err *e)
{
	struct fakevm *vm = arg;
	json_t *to = json_object_get(request, "state");

	if (!strcmp(cmd, "leave")) {
		loop_stop(&vm->loop);
		return json_object();
	}
	if (!strcmp(cmd, "note")) {
		json_object_set(vm->status, "note", json_object_get(request, "note"));
		return json_object();
	}
	if (!strcmp(cmd, "become")) {
		json_t *from = json_incref(json_object_get(vm->status, "state"));

		json_object_set(vm->status, "state", to);
		ctl_event(vm->ctl, json_pack("{ssss}", "event", "other", "new", "PROTECTED"));
		ctl_event(vm->ctl, state_event(vm, json_string_value(from)));
		json_decref(from);
		return json_object();
	}
	if (!strcmp(cmd, "grow")) {
		const char *key = json_string_value(json_object_get(request, "key"));

		json_object_set_new(
			vm->status, key,
			json_integer(json_integer_value(json_object_get(vm->status, key)) +
				     json_integer_value(json_object_get(request, "n"))));
		return json_object();
	}
	vm->asked++;
	if (!vm->status) {
		vm->silent.client = NULL;
		ctl_later(vm->ctl, &vm->silent);
		return NULL;
	}
	if (!strcmp(cmd, "status"))
		return json_incref(vm->status);
	if (!strcmp(cmd, "failover"))
		return json_object();
	if (!strcmp(cmd, "stop")) {
		json_t *end = json_object_get(vm->status, "end");

		ctl_follow(vm->ctl);
		return end ? json_incref(end) : json_object();
	}
	if (!strcmp(cmd, "trace") && json_object_get(vm->status, "trace")) {
		json_t *once = json_incref(json_object_get(vm->status, "trace"));

		json_object_del(vm->status, "trace");
		return once;
	}
	if (strcmp(cmd, "events")) {
		err_set(e, -EINVAL, "no command '%s'", cmd);
		return NULL;
	}
	ctl_follow(vm->ctl);
	vm->followers++;
	return state_event(vm, NULL);
}

static void *run(void *arg)
{
	struct fakevm *vm = arg;
	struct err e = {0};

	/* A loop belongs to the thread that made it. */
	if (loop_init(&vm->loop, &e) || ctl_open(&vm->ctl, &vm->loop, vm->name, serve, vm, &e))
		print_error("%s\n", e.msg);
	sem_post(&vm->serves);
	loop_run(&vm->loop);
	ctl_close(vm->ctl);
	loop_done(&vm->loop);
	return NULL;
}

void fakevm_start(struct fakevm *vm, const char *name, const char *status)
{
	char text[4000] = "";

	for (size_t i = 0; status && status[i]; i++)
		text[i] = status[i] == '\'' ? '"' : status[i];
	*vm = (struct fakevm){.name = name};
	vm->status = status ? json_loads(text, 0, NULL) : NULL;
	assert_true(vm->status || !status);
	sem_init(&vm->serves, 0, 0);
	assert_int_equal(pthread_create(&vm->thread, NULL, run, vm), 0);
	sem_wait(&vm->serves);
	assert_non_null(vm->ctl);
}

static void call(struct fakevm *vm, json_t *request)
{
	struct err e = {0};

	json_decref(ctl_call(vm->name, request, WAIT_MS, &e));
	assert_string_equal(e.msg, "");
}

void fakevm_stop(struct fakevm *vm)
{
	call(vm, json_pack("{ss}", "cmd", "leave"));
	pthread_join(vm->thread, NULL);
	json_decref(vm->status);
}

void fakevm_become(struct fakevm *vm, const char *state)
{
	call(vm, json_pack("{ssss}", "cmd", "become", "state", state));
}

void fakevm_note(struct fakevm *vm, const char *note)
{
	call(vm, json_pack("{ssss}", "cmd", "note", "note", note));
}

void fakevm_grow(struct fakevm *vm, const char *key, int n)
{
	call(vm, json_pack("{ssss si}", "cmd", "grow", "key", key, "n", n));
}

void fakevm_await_follower(struct fakevm *vm)
{
	for (int waited = 0; !vm->followers && waited < WAIT_MS; waited++)
		poll(NULL, 0, 1);
	assert_int_not_equal(vm->followers, 0);
}
