#!/usr/bin/env python3
"""Measures ftvmm and prints each figure beside its floor and its target.
usage: bench.py [--list] [--json FILE] [--nice N] [NAME...]       docs/performance.md explains the figures

What needs no vCPU is measured on this machine, always. The rest is, too, where root can run bare guests with KVM;
elsewhere, and with FTVMM_BED=1, in one bed (tests/testbed): an emulated machine, of which only ratios are shown."""

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import benchlib
import figures_colo
import figures_ft
import figures_migrate
import figures_native
import figures_vm
import host
import pool
import worker
from benchlib import ftlab

NATIVE = {name: getattr(figures_native, name) for name in
          ("pages", "capture", "commit", "transfer", "sync", "compare", "frames", "arbiter", "disk", "postcopy")}
VCPU = {
    "start": figures_vm.start,
    "memory": figures_vm.memory,
    "pause": figures_ft.pause,
    "speed": figures_ft.speed,
    "epochs": figures_ft.epochs,
    "bytes": figures_ft.sent_bytes,
    "kill": figures_ft.kill,
    "worst": figures_ft.worst,
    "difference": figures_ft.difference,
    "latency": figures_vm.latency,
    "stream": figures_vm.stream,
    "colo": figures_colo.colo,
    "downtime": figures_migrate.downtime,
    "curve": figures_migrate.curve,
    "passes": figures_migrate.passes,
}
BENCHES = {**NATIVE, **VCPU}

BED_SECONDS = 3000
BED_TRIES = 2
FOLDER = os.path.join(ftlab.ROOT, "build/bench")  # which a bed writes to


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


class Run:
    """The figures of one run and what became of each benchmark, kept in a file from one to the next."""

    def __init__(self, path, report):
        self.path, self.report = path, report
        self.begin, self.load = time.monotonic(), os.getloadavg()[0]
        self.seconds, self.failed, self.skipped = {}, [], {}

    def one(self, name):
        begin = time.monotonic()
        try:
            if name in NATIVE:
                NATIVE[name](self.report)
            else:
                with ftlab.Lab(random.Random(name)) as lab:
                    VCPU[name](lab, self.report)
        except benchlib.Skip as e:
            self.skip(name, str(e))
        except (ftlab.LabError, subprocess.TimeoutExpired) as e:
            print(f"{name}: FAILED: {e}", flush=True)
            self.failed.append(name)
        self.seconds[name] = round(time.monotonic() - begin, 1)
        self.write()

    def skip(self, name, why):
        print(f"{name}: skipped: {why}", flush=True)
        self.skipped[name] = why

    def write(self):
        with open(self.path, "w") as f:
            json.dump({"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "load_before": self.load,
                       "seconds": round(time.monotonic() - self.begin), "seconds_of": self.seconds,
                       "failed": self.failed, "skipped": self.skipped, "figures": self.report.figures}, f, indent=1)

    def take(self, path):
        """What a bed has measured; it may have ended early."""
        try:
            with open(path) as f:
                other = json.load(f)
        except (OSError, ValueError):
            return
        self.report.figures += other["figures"]
        self.seconds.update(other["seconds_of"])
        self.failed += other["failed"]
        self.skipped.update(other["skipped"])


def in_bed(*arguments):
    """This program in a bed; the bed ends in order when this one is told to end."""
    build = ["-e", "FTVMM_BUILD"] if "FTVMM_BUILD" in os.environ else []
    p = subprocess.Popen([pool.TESTBED, "-m", pool.BED["mem"], "--disk", pool.BED["disk"], "-t", str(BED_SECONDS),
                          "-w", FOLDER, "-e", "FTVMM_IN_BED=1", *build, "--", os.path.join(HERE, "bench.py"),
                          *arguments], cwd=ftlab.ROOT)
    try:
        return p.wait()
    finally:
        p.terminate()
        p.wait()


def run_bed(run, names):
    """All of these in one emulated machine; once more for those that a frozen one has left."""
    missing = pool.bed_missing()
    if missing:
        for name in names:
            run.skip(name, missing)
        return
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, "emulated.json")
    for attempt in range(BED_TRIES):
        if os.path.exists(path):
            os.unlink(path)
        code = in_bed("--emulated", "--json", path, *names)
        run.take(path)
        names = [n for n in names if n not in run.seconds]
        if not names:
            return
        print(f"# the bed ended with {code} before {', '.join(names)}", flush=True)
        if code != pool.BED_FAILED:
            break
    for name in names:
        print(f"{name}: FAILED: the bed ended early", flush=True)
        run.failed.append(name)


def emulated(args):
    """In the bed: every deadline and amount of work is for a machine as slow as this one."""
    ftlab.slow_is(worker.measure_slow())
    print(f"# emulated machine, {ftlab.SLOW:.1f} times as slow as one with KVM: less work, and only ratios count")
    run = Run(args.json, benchlib.EmulatedReport())
    run.report.head()
    for name in args.names:
        run.one(name)
    return 1 if run.failed else 0


def list_all():
    for name, function in BENCHES.items():
        print(f"{name:10} {'native' if name in NATIVE else 'needs a vCPU':13} {function.__doc__}")
    return 0


def run_all(args):
    names = args.names or list(BENCHES)
    where, why = host.place(host.BARE)
    run = Run(args.json, benchlib.Report())
    print(f"# what needs a vCPU: {why}")
    print(f"# {os.cpu_count()} CPUs, load before the run {run.load:.2f}")
    in_bed = [n for n in names if n in VCPU and where == "bed"]
    here = [n for n in names if n not in in_bed]
    if here:
        run.report.head()
    for name in here:
        run.one(name)
    if in_bed:
        run_bed(run, in_bed)
    run.write()
    missed = run.report.missed()
    judged = any(f["verdict"] in ("MET", "NOT MET") for f in run.report.figures)
    print(f"# {len(run.report.figures)} figures in {time.monotonic() - run.begin:.0f} s; "
          f"{'not met: ' + ', '.join(missed) if missed else 'all targets met' if judged else 'no targets here'}")
    return 1 if run.failed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", default=os.path.join(ftlab.ROOT, "build/bench.json"))
    parser.add_argument("--nice", type=int, default=0,
                        help="priority of all that is measured, floors and peers alike (-10 on a busy machine)")
    parser.add_argument("--emulated", action="store_true", help="in a bed: started there by this program")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.list:
        return list_all()
    unknown = [n for n in args.names if n not in BENCHES]
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHES)}")
        return 2
    ftlab.main_signals()
    raise_priority(args.nice)
    return emulated(args) if args.emulated else run_all(args)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
