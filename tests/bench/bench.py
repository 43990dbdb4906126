#!/usr/bin/env python3
"""Measures ftvmm and prints each figure beside its floor and its target.
usage: bench.py [--list] [--json FILE] [--nice N] [NAME...]       docs/performance.md explains the figures"""

import argparse
import datetime
import json
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import benchlib
import figures_ft
import figures_vm
from benchlib import ftlab

BENCHES = {
    "start": figures_vm.start,
    "memory": figures_vm.memory,
    "pause": figures_ft.pause,
    "speed": figures_ft.speed,
    "epochs": figures_ft.epochs,
    "bytes": figures_ft.sent_bytes,
    "kill": figures_ft.kill,
    "latency": figures_vm.latency,
    "stream": figures_vm.stream,
}


def raise_priority(nice):
    """Of this process and all it starts, against other sessions too (they are scheduled as groups)."""
    if not nice:
        return
    os.nice(nice)
    try:
        os.setsid()
        with open("/proc/self/autogroup", "w") as f:
            f.write(str(nice))
    except OSError as e:
        print(f"# priority only among processes of this terminal: {e}")


def run_one(name, report):
    try:
        with ftlab.Lab(random.Random(name)) as lab:
            BENCHES[name](lab, report)
    except benchlib.Skip as e:
        print(f"{name}: skipped: {e}", flush=True)
    except ftlab.LabError as e:
        print(f"{name}: FAILED: {e}", flush=True)
        return False
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", default=os.path.join(ftlab.ROOT, "build/bench.json"))
    parser.add_argument("--nice", type=int, default=0,
                        help="priority of all that is measured, floors and peers alike (-10 on a busy machine)")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.list:
        for name, function in BENCHES.items():
            print(f"{name:10} {function.__doc__}")
        return 0
    unknown = [n for n in args.names if n not in BENCHES]
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHES)}")
        return 2
    if os.geteuid() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("benchmarks need root (network namespaces) and /dev/kvm")
        return 2
    ftlab.main_signals()
    raise_priority(args.nice)
    report, begin = benchlib.Report(), time.monotonic()
    load = os.getloadavg()[0]
    print(f"# {os.cpu_count()} CPUs, load before the run {load:.2f}")
    report.head()
    failed = [n for n in args.names or BENCHES if not run_one(n, report)]
    with open(args.json, "w") as f:
        json.dump({"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "load_before": load,
                   "seconds": round(time.monotonic() - begin), "failed": failed,
                   "figures": report.figures}, f, indent=1)
    missed = report.missed()
    print(f"# {len(report.figures)} figures in {time.monotonic() - begin:.0f} s; "
          f"{'not met: ' + ', '.join(missed) if missed else 'all targets met'}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
