#!/usr/bin/env python3
"""Runs the end-to-end tests. usage: run.py [--list] [--seed N] [--verbose] [NAME|PREFIX...]"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ftlab
import testlib

MODULES = ("boot", "cli", "console", "snapshot", "protect", "failover", "time", "balloon", "faults", "kills", "attacks",
           "hostile", "bugs", "vsock", "reset", "passt")


class OutOfTime(Exception):
    pass


def out_of_time(sig, frame):
    raise OutOfTime("the test's deadline has passed")


def run_test(test, seed, verbose):
    """'ok', 'skip' or 'fail', and why."""
    signal.setitimer(signal.ITIMER_REAL, test.deadline)
    try:
        with ftlab.Lab(random.Random(f"{seed}/{test.name}"), verbose) as lab:
            try:
                test.function(lab)
                lab.check_logs()
            except testlib.Skip as e:
                return "skip", str(e)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return "ok", ""
    except (ftlab.LabError, OutOfTime) as e:
        return "fail", str(e)
    except Exception as e:
        traceback.print_exc(file=sys.stdout)
        return "fail", f"{type(e).__name__}: {e}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def missing():
    """Why nothing can be run here, or None."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not there or not writable"
    if os.geteuid():
        return "network namespaces and taps need root"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FT_SEED", 0)) or
                        random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for name in MODULES:
        importlib.import_module("test_" + name)
    tests = [t for t in testlib.tests
             if not args.names or any(t.name.startswith(n) for n in args.names)]
    if args.list:
        for t in tests:
            print(f"{t.name:24} {t.about}")
        return 0
    if not tests:
        print(f"no test is called {' '.join(args.names)}; see --list")
        return 2
    signal.signal(signal.SIGALRM, out_of_time)
    ftlab.main_signals()
    with tempfile.TemporaryDirectory(prefix="ftbin-") as folder:
        if os.path.exists(ftlab.FTVMM):
            # A copy: a build meanwhile does not disturb the tests.
            ftlab.FTVMM = shutil.copy(ftlab.FTVMM, folder)
        return run_all(tests, args)


def run_all(tests, args):
    why = missing()
    count = {"ok": 0, "fail": 0, "skip": 0}
    print(f"# seed {args.seed}", flush=True)
    for i, test in enumerate(tests, 1):
        begin = time.monotonic()
        if why:
            result = ("fail" if os.environ.get("CI") == "true" else "skip", why)
        else:
            result = run_test(test, args.seed, args.verbose)
        count[result[0]] += 1
        line = f"{'not ok' if result[0] == 'fail' else 'ok'} {i} {test.name} " \
               f"{time.monotonic() - begin:.1f}s"
        if result[0] == "skip":
            line += f" # SKIP {result[1]}"
        elif result[0] == "fail":
            line += f" # seed {args.seed}: {result[1]}"
        print(line, flush=True)
    print(f"{count['ok']} passed, {count['fail']} failed, {count['skip']} skipped")
    return 1 if count["fail"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
