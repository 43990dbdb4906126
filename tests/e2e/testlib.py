"""What the test files share: the list of tests, and checks that many of them make."""

import collections
import os
import re

import ftlab
from ftlab import Load, expect

# module: its file below tests/. vm: does it run a VM? bed: what it needs of a bed beside what that has anyway (tests/pool.py).
Test = collections.namedtuple("Test", "name function deadline about module vm bed")
tests = []
TESTS = os.path.join(ftlab.ROOT, "tests")


class Skip(Exception):
    pass


def test(deadline=60, vm=True, **bed):
    """Registers a function: its name and the first line of its text are what --list shows. vm=False: it needs no KVM.
    bed: mem="8G" or disk."""
    def add(function):
        module = os.path.splitext(os.path.relpath(function.__code__.co_filename, TESTS))[0]
        tests.append(Test(function.__name__, function, deadline,
                          (function.__doc__ or "").strip().splitlines()[0], module, vm, bed))
        return function
    return add


EVERY = os.environ.get("FT_EVERY") == "1"


def some(lab, cases, n):
    """All of them; on a slow machine n, which are others each time (FT_EVERY=1: all)."""
    cases = list(cases)
    return lab.rng.sample(cases, min(n, len(cases))) if ftlab.SLOW > ftlab.SLOW_FROM and not EVERY else cases


def eighth(lab, cases):
    """All of them; on a slow machine an eighth, as some()."""
    return some(lab, cases, (len(cases) + 7) // 8)


def host_digest(lab, pages, rounds, seed=1):
    """What the hash guest must print, by the same C code on this host."""
    source, program = lab.path("model.c"), lab.path("model")
    if not os.path.exists(program):
        with open(source, "w") as f:
            f.write('#include <stdio.h>\n#include <stdlib.h>\n#include "guests/hash_model.h"\n'
                    'int main(int n, char **v) { uint64_t p = atol(v[1]), *w = malloc(p * 4096);\n'
                    'printf("%#018lx\\n", hash_run(w, p, atol(v[2]), atol(v[3]))); }\n')
        ftlab.run(os.environ.get("CC", "cc"), "-O2", "-I", ftlab.ROOT, "-o", program, source)
    return ftlab.run(program, str(pages), str(rounds), str(seed)).stdout.strip()


HASH_STEPS = 16


def hash_work(pages, rounds):
    """So many pages, and rounds as this machine gets through them; a step has whole rounds. Computing alone suffers
    less from an emulation than all around it."""
    return pages, max(HASH_STEPS, min(rounds, ftlab.work(3 * rounds)) // HASH_STEPS * HASH_STEPS)


def hash_cmdline(work):
    """For the hash guest; work: pages and rounds, as for host_digest."""
    pages, rounds = work
    return f"pages={pages} rounds={rounds} every={rounds // HASH_STEPS}"


def wait_hash(lab, vm, work):
    """Until the guest says that it is somewhere in the first third: then time is left on a machine of any speed."""
    done = work[1] // HASH_STEPS * lab.rng.randint(1, HASH_STEPS // 3)
    vm.wait_console(f"^hash {done} ", 30)


LINE, MIB = 64, 1 << 20


def changed(before, after):
    """Addresses of the lines that differ in two of Vm.memory(). KVM itself writes the guest's clocks when it loads
    them: a line for each vCPU, and one for the date if the guest has asked KVM for that."""
    expect(len(before) == len(after), f"{len(after)} bytes of memory, not {len(before)}")
    return [line for at in range(0, len(before), MIB) if before[at:at + MIB] != after[at:at + MIB]
            for line in range(at, min(at + MIB, len(before)), LINE)
            if before[line:line + LINE] != after[line:line + LINE]]


def dies(vm, seconds=15):
    """It kills itself at its step."""
    expect(vm.wait_exit(seconds) == -9, f"{vm}: exit code {vm.code}, not killed at its step: "
                                        f"{vm.log_text()}")


def resources(vm, what="VmRSS"):
    """File descriptors, threads, kB of memory; RssAnon: without the guest's."""
    fds = len(os.listdir(f"/proc/{vm.pid}/fd"))
    tasks = [ftlab.read_text(f"/proc/{vm.pid}/task/{t}/comm") for t in os.listdir(f"/proc/{vm.pid}/task")]
    threads = sum(name != "" and not name.startswith("iou-") for name in tasks)  # those are the kernel's, as many and as long as it likes
    rss = int(re.search(rf"{what}:\s+(\d+)", ftlab.read_text(f"/proc/{vm.pid}/status"))[1])
    return fds, threads, rss


def check_load(lab, loads, image, allow_conn_lost=False):
    """Ends the loads; histories and image must be those of one correct server. The summaries."""
    summaries = [l.finish() for l in loads]
    lab.check(loads, image, *(["--allow-conn-lost"] if allow_conn_lost else []))
    for s in summaries:
        expect(not s["bad_replies"], f"{s['bad_replies']} bad replies")
        if not allow_conn_lost:
            expect(not s["silent"], f"{s['silent']} connections that stand, and on which nothing comes any more")
            for what, total, kept in (("TCP connections", "tcp_total", "tcp_kept"),
                                      ("echo streams", "echo_total", "echo_ok"),
                                      ("byte streams", "stream_total", "stream_ok")):
                expect(s[kept] == s[total], f"{what}: kept {s[kept]} of {s[total]}")
    return summaries


def flowing(lab, load, seconds=10, ip=ftlab.GUEST_IP):
    """The guest answers, and all clients of the load are connected."""
    lab.probe(seconds, ip)
    load.wait_ready(seconds)


def random_wait(lab, process, low, high):
    """A moment that nothing in the system knows of; earlier if the process ends."""
    process.nap(lab.rng.uniform(low, high))


def start_load(lab, ip=ftlab.GUEST_IP, **options):
    load = Load(lab, server=ip, **options)
    flowing(lab, load, ip=ip)
    return load
