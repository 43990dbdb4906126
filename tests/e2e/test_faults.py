"""A link between the hosts that delays, breaks, swallows and damages, and an arbiter that is away."""

import os
import signal

import ftlab
from ftlab import EXIT_FENCED, Deadline, FrameWatch, Pair, Vm, Wire, expect
from testlib import Skip, check_load, eighth, random_wait, start_load, test


class Split:
    """A protected pair on a bad link, under load. Knows who runs the guest, and watches both."""

    def __init__(self, lab, **options):
        self.lab, self.wire = lab, Wire(lab) if options.pop("proxy", True) else None
        self.pair = Pair(lab, disk=32, timeout=options.pop("timeout", "400ms"), wire=self.wire, **options)
        self.here = "A"
        self.pair.protect()
        self.load = start_load(lab)
        self.watch = {h: FrameWatch(lab, h) for h in "AB"}
        self.generation = self.pair.vm["A"].status()["generation"]

    def owner(self, seconds=15):
        """Wait until somebody has claimed the VM; then exactly one side runs it. That side."""
        d = Deadline(seconds)
        while True:
            for host, vm in self.pair.vm.items():
                if not vm.alive():
                    expect(vm.code == EXIT_FENCED, f"host {host}: exit code {vm.code}: {vm.log_text()}")
                    continue
                try:
                    s = vm.status()
                except ftlab.LabError:
                    expect(not vm.alive(), f"host {host} does not answer")
                    continue
                if s["role"] == "primary" and s["generation"] > self.generation and \
                        s["state"] in ("DEGRADED", "SYNCING", "PROTECTED"):
                    self.generation = s["generation"]
                    self.moved(host)
                    return host
            d.check("somebody to claim the VM")
            self.load.nap(0.01)

    def moved(self, host):
        """The other side has gone, or stands by again, and neither was heard out of its time."""
        other = self.pair.other(host)
        vm = self.pair.vm[other]
        if host != self.here:
            expect(vm.wait_exit(10) == EXIT_FENCED, f"host {other}: exit code {vm.code}, not fenced")
        else:
            vm.wait_status(lambda s: s["role"] == "secondary" and s["state"] != "TAKING-OVER",
                           "a secondary that does not run the VM")
        self.lab.probe()
        self.one_voice(self.here, host)
        self.here = host

    def one_voice(self, before, after):
        """The guest's frames come from one host, and then perhaps from the other, never mixed."""
        frames = {h: [t for t, _ in w.drain()] for h, w in self.watch.items()}
        if before == after:
            idle = self.pair.other(after)
            expect(not frames[idle], f"{len(frames[idle])} frames of the guest left idle host {idle}")
            return
        expect(frames[after], f"no frame of the guest left host {after}")
        # What was acknowledged before may be on its way out while the other side takes over already: with processors
        # of their own for both that is over in microseconds.
        slack = int(200e6 if ftlab.SLOW > 2 else 0)
        late = [t for t in frames[before] if t > frames[after][0] + slack]
        expect(not late, f"{len(late)} frames of the guest left host {before} after the takeover")

    def drain(self):
        for w in self.watch.values():
            w.drain()

    def protect_again(self):
        other = self.pair.other(self.here)
        if not self.pair.vm[other].alive():
            self.lab.release(self.pair.vm[other])
            self.pair.secondary(other)
        self.pair.in_step(30)

    def finish(self):
        check_load(self.lab, [self.load], self.pair.image[self.here])
        self.pair.check_ballast(self.here)


@test(60)
def wire_delay(lab):
    """20 ms each way: protected, and a takeover works"""
    split = Split(lab, timeout="500ms")
    split.wire.do("delay 20 jitter 5")
    b = split.pair.vm["B"]
    begin = b.status()["epochs_total"]
    b.wait_status(lambda s: s["epochs_total"] >= begin + 20, "20 epochs")
    random_wait(lab, split.load, 0.1, 0.3)
    split.pair.vm["A"].kill()
    b.wait_state("DEGRADED")
    lab.probe()
    split.here = "B"
    split.finish()


@test(90)
def wire_cut(lab):
    """connections reset, several times: one side goes on, protected again by itself"""
    split = Split(lab)
    for _ in range(ftlab.work(4)):
        random_wait(lab, split.load, 0.05, 0.3)
        split.wire.do("cut")
        split.owner()
        split.protect_again()
    split.finish()


@test(120)
def wire_cut_anywhere(lab):
    """cut after a random number of bytes, to the byte"""
    split = Split(lab)
    for _ in range(max(2, ftlab.work(8))):
        to_b = lab.rng.random() < 0.7
        count = lab.rng.randrange(1, 300000 if to_b else 3000)
        # a is who connects: the primary.
        split.wire.do(f"after {count} {'a2b' if to_b else 'b2a'} cut")
        split.owner(30)
        split.protect_again()
    split.finish()


def black_hole(lab, direction):
    split = Split(lab)
    random_wait(lab, split.load, 0.1, 0.4)
    split.wire.do(f"blackhole {direction}")
    split.owner()
    random_wait(lab, split.load, 0.2, 0.4)
    split.wire.do("heal")
    random_wait(lab, split.load, 0.2, 0.4)
    split.protect_again()
    split.one_voice(split.here, split.here)
    split.finish()


@test(60)
def wire_hole_both(lab):
    """nothing gets through either way, then all of it late"""
    black_hole(lab, "both")


@test(60)
def wire_hole_to_secondary(lab):
    """epochs and heartbeats do not arrive, acks would"""
    black_hole(lab, "a2b")


@test(60)
def wire_hole_to_primary(lab):
    """acks and heartbeats do not arrive, epochs do"""
    black_hole(lab, "b2a")


@test(90)
def link_down(lab):
    """the link itself goes down, and comes back"""
    split = Split(lab, proxy=False)
    for _ in range(ftlab.work(2)):
        random_wait(lab, split.load, 0.1, 0.4)
        lab.ip(lab.rng.choice("AB"), "link set ft0 down")
        split.owner()
        for host in "AB":
            lab.ip(host, "link set ft0 up")
        split.protect_again()
    split.finish()


@test(90)
def wire_squeeze(lab):
    """1 MB/s: the guest is slowed, not unprotected, and memory stays bounded"""
    split = Split(lab, cmdline=f"ip={ftlab.GUEST_IP} dirty=80", timeout="2s")
    a, b = split.pair.vm["A"], split.pair.vm["B"]
    split.wire.do("rate 1000000")
    begin = b.status()["epochs_total"]
    s = b.wait_status(lambda s: s["epochs_total"] >= begin + 15 or s["state"] != "PROTECTED",
                      "15 epochs", 40)
    expect(s["state"] == "PROTECTED", f"{s['state']}: {s['note']}")
    held = a.status()["held_bytes"]
    expect(held <= 16 << 20, f"{held} bytes of output held")
    split.wire.do("rate 0")
    lab.probe()
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    split.here = "B"
    split.finish()


@test(90)
def wire_damage(lab):
    """a flipped bit and a missing end: the link is dropped, nothing wrong is taken"""
    split = Split(lab)
    for command in eighth(lab, ("flip 3 a2b", "truncate a2b", "flip 1 b2a", "truncate b2a", "flip 40 a2b")):
        split.wire.do(command)
        split.owner(30)
        split.protect_again()
    split.finish()


class Arbiter:
    """Shared storage that comes and goes."""

    def __init__(self, pair):
        self.path, self.away = pair.arbiter_dir, pair.arbiter_dir + "-away"

    def leave(self):
        os.rename(self.path, self.away)

    def back(self):
        os.rename(self.away, self.path)


@test(60)
def arbiter_away_takeover(lab):
    """no takeover without the arbiter's word; it goes on when the arbiter is back"""
    pair = Pair(lab, disk=32)
    a, b = pair.protect()
    arbiter = Arbiter(pair)
    load = start_load(lab)
    watch = FrameWatch(lab, "B")
    random_wait(lab, load, 0.1, 0.4)
    arbiter.leave()
    a.kill()
    s = b.wait_state("TAKING-OVER")
    random_wait(lab, load, 0.8, 1.2)
    s = b.status()
    expect(s["state"] == "TAKING-OVER" and s["note"], f"{s['state']} ({s['note']})")
    expect(not watch.drain(), "the guest runs without the arbiter's word")
    arbiter.back()
    b.wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["B"])


@test(60)
def arbiter_away_primary(lab):
    """the primary loses its peer and the arbiter: it stops, says so, and goes on later"""
    pair = Pair(lab, disk=32)
    a, b = pair.protect()
    arbiter = Arbiter(pair)
    load = start_load(lab)
    watch = FrameWatch(lab, "A")
    random_wait(lab, load, 0.1, 0.4)
    arbiter.leave()
    b.kill()
    s = a.wait_state("PAUSED")
    expect(s["note"], "no reason in the status")
    watch.drain()
    random_wait(lab, load, 0.8, 1.2)
    expect(not watch.drain(), "output is let out without the arbiter's word")
    expect(a.state() == "PAUSED", a.state())
    arbiter.back()
    a.wait_state("DEGRADED")
    lab.probe()
    pair.vm["B"].settle()
    pair.secondary("B")
    pair.in_step()
    check_load(lab, [load], pair.image["A"])


@test(60)
def arbiter_away_split(lab):
    """link and arbiter away: neither side goes on; later one does"""
    split = Split(lab)
    arbiter = Arbiter(split.pair)
    random_wait(lab, split.load, 0.1, 0.4)
    arbiter.leave()
    split.wire.do("blackhole both")
    split.pair.vm["A"].wait_state("PAUSED")
    split.pair.vm["B"].wait_state("TAKING-OVER")
    split.one_voice("A", "A")
    random_wait(lab, split.load, 0.5, 1)
    for h, w in split.watch.items():
        expect(not w.drain(), f"the guest was heard from host {h}")
    arbiter.back()
    split.owner()
    split.wire.do("heal")
    split.protect_again()
    split.finish()


GATE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

/* The event loop is away. */
int epoll_wait(int fd, struct epoll_event *ev, int n, int timeout)
{
	int (*real)(int, struct epoll_event *, int, int) = dlsym(RTLD_NEXT, "epoll_wait");

	while (!access(getenv("LOOP_GATE"), F_OK))
		poll(NULL, 0, 10);
	return real(fd, ev, n, timeout);
}

int linkat(int ofd, const char *old, int nfd, const char *new, int flags)
{
	int (*real)(int, const char *, int, const char *, int) = dlsym(RTLD_NEXT, "linkat");

	while (!access(getenv("LINK_GATE"), F_OK))
		poll(NULL, 0, 10);
	return real(ofd, old, nfd, new, flags);
}
"""


def preload(lab, library, source):
    with open(library + ".c", "w") as f:
        f.write(source)
    ftlab.run(os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, library + ".c", "-ldl")


class Gate:
    """Shared storage that takes its time to link a file, or a loop that takes its time: until it is opened."""

    def __init__(self, lab, name, kind="LINK"):
        self.path, library = lab.path(name), lab.path("gate.so")
        if not os.path.exists(library):
            preload(lab, library, GATE)
        self.env = {"LD_PRELOAD": library, f"{kind}_GATE": self.path}

    def shut(self):
        open(self.path, "w").close()

    def open(self):
        os.unlink(self.path)


@test(90)
def loop_hangs(lab):
    """a loop that is away for longer than the timeout is named, and no more; one that hangs loses the VM"""
    if ftlab.SANITIZED:
        raise Skip("a sanitizer wants to be the first library")
    pair = Pair(lab, disk=32, timeout="200ms")
    gates = {h: Gate(lab, f"gate-{h}", "LOOP") for h in "AB"}
    a, b = pair.protect(env={h: g.env for h, g in gates.items()})
    generation = a.status()["generation"]
    load = start_load(lab)
    for host in eighth(lab, "BA"):
        random_wait(lab, load, 0.2, 0.5)
        gates[host].shut()
        load.nap(ftlab.milliseconds(pair.timeout) / 1000 + 1.3)  # longer than that, and shorter than 5 s
        gates[host].open()
        pair.in_step()
        lab.probe()
        expect("the peer's loop has been away" in pair.vm[pair.other(host)].log_text(), "nothing in the log")
    expect(a.status()["generation"] == generation, "somebody claimed the VM")
    random_wait(lab, load, 0.2, 0.5)
    gates["A"].shut()
    b.wait_state("DEGRADED", seconds=20)
    expect("its loop hangs" in b.log_text(), f"why it took over: {b.log_text()}")
    lab.probe()
    gates["A"].open()
    expect(a.wait_exit(10) == EXIT_FENCED, f"the old primary: exit code {a.code}, not fenced")
    lab.probe()
    check_load(lab, [load], pair.image["B"])


def no_answer(vm, *states):
    """The arbiter was asked, and does not answer in time."""
    vm.wait_status(lambda s: s["state"] in states and "did not answer within" in s["note"],
                   "an arbiter that does not answer", 20)


@test(90)
def arbiter_slow_split(lab):
    """both sides' claims take too long, and one lands late: that side goes on, once it has asked again"""
    if ftlab.SANITIZED:
        raise Skip("a sanitizer wants to be the first library")
    pair = Pair(lab, disk=32)
    gates = {h: Gate(lab, f"gate-{h}") for h in "AB"}
    a, b = pair.protect(env={h: g.env for h, g in gates.items()})
    load = start_load(lab)
    first = lab.rng.choice("AB")
    for g in gates.values():
        g.shut()
    lab.ip("A", "link set ft0 down")
    no_answer(a, "PAUSED")
    no_answer(b, "TAKING-OVER")
    gates[first].open()
    pair.vm[first].wait_state("DEGRADED", seconds=20)
    gates[pair.other(first)].open()
    if first == "A":
        b.wait_state("STARTING")
    else:
        expect(a.wait_exit(20) == EXIT_FENCED, f"exit code {a.code}: {a.log_text()}")
    lab.ip("A", "link set ft0 up")
    lab.probe()
    expect(pair.vm[first].status()["generation"] == 2, "another generation than the first claim's")
    if first == "B":
        lab.release(a)
        pair.secondary("A")
    pair.in_step(20)
    check_load(lab, [load], pair.image[first])
    pair.end()


@test(90)
def arbiter_slow_handover(lab):
    """a hand-over to a side whose claim takes too long: the old side takes the VM back, or the new one has it"""
    if ftlab.SANITIZED:
        raise Skip("a sanitizer wants to be the first library")
    pair = Pair(lab, disk=32)
    gate = Gate(lab, "gate")
    a, b = pair.protect(env={"B": gate.env})
    load = start_load(lab)
    gate.shut()
    a.call("failover")
    no_answer(b, "TAKING-OVER")
    a.wait_state("DEGRADED", seconds=20)
    gate.open()
    pair.in_step(20)
    expect(a.alive() and a.status()["role"] == "primary", f"the old side: {a.log_text()}")
    lab.probe()
    check_load(lab, [load], pair.image["A"])
    pair.end()


def steady(split, seconds=30):
    """Start fenced sides again as secondaries until both are in step. Who runs the guest."""
    d = Deadline(seconds)
    while True:
        d.check("both sides to be in step")
        roles = {}
        for host, vm in list(split.pair.vm.items()):
            try:
                s = vm.status()
                roles[s["role"]] = host if s["state"] == "PROTECTED" else None
            except ftlab.LabError:
                if vm.alive():
                    raise
            if not vm.alive():
                expect(vm.code == EXIT_FENCED, f"host {host}: exit code {vm.code}: {vm.log_text()}")
                split.lab.release(vm)
                split.pair.secondary(host)
        if roles.get("primary") and roles.get("secondary"):
            return roles["primary"]
        split.load.nap(0.02)


@test(120)
def stutter(lab):
    """either side or both are frozen for 20 to 400 ms, with the default timeout of 100 ms"""
    split = Split(lab, proxy=False, timeout="100ms")
    for _ in range(max(2, ftlab.work(12))):
        random_wait(lab, split.load, 0.05, 0.3)
        frozen = lab.rng.choice(("A", "B", split.here, "AB"))
        for host in frozen:
            split.pair.vm[host].signal(signal.SIGSTOP)
        random_wait(lab, split.load, 0.02, 0.4)
        for host in frozen:
            split.pair.vm[host].signal(signal.SIGCONT)
        lab.probe()
        random_wait(lab, split.load, 0.2, 0.3)
        now = steady(split)
        generation = split.pair.vm[now].status()["generation"]
        if generation <= split.generation + 1:  # else it went to and fro meanwhile
            split.one_voice(split.here, now)
        split.drain()
        split.here, split.generation = now, generation
    split.finish()


KVM_FAULT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* An empty file: KVM fails. Else the guest crashes. */
static int fails(int fd, const struct stat *st)
{
	struct kvm_run *run;

	if (!st->st_size) {
		errno = EFAULT;
		return -1;
	}
	run = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run == MAP_FAILED)
		abort();
	run->exit_reason = KVM_EXIT_SHUTDOWN;
	munmap(run, 4096);
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	int (*real)(int, unsigned long, void *) = dlsym(RTLD_NEXT, "ioctl");
	struct stat st;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == KVM_RUN && !stat(getenv("KVM_FAULT"), &st))
		return fails(fd, &st);
	return real(fd, request, arg);
}
"""


class KvmFault:
    """A host whose KVM, once it is broken, runs no guest any more."""

    def __init__(self, lab, name):
        if ftlab.SANITIZED:
            raise Skip("a sanitizer wants to be the first library")
        self.path, library = lab.path(name), lab.path("kvm_fault.so")
        if not os.path.exists(library):
            preload(lab, library, KVM_FAULT)
        self.env = {"LD_PRELOAD": library, "KVM_FAULT": self.path}

    def break_it(self):
        open(self.path, "w").close()

    def crash(self):
        """The guest there has a triple fault, and again each time it is let go."""
        with open(self.path + ".new", "w") as f:
            f.write("crash")
        os.rename(self.path + ".new", self.path)

    def mend(self):
        os.unlink(self.path)


@test(60)
def kvm_fails_primary(lab):
    """the primary's KVM fails: its host's fault, so it leaves without a goodbye, and the secondary takes over"""
    for cpus in eighth(lab, (1, 2)):
        fault = KvmFault(lab, f"fault-{cpus}")
        pair = Pair(lab, disk=32, cpus=cpus)
        a, b = pair.protect(env={"A": fault.env})
        load = start_load(lab)
        random_wait(lab, load, 0.2, 0.5)
        broken = ftlab.mono()
        fault.break_it()
        expect(a.wait_exit(10) == 2, f"{cpus} CPUs: exit code {a.code}: {a.log_text()}")
        a.wait_log("this host cannot run the guest any more: KVM_RUN: Bad address; .*secondary takes over")
        pair.taken_over("B", broken)
        lab.probe()
        lab.release(a)
        pair.secondary("A")
        pair.in_step(20)
        check_load(lab, [load], pair.image["B"])
        lab.release(load)
        pair.end()


@test(60)
def kvm_fails_everywhere(lab):
    """what fails at the secondary, too, is the guest's fault: it ends there, and that side may start it again"""
    fault = KvmFault(lab, "fault")
    pair = Pair(lab, guest="writer", cmdline="mode=hot tick=10 pages=32", disk=4, net=False)
    a, b = pair.protect(env={h: fault.env for h in "AB"})
    fault.break_it()
    for vm in (a, b):
        expect(vm.wait_exit(15) == 2, f"exit code {vm.code}: {vm.log_text()}")
    b.wait_log("guest crashed: KVM_RUN: Bad address")
    lab.release(a, b)
    pair.primary("B").wait_state("UNPROTECTED")
    pair.end()


@test(30)
def kvm_fails_alone(lab):
    """without a secondary it is the end, and said whose"""
    fault = KvmFault(lab, "fault")
    vm = Vm(lab, "A", ["-k", os.path.join(ftlab.GUESTS, "idle.elf"), "-a", "hz=10", "-m", "64M"], fault.env)
    vm.wait_state("RUNNING")
    vm.call("pause")
    fault.break_it()
    vm.call("resume")
    expect(vm.wait_exit(10) == 2, f"exit code {vm.code}")
    vm.wait_log("this host cannot run the guest: KVM_RUN: Bad address")
