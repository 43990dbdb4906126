#!/usr/bin/env python3
"""Inside the test bed: runs the tests of one group. Called by run.py; prints a line for each test."""

import argparse
import os
import random
import shutil
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]
import ftlab
import testlib

# The machine is emulated and may share its host: a deadline is there to end a test, not to judge it.
ftlab.SLOW = 5
KEEP_BYTES = 4 << 20  # of one file of a failed test


class OutOfTime(Exception):
    pass


def out_of_time(sig, frame):
    raise OutOfTime("the test's deadline has passed")


class LinuxLab(ftlab.Lab):
    def report(self, lines=40):
        return super().report(lines)

    def keep(self, folder):
        """Logs outlast the bed only in a folder that it shares."""
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(self.work):
            path = self.path(name)
            if os.path.isfile(path) and os.path.getsize(path) <= KEEP_BYTES and "initramfs" not in name:
                shutil.copy(path, folder)


def run_test(test, seed, logs):
    begin = time.monotonic()
    result, lab, why = "ok", None, ""
    signal.setitimer(signal.ITIMER_REAL, test.deadline)
    try:
        lab = LinuxLab(random.Random(f"{seed}/{test.name}"))
        test.function(lab)
        lab.check_logs()
    except (ftlab.LabError, OutOfTime) as e:
        result, why = "not ok", f" # seed {seed}: {e}"
    except testlib.Skip as e:
        why = f" # SKIP {e}"
    except Exception as e:
        traceback.print_exc(file=sys.stdout)
        result, why = "not ok", f" # seed {seed}: {type(e).__name__}: {e}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if lab:
        if result != "ok":
            print("\n".join("# " + line for line in lab.report().splitlines()))
            lab.keep(os.path.join(logs, test.name))
        lab.close(keep=False)
    # One line: run.py takes it for the test's result.
    print(f"{result} {test.name} {time.monotonic() - begin:.1f}s" + " ".join(why.split("\n")), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--logs", required=True)
    parser.add_argument("module")
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    __import__(args.module)
    signal.signal(signal.SIGALRM, out_of_time)
    known = {t.name: t for t in testlib.tests}
    for name in args.names:
        run_test(known[name], args.seed, args.logs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
