#!/usr/bin/env python3
"""Runs tests one after the other where it stands: on this host, or in a bed. Started by tests/pool.py.

usage: worker.py [--verbose] SEED LOGS SUITE...
A line on standard input asks for a test: `MODULE NAME DEADLINE`. It says `READY SLOW` first, then, after all that a
test says, `RESULT VERDICT SECONDS WHY`: ok, skip or fail. Logs of a failed test are kept in LOGS/NAME."""

import os
import random
import shutil
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, *(os.path.join(HERE, suite) for suite in ("e2e", "linux", "docs"))]
if os.path.isdir("/scratch") and "FTVMM_IN_BED" in os.environ:
    os.environ["TMPDIR"] = "/scratch"  # a real disk, which takes O_DIRECT
import ftlab
import host
import pool
import testlib

KEEP_BYTES = 4 << 20  # of one file of a failed test
HELLO_SECONDS = 0.03  # what it takes on a machine with KVM of its own
SLOW_MAX = 30


class OutOfTime(Exception):
    pass


def out_of_time(sig, frame):
    raise OutOfTime("the test's deadline has passed")


def measure_slow():
    """How many times slower than a machine with KVM of its own this one is: from start to end of a small guest, the
    best of some tries. Without KVM only what has no VM runs here, and that as fast as anywhere."""
    if host.kvm()[0] == host.NONE and "FTVMM_IN_BED" not in os.environ:
        return 1
    best = None
    for _ in range(4):
        begin = time.monotonic()
        ftlab.run(ftlab.FTVMM, "run", "-k", f"{ftlab.GUESTS}/hello.elf", "-m", "64M", "--console", "none", "--name",
                  f"measure{os.getpid()}")
        took = time.monotonic() - begin
        best = took if best is None else min(best, took)
    return min(SLOW_MAX, max(1, best / HELLO_SECONDS))


def keep(lab, folder):
    """What the laboratory wrote outlasts it, and the bed, in a folder that both see."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name in os.listdir(lab.work):
        path = lab.path(name)
        if os.path.isfile(path) and os.path.getsize(path) <= KEEP_BYTES and "initramfs" not in name:
            shutil.copy(path, folder)
    print(f"# logs are kept in {os.path.relpath(folder, ftlab.ROOT)}")


def run_test(test, seed, logs, verbose):
    """Verdict and why."""
    lab, verdict, why = None, "ok", ""
    try:
        try:
            lab = ftlab.Lab(random.Random(f"{seed}/{test.name}"), verbose)
            test.function(lab)
            lab.check_logs()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except testlib.Skip as e:
        verdict, why = "skip", str(e)
    except (ftlab.LabError, OutOfTime) as e:
        verdict, why = "fail", f"seed {seed}: {e}"
    except Exception as e:
        traceback.print_exc(file=sys.stdout)
        verdict, why = "fail", f"seed {seed}: {type(e).__name__}: {e}"
    if lab:
        if verdict == "fail":
            print("\n".join("# " + line for line in lab.report().splitlines()))
            keep(lab, os.path.join(logs, test.name))
        lab.close(keep=False)
    return verdict, " ".join(why.split())


def find(module, name):
    return next(t for t in testlib.tests if t.name == name and t.module == module)


def main():
    verbose = "--verbose" in sys.argv
    seed, logs, *suites = [a for a in sys.argv[1:] if a != "--verbose"]
    pool.find(suites)  # all of them now: their files may change while the first tests run
    signal.signal(signal.SIGALRM, out_of_time)
    ftlab.main_signals()
    ftlab.slow_is(measure_slow())
    print(f"READY {ftlab.SLOW:.1f}", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        module, name, deadline = line.split()
        test, begin = find(module, name), time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, float(deadline))
        try:
            verdict, why = run_test(test, seed, logs, verbose)
        except OutOfTime:  # in the way out
            verdict, why = "fail", f"seed {seed}: the test's deadline has passed"
        print(f"RESULT {verdict} {time.monotonic() - begin:.1f} {why}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
