#!/usr/bin/env python3
"""Runs stock Linux guests in the test bed. usage: run.py [--list] [--seed N] [NAME|PREFIX...]
LINUX_BOOTS=N: so many boots (8). LINUX_JOBS=N: so many beds at once (2, or 1 on one processor). LINUX_KILLS=N: so many kills (6)."""

import argparse
import collections
import importlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]
import ftlab
import testlib
from linuxlab import LOGS, TOOLS

# One bed each; the boots: one for each round.
MODULES = ("boot", "power", "memory", "snapshots", "protect", "disks", "beds", "work")
TESTBED = os.path.join(ftlab.ROOT, "tests/testbed/testbed")
BED_SECONDS = 60  # for all that is not a test
BED_LATE, BED_FAILED = 124, 125
RESULT = re.compile(r"(ok|not ok) (\w+) (.*)")


class Results:
    """Numbers the tests, prints and counts them. For all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = {"ok": 0, "not ok": 0, "skip": 0}
        self.number, self.repeated = 0, 0

    def add(self, verdict, name, words, before=""):
        """before: what the test said until then."""
        with self.lock:
            self.number += 1
            self.count["skip" if "# SKIP" in words else verdict] += 1
            print(f"{before}{verdict} {self.number} {name} {words}", flush=True)

    def say(self, text):
        with self.lock:
            print(text, end="", flush=True)

    def take(self, waiting):
        with self.lock:
            return waiting.popleft() if waiting else None

    def repeat(self, tests):
        with self.lock:
            self.repeated += 1
            print(f"# repeated for {' '.join(t.name for t in tests)}", flush=True)


def free_ports(n):
    """TCP ports that nobody listens at now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


class FarBed:
    """The other machine of a module that has FAR_BED."""

    def __init__(self, options, limit):
        self.path = os.path.join(LOGS, "far-bed")
        with open(self.path, "wb") as out:
            self.proc = subprocess.Popen([TESTBED, *options, "-t", str(limit), "-w", LOGS, "--",
                                          os.path.join(HERE, "far.py")],
                                         stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ftlab.ROOT)

    def end(self):
        """True if it froze. A test may have crashed it on purpose."""
        self.proc.terminate()
        self.proc.wait()
        return "frozen" in ftlab.read_text(self.path)


def in_bed(module, tests, seed, results):
    """One bed for these tests. Its exit code, and the tests without a result."""
    limit = BED_SECONDS + sum(t.deadline for t in tests)
    module = importlib.import_module(module)
    ports = free_ports(2)
    options = [o.format(*ports) for o in module.BED]
    argv = [TESTBED, *options, "-t", str(limit), "-w", LOGS]
    for name in ("FTVMM_BUILD", "LINUX_BOOTS", "LINUX_KILLS"):
        if name in os.environ:
            argv += ["-e", name]
    argv += ["--", os.path.join(HERE, "inside.py"), "--seed", str(seed), "--logs", LOGS, module.__name__,
             *(t.name for t in tests)]
    left, failed, said = {t.name: t for t in tests}, [], ""
    far = FarBed([o.format(*ports) for o in module.FAR_BED], limit) if hasattr(module, "FAR_BED") else None
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          text=True, errors="replace", cwd=ftlab.ROOT) as bed:
        try:
            for line in bed.stdout:
                match = RESULT.fullmatch(line.rstrip("\n"))
                if match and match[2] in left:
                    if far and match[1] == "not ok":
                        failed.append((*match.groups(), said))
                    else:
                        del left[match[2]]
                        results.add(*match.groups(), said)
                    said = ""
                else:
                    said += line
        except BaseException:
            bed.terminate()
            raise
        finally:
            far_frozen = far and far.end()
            results.say(said)
    if far_frozen:
        return BED_FAILED, list(left.values())
    for one in failed:
        del left[one[1]]
        results.add(*one)
    return bed.returncode, list(left.values())


def run_group(module, tests, seed, results):
    """A bed that hung or died is the emulator's fault and is repeated once, for what it had not done."""
    left = tests
    for attempt in (1, 2):
        begin = time.monotonic()
        code, left = in_bed(module, left, seed, results)
        results.say(f"# bed of {module}: exit code {code}, {time.monotonic() - begin:.0f}s\n")
        if not left:
            return
        if code not in (BED_LATE, BED_FAILED):
            break
        if attempt == 1:
            results.repeat(left)
    for t in left:
        results.add("not ok", t.name, f"0.0s # seed {seed}: the bed ended with {code} before this test did")


def run_all(todo, seed, results, jobs):
    """So many beds at once, the longest first. Those of modules that need two come last, alone."""
    todo = sorted(todo, key=lambda group: -sum(t.deadline for t in group[1]))
    alone = [g for g in todo if hasattr(importlib.import_module(g[0]), "FAR_BED")]
    waiting, broken = collections.deque(g for g in todo if g not in alone), []

    def work():
        try:
            while group := results.take(waiting):
                run_group(*group, seed, results)
        except Exception as e:
            broken.append(e)
    # Daemons: the beds of a run that is interrupted end with their threads.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if broken:
        raise broken[0]
    for module, tests in alone:
        run_group(module, tests, seed, results)


def why_not():
    """Why nothing can be run here: only that QEMU is not there and cannot be had. Or None."""
    p = subprocess.run([os.path.join(ftlab.ROOT, "configs/deps.sh"), "linux"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors="replace")
    if shutil.which("qemu-system-x86_64"):
        return None
    return "QEMU is not there and cannot be installed: " + (p.stdout.strip().splitlines() or ["no reason given"])[-1]


def prepare(modules):
    """Guests and the programs that are put into them."""
    parts = {"kernels"}.union(*(getattr(importlib.import_module(m), "PARTS_OF_LINUX", ()) for m in modules))
    subprocess.run([os.path.join(ftlab.ROOT, "guests/linux/build"), *sorted(parts)], check=True)
    os.makedirs(TOOLS, exist_ok=True)
    for name in os.listdir(os.path.join(HERE, "guest")):
        source, program = os.path.join(HERE, "guest", name), os.path.join(TOOLS, name[:-2])
        if name.endswith(".c") and not (os.path.exists(program) and
                                        os.path.getmtime(program) > os.path.getmtime(source)):
            subprocess.run([os.environ.get("CC", "gcc"), "-O2", "-s", "-static", "-Wall", "-Wextra", "-o", program,
                            source], check=True)
    shutil.rmtree(LOGS, ignore_errors=True)
    os.makedirs(LOGS)


def groups(names):
    """[(module, its tests)]; the boots' rounds have a bed each."""
    found = collections.OrderedDict()
    for module in MODULES:
        importlib.import_module(module)
    for t in testlib.tests:
        if not names or any(t.name.startswith(n) for n in names):
            round_ = re.search(r"_round\d+$", t.name)
            found.setdefault((t.function.__module__, round_ and round_[0]), []).append(t)
    return [(module, tests) for (module, _), tests in found.items()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FT_SEED", 0)) or
                        random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    todo = groups(args.names)
    if args.list:
        for module, tests in todo:
            for t in tests:
                print(f"{t.name:32} {t.about}")
        return 0
    if not todo:
        print(f"no test is called {' '.join(args.names)}; see --list")
        return 2
    ftlab.main_signals()
    results, why = Results(), why_not()
    print(f"# seed {args.seed}", flush=True)
    if why:
        for _, tests in todo:
            for t in tests:
                results.add("ok", t.name, f"0.0s # SKIP {why}")
    else:
        prepare([module for module, _ in todo])
        run_all(todo, args.seed, results, int(os.environ.get("LINUX_JOBS") or min(2, os.cpu_count() or 1)))
    n = results.count
    print(f"{n['ok']} passed, {n['not ok']} failed, {n['skip']} skipped; beds repeated: {results.repeated}")
    return 1 if n["not ok"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
