# ftvmm: one Makefile. `make help` lists the targets.
SHELL := /bin/bash
MAKEFLAGS += -r # no rules but these: half a second each time
CC ?= gcc
V ?= normal
B := build/$(V)

WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wvla -Wno-unused-parameter -Werror
CFLAGS_normal := -O2 -g -D_FORTIFY_SOURCE=2
CFLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
CFLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -Wno-error
CFLAGS := -std=gnu17 $(WARN) $(CFLAGS_$(V)) -fstack-protector-strong -fPIE -pthread -I. -MMD -MP $(EXTRA)
LDFLAGS := $(filter -fsanitize=%,$(CFLAGS_$(V))) -pie -Wl,-z,relro,-z,now -pthread
INCS := -I/usr/include/libnl3
LIBS := -luring -lfdt -lnl-3 -ljansson -llz4 -lseccomp -lxxhash
# OpenSSL is loaded when it is asked for: vmm/wire/tls_lib.h.

# The program itself is linked for the least memory: archives of libraries where there are any (that of xxhash does not
# choose by the CPU), and relocations packed where the C library knows them (glibc 2.36). docs/performance.md, memory.
ARCHIVE = $(or $(filter /%,$(shell $(CC) -print-file-name=lib$(1).a)),-l$(1))
PACKED = $(if $(shell grep -l GLIBC_ABI_DT_RELR $$($(CC) -print-file-name=libc.so.6)),-z pack-relative-relocs)
LINK_PROGRAM = $(CC) $(LDFLAGS) $(PACKED) -o $@ $^ $(foreach l,uring fdt jansson lz4 nl-3 seccomp,$(call ARCHIVE,$(l))) -lxxhash

# The rooms of the program, bottom up; tests/lint.sh holds every include to this order.
ROOMS := vmm/base vmm/machine vmm/wire net devices vmm/conf vmm/boot vmm/vm vmm/copy ft/common ft/epoch ft/role postcopy vmm/cli
# Linked in this order, so that what a plain VM never runs (copy, ft, postcopy) is in one place, and not in its memory.
# What it does run of those comes first.
PLAIN := ft/common/fsm.c ft/common/ft.c postcopy/source.c
SRCS := $(PLAIN) $(filter-out $(PLAIN),$(foreach r,$(ROOMS),$(sort $(wildcard $(r)/*.c))))
OBJS := $(SRCS:%.c=$(B)/%.o)
LIBOBJS := $(filter-out $(B)/vmm/cli/main.o,$(OBJS))

GUESTS := $(patsubst guests/%.c,%,$(wildcard guests/*.c))
GLIB_SRC := $(wildcard guests/lib/*.c guests/lib/*.S)
GLIB := $(patsubst guests/lib/%,build/guests/lib/%.o,$(GLIB_SRC))
# Kernel-mode code must do without SSE and BMI: see guests/README.md.
GCFLAGS := -std=gnu17 -O2 -g $(WARN) -ffreestanding -fno-pic -fno-pie -mno-red-zone -mgeneral-regs-only \
	-march=x86-64 -fcf-protection=none -fno-stack-protector -fno-asynchronous-unwind-tables -I. -MMD -MP

UNIT := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(filter-out tests/unit/lib%,$(wildcard tests/unit/*.c)))
# A unit test is linked with each lib*.c, and the fake VM, whose header it includes: words TEST:LIB.
UNITLIBS := $(shell grep -Eo '^.include "tests/(unit/lib[a-z_]*|fuzz/vm)' tests/unit/*_test.c | sed 's|.c:.include "|:|')
# Which takes the place of what a test does without: KVM, time that goes on by itself, the log, memory, plain locks.
WRAP_vm := $(addprefix vm_,create destroy pause resume start try_load load save new_generation)
WRAP_libtime := loop_now_ns loop_timer_set loop_timer_del
WRAP_liblog := log_write
WRAP_libsteps := step_reached
WRAP_libkvm_model := kvm_ioctl kvm_log_dirty
WRAP_liblocks := $(addprefix pthread_mutex_,init lock unlock)
WRAP_libnomem := malloc calloc aligned_alloc mmap
WRAP_libhostfail := ioctl pthread_create
WRAP_liboverlay := loop_read loop_write loop_fdatasync open
WRAP_libsecondary := disk_submit stage_init side_identity heart_start diskapply_flush vsock_host_listen \
	virtio_net_ask_announce loop_run_once step_reached chan_set_options fallocate fsetxattr \
	stream_send replica_begin replica_roll_back replica_end
# Every .c directly in these folders with a main() is one host tool; lib*.c there is shared by them.
TOOLDIRS := tests/lin tests/wire tests/bench tests/hostile tests/docs
TOOLLIB := $(wildcard $(TOOLDIRS:%=%/lib*.c))
TOOLS := $(patsubst %.c,$(B)/%,$(filter-out $(TOOLLIB),$(wildcard $(TOOLDIRS:%=%/*.c))))

PREFIX ?= /usr/local

.PHONY: all help guests tools clean deps deps-build deps-test lint format asan tsan install uninstall
all: deps-build
	@$(MAKE) --no-print-directory $(B)/ftvmm guests tools
deps: deps-test
deps-build deps-test deps-lint deps-fuzz deps-linux: deps-%:
	@configs/deps.sh $*
guests: $(GUESTS:%=build/guests/%.elf)
# Linux kernels, initramfs and a root image from Debian packages: guests/linux/README.md.
.PHONY: linux-guest
linux-guest: deps-linux
	@guests/linux/build
tools: $(TOOLS)
help:
	@echo "targets: all demo demo-linux test test-linux test-all linux-guest model bench lint asan tsan fuzz soak install deps clean"

$(B)/ftvmm: $(OBJS)
	@printf "  LD    %s\n" $@; $(LINK_PROGRAM)
# What tests are linked with: of it each takes what it needs.
LIB := $(B)/libftvmm.a
$(LIB): $(LIBOBJS)
	@rm -f $@; $(AR) cqs $@ $^
# A simulated world: tests/sim/README.md. Its kernel stands in for what it defines as __wrap_NAME.
SIM := $(patsubst %.c,$(B)/%.o,$(wildcard tests/sim/*.c))
WRAP_sim := $(shell grep -oh '\b__wrap_[a-z0-9_]*' tests/sim/*.c | sed 's/^__wrap_//' | sort -u)
# Builds with a planted bug that the tests must catch: one object differs from the normal ones.
BUG_release := ft/epoch/engine RELEASE_EARLY
BUG_skip := ft/epoch/capture SKIP_PAGE
BUG_partial := ft/epoch/stage PARTIAL_EPOCH
BUG_order := ft/epoch/disklog DISK_ORDER
BUG_claim := ft/common/arbiter_etcd CLAIM_NOT_COMPARED
BUG_role := vmm/wire/tls ROLE_UNCHECKED
BUG_compare := net/window COMPARE_SHORT compare_model_test
BUGS := release skip partial order claim role shared compare
SIM_BUGS := release skip partial order rollback compare
# And that a unit test must catch: which one.
BUG_rollback := vmm/machine/mem_split ROLL_BACK replica_test
BUG_overlay := devices/overlay_map OVERLAY_LEAK overlay_test
BUG_shared := devices/disk_output SHARED_EARLY disk_output_test
BUG_reads := devices/disk READ_PASSES disk_output_test
UNIT_BUGS := rollback overlay compare shared reads
.PHONY: bugs
bugs: $(BUGS:%=build/bug-%/ftvmm) $(UNIT_BUGS:%=build/bug-%/unit)
define BUG_RULE
build/bug-$(1)/bug.o: $(word 1,$(BUG_$(1))).c
	@mkdir -p $$(@D)
	@printf "  CC    %s (bug)\n" $$<; $$(CC) $$(CFLAGS) $$(INCS) -DBUG_$(word 2,$(BUG_$(1))) -c -o $$@ $$<
build/bug-$(1)/ftvmm: build/bug-$(1)/bug.o $$(filter-out $$(B)/$(word 1,$(BUG_$(1))).o,$$(OBJS))
	@printf "  LD    %s\n" $$@; $$(LINK_PROGRAM)
build/bug-$(1)/sim: build/bug-$(1)/bug.o $$(SIM) $$(LIB)
	@printf "  LD    %s\n" $$@; $$(CC) $$(LDFLAGS) $$(WRAP_sim:%=-Wl,--wrap=%) -o $$@ $$^ $$(LIBS)
endef
$(foreach b,$(sort $(BUGS) $(UNIT_BUGS)),$(eval $(call BUG_RULE,$(b))))
$(foreach u,$(UNITLIBS),$(eval $(B)/$(subst :,: $(B)/,$(u)).o)\
	$(eval $(B)/$(firstword $(subst :, ,$(u))): WRAP += $(WRAP_$(notdir $(u)))))
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(LIB)
	@printf "  LD    %s\n" $@; $(CC) $(LDFLAGS) $(WRAP:%=-Wl,--wrap=%) -o $@ $(filter %.o,$^) $(LIB) $(LIBS) -lcmocka
LIBS_OF = $(patsubst tests/unit/$(1):%,%,$(filter tests/unit/$(1):%,$(UNITLIBS)))
define UNIT_BUG_RULE
build/bug-$(1)/unit: WRAP := $(foreach l,$(call LIBS_OF,$(2)),$(WRAP_$(notdir $(l))))
build/bug-$(1)/unit: build/bug-$(1)/bug.o $(patsubst %,$(B)/%.o,tests/unit/$(2) $(call LIBS_OF,$(2))) $$(LIB)
	@printf "  LD    %s\n" $$@; $$(CC) $$(LDFLAGS) $$(WRAP:%=-Wl,--wrap=%) -o $$@ $$^ $$(LIBS) -lcmocka
endef
$(foreach b,$(UNIT_BUGS),$(eval $(call UNIT_BUG_RULE,$(b),$(word 3,$(BUG_$(b))))))
$(B)/tests/unit/send_test: WRAP += loop_now_ns
$(B)/tests/unit/primary_apart_test: WRAP += virtio_vsock_go_on
$(B)/tests/unit/command_test: WRAP += vm_power_button
$(B)/tests/unit/vm_clock_test: WRAP += kvm_ioctl
$(B)/tests/unit/virtio_net_map_test: WRAP += loop_now_ns
$(B)/tests/unit/heart_test: WRAP += ppoll
$(B)/tests/unit/mem_split_test: WRAP += mremap
$(B)/tests/unit/side_test: WRAP += open gethostname statx
$(B)/tests/unit/source_rows_test: WRAP += pread
$(B)/tests/unit/source_recover_test: WRAP += chan_file_create
$(B)/tests/unit/live_snapshot_test: WRAP += writev loop_timer_set
$(foreach d,$(TOOLDIRS),$(foreach t,$(filter $(B)/$(d)/%,$(TOOLS)),\
	$(eval $(t): $(patsubst %.c,$(B)/%.o,$(filter $(d)/lib%,$(TOOLLIB))))))
$(TOOLS): %: %.o
	@printf "  LD    %s\n" $@; $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(TOOLLIBS) -lm
# Tools that measure the program's own code.
NATIVE := $(filter $(B)/tests/bench/native_%,$(TOOLS))
$(NATIVE): $(LIB)
$(NATIVE): TOOLLIBS := $(LIBS)
$(B)/tests/bench/native_ft: $(B)/tests/unit/libstage.o
$(B)/tests/bench/native_compare: $(B)/tests/unit/libcompare.o
# Those beside one that speaks its protocol, and those that print it and its state.
SPEAKERS := $(B)/tests/hostile/hostile $(B)/tests/hostile/compromise $(B)/tests/docs/protocol $(B)/tests/docs/state
$(SPEAKERS): $(LIB)
$(SPEAKERS): TOOLLIBS := $(LIBS)
$(B)/tests/sim/sim: $(SIM) $(LIB)
	@printf "  LD    %s\n" $@; $(CC) $(LDFLAGS) $(WRAP_sim:%=-Wl,--wrap=%) -o $@ $^ $(LIBS)
$(B)/%.o: %.c
	@mkdir -p $(@D)
	@printf "  CC    %s\n" $<; $(CC) $(CFLAGS) $(INCS) -c -o $@ $<

$(B)/vmm/cli/cmd_trial.o: vmm/cli/trial.sh

build/guests/lib/%.o: guests/lib/%
	@mkdir -p $(@D)
	@printf "  CC    %s\n" $<; $(CC) $(GCFLAGS) -c -o $@ $<
build/guests/%.o: guests/%.c
	@mkdir -p $(@D)
	@printf "  CC    %s\n" $<; $(CC) $(GCFLAGS) -c -o $@ $<
build/guests/%.elf: build/guests/%.o $(GLIB) guests/lib/guest.ld
	@printf "  LD    %s\n" $@; $(CC) -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack,-z,max-page-size=4096 -T guests/lib/guest.ld -o $@ $(filter %.o,$^)
.PRECIOUS: $(B)/%.o build/guests/%.o build/guests/lib/%.o

# libFuzzer: tests/fuzz/README.md. Each target runs for FUZZ_SECONDS on what it found before, in
# build/fuzz/NAME, and on the kept corpus, tests/fuzz/corpus/NAME. Any crash fails.
FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ_SECONDS ?= 20
.PHONY: fuzz fuzz-build
fuzz: deps-fuzz
	@$(MAKE) --no-print-directory -j2 V=fuzz CC=clang fuzz-build
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run
fuzz-build: $(FUZZ:%=build/fuzz/tests/fuzz/%)
build/fuzz/tests/fuzz/%_fuzz: build/fuzz/tests/fuzz/%_fuzz.o build/fuzz/libftvmm.a
	@printf "  LD    %s\n" $@; $(CC) $(LDFLAGS) $(WRAP:%=-Wl,--wrap=%) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS)
FUZZ_VM := $(patsubst %,build/fuzz/tests/fuzz/%_fuzz,snapshot secondary primary source dest)
$(FUZZ_VM): build/fuzz/tests/fuzz/vm.o
$(FUZZ_VM): WRAP := $(WRAP_vm)
build/fuzz/tests/fuzz/source_fuzz build/fuzz/tests/fuzz/dest_fuzz: WRAP += $(WRAP_libtime)
build/fuzz/tests/fuzz/source_fuzz build/fuzz/tests/fuzz/dest_fuzz: build/fuzz/tests/unit/libtime.o
build/fuzz/tests/fuzz/source_fuzz: WRAP += $(WRAP_libkvm_model)
build/fuzz/tests/fuzz/secondary_fuzz: WRAP += marks_ask marks_ask_first
build/fuzz/tests/fuzz/source_fuzz: build/fuzz/tests/unit/libkvm_model.o
# Libs of the unit tests.
build/fuzz/tests/fuzz/compare_fuzz: build/fuzz/tests/unit/libcompare.o
build/fuzz/tests/fuzz/ft_fuzz: build/fuzz/tests/unit/libstage.o
build/fuzz/tests/fuzz/state_fuzz: build/fuzz/tests/unit/libtree.o
build/fuzz/tests/fuzz/seqmap_fuzz: build/fuzz/tests/unit/libsegment.o
$(patsubst %,build/fuzz/tests/fuzz/%_fuzz,stream secondary snapshot carry): build/fuzz/tests/unit/libwire.o
build/fuzz/tests/fuzz/etcd_fuzz: WRAP := http_load http_free http_post
build/fuzz/tests/fuzz/legacy_fuzz: WRAP := loop_now_ns time

# Everything a test needs; then all suites of tests/run but linux, and one line that sums up.
.PHONY: tests tests-plain tests-sanitized test test-all demo demo-linux unit sim soak
unit: $(UNIT)
sim: $(B)/tests/sim/sim $(SIM_BUGS:%=build/bug-%/sim)
tests: tests-plain unit
# Without the unit tests that run under the sanitizers as well, which need no KVM.
tests-plain: $(B)/ftvmm guests tools bugs sim $(B)/tests/unit/vm_test $(B)/tests/unit/replica_vcpu_test
# What the suites asan, fuzz and sim run.
tests-sanitized:
	@$(MAKE) --no-print-directory -j2 V=asan unit build/asan/tests/sim/sim
	@$(MAKE) --no-print-directory -j2 V=fuzz CC=clang fuzz-build build/fuzz/tests/sim/sim
test: deps-test deps-fuzz
	@$(MAKE) --no-print-directory -j2 tests-plain
	@$(MAKE) --no-print-directory tests-sanitized
	@tests/run
test-all: deps-test deps-fuzz deps-linux
	@$(MAKE) --no-print-directory -j2 tests
	@$(MAKE) --no-print-directory tests-sanitized
	@tests/run all
# Every way through the protocol of a migration: tests/model/README.md.
.PHONY: model
model: deps-test
	@tests/model/run
# Rare failures, looked for during SOAK=minutes (60).
soak: deps-test deps-fuzz deps-linux
	@$(MAKE) --no-print-directory -j2 tests
	@$(MAKE) --no-print-directory tests-sanitized
	@$(MAKE) --no-print-directory V=asan build/asan/ftvmm
	@SOAK=$(SOAK) tests/soak
# Stock Linux kernels: tests/linux/README.md. LINUX_BOOTS=N: so many boots.
.PHONY: test-linux
test-linux: deps-build
	@$(MAKE) --no-print-directory -j2 $(B)/ftvmm guests
	@tests/run linux
demo: deps-test
	@$(MAKE) --no-print-directory -j2 $(B)/ftvmm guests tools
	@tests/e2e/demo.py
# The same with a Linux guest.
demo-linux: linux-guest deps-build
	@$(MAKE) --no-print-directory -j2 $(B)/ftvmm guests
	@tests/linux/demo.py

# All tests that can run so, under a sanitizer; a report of any process is a failure.
asan tsan: %: deps-test
	@$(MAKE) --no-print-directory -j2 V=$* build/$*/ftvmm tools unit guests
	@$(MAKE) --no-print-directory -j2 tools
	@rm -f build/$*/report.*
	@$(if $(filter asan,$*),ASAN,TSAN)_OPTIONS=log_path=$(CURDIR)/build/$*/report FTVMM_BUILD=build/$* \
		tests/run unit lin wire e2e
	@if ls build/$*/report.* > /dev/null 2>&1; then cat build/$*/report.*; exit 1; fi

lint: deps-lint
	@tests/lint.sh
format: deps-lint
	clang-format -i $$(git ls-files '*.c' '*.h')

# What the examples of the documentation name: ftvmm trial puts it into its hosts' folders.
EXAMPLES := $(patsubst %,build/guests/%.elf,hello kv blk idle vsock) $(patsubst %,build/normal/tests/lin/%,kvclient kvcheck)
MAN := $(patsubst docs/man/%.scd,%,$(wildcard docs/man/*.scd))
install: deps-build
	@$(MAKE) --no-print-directory build/normal/ftvmm $(EXAMPLES)
	install -D -m 755 build/normal/ftvmm $(DESTDIR)$(PREFIX)/bin/ftvmm
	build/normal/ftvmm completion bash > build/completion.bash
	install -D -m 644 build/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ftvmm
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 configs/systemd/*.service $(DESTDIR)$(PREFIX)/lib/systemd/system
	for f in $(EXAMPLES); do install -D -m 755 -s $$f $(DESTDIR)$(PREFIX)/lib/ftvmm/$$f || exit 1; done
	install -d $(DESTDIR)$(PREFIX)/lib/ftvmm/configs/examples
	install -m 644 configs/examples/*.json $(DESTDIR)$(PREFIX)/lib/ftvmm/configs/examples
	@if command -v scdoc > /dev/null; then \
		mkdir -p build/man && for page in $(MAN); do \
			scdoc < docs/man/$$page.scd > build/man/$$page && \
			install -D -m 644 build/man/$$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page || exit 1; \
		done; \
	else echo 'no manual pages: they need scdoc (apt-get install scdoc)'; fi
# What install has put there.
uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/lib/ftvmm
	rm -f $(DESTDIR)$(PREFIX)/bin/ftvmm $(foreach p,$(MAN),$(DESTDIR)$(PREFIX)/share/man/man$(subst .,,$(suffix $(p)))/$(p)) \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/ftvmm \
		$(patsubst configs/systemd/%,$(DESTDIR)$(PREFIX)/lib/systemd/system/%,$(wildcard configs/systemd/*.service))

clean:
	rm -rf build
-include $(shell find build -path build/linux -prune -o -name '*.d' -type f -print 2>/dev/null)

# BENCH=name runs one; tests/bench/bench.py --list names them. Results also in build/bench.json.
.PHONY: bench
bench: all build/bench/first.elf
	tests/bench/bench.py $(BENCH)
# docs/migration.svg anew, and docs/migration.json, from which it is: for a machine that does nothing else.
.PHONY: picture
picture: all
	tests/bench/bench.py --json build/curve.json curve
	tests/bench/plot.py build/curve.json docs/migration.svg
build/bench/first.elf: tests/bench/first.S guests/lib/guest.ld
	@mkdir -p $(@D)
	@printf "  LD    %s\n" $@; $(CC) -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack,-z,max-page-size=4096 -T guests/lib/guest.ld -o $@ $<
