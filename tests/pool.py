"""Runs tests of any suite where this host can: natively, or in a pool of beds (tests/testbed), as many at once as
processors, from one queue. A bed that freezes is replaced, and the test that it had is tried again, once."""

import collections
import importlib
import json
import os
import queue
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, *(os.path.join(HERE, suite) for suite in ("e2e", "linux", "docs"))]
import ftlab
import host
import testlib

Suite = collections.namedtuple("Suite", "need modules prepare")
TESTBED = os.path.join(HERE, "testbed/testbed")
WORKER = os.path.join(HERE, "worker.py")
LOGS = os.path.join(ftlab.ROOT, "build/test-logs")  # of failed tests; beds write here, too
CACHE = os.environ.get("FTVMM_CACHE") or \
    os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ftvmm")
TIMES = os.path.join(CACHE, "test-times.json")

BED = {"mem": "4G", "disk": "8G"}  # what a bed has at least
MAX_NATIVE = 4
BED_SECONDS = 3 * 3600  # a bed's life; tests have deadlines of their own
BED_LATE, BED_FAILED = 124, 125
START_SECONDS = 300
GRACE_SECONDS = 60  # after its deadline a test has had its chance to end itself
SLOW_BED = 6  # what deadlines of tests that always run in beds are made for


# --- what there is to run ---------------------------------------------------------------------------

def prepare_linux(tests):
    """Guests, and the programs that are put into them."""
    import prepare
    prepare.prepare(sorted({t.module.split("/")[1] for t in tests}))


SUITES = {
    "e2e": Suite(host.BARE, ("test_boot", "test_cli", "test_trial", "test_check", "test_blocks", "test_console", "test_snapshot", "test_lazy", "test_migrate",
                             "test_migrate_disks", "test_migrate_steps", "test_protect", "test_stop", "test_failover",
                             "test_kemari", "test_off", "test_colo", "test_colo_outputs", "test_colo_steps", "test_colo_long", "test_shared", "test_tls", "test_time", "test_balloon", "test_faults", "test_arbiters", "test_ocf", "test_systemd", "test_sandbox", "test_resync", "test_kills", "test_move", "test_attacks", "test_hostile", "test_bugs",
                             "test_vsock", "test_reset", "test_passt", "test_unit", "test_worst", "test_marks", "test_limits", "test_trace", "test_control"), None),
    "docs": Suite(host.BARE, ("examples",), None),
    "linux": Suite(host.LINUX, ("boot", "power", "memory", "snapshots", "protect", "disks", "beds", "work",
                               "migrations"),
                   prepare_linux),
}


def suite_of(test):
    return test.module.split("/")[0]


def find(suites, names=()):
    """The tests of these suites whose names begin so."""
    for suite in suites:
        for module in SUITES[suite].modules:
            importlib.import_module(module)
    return [t for t in testlib.tests if suite_of(t) in suites and
            (not names or any(t.name.startswith(n) for n in names))]


def needs(test):
    """{mem, disk, net, far} of its bed."""
    module = importlib.import_module(test.module.split("/")[1])
    return {**BED, **getattr(module, "BED", {}), **test.bed}


def gigabytes(size):
    return float(size[:-1]) / {"M": 1024, "G": 1}[size[-1]]


# --- results ----------------------------------------------------------------------------------------

class Results:
    """Counts the tests, prints a line for each as it ends, keeps their times. For all threads."""

    def __init__(self, seed):
        self.seed, self.lock = seed, threading.Lock()
        self.count = {"ok": 0, "fail": 0, "skip": 0}
        self.number, self.replaced = 0, 0
        self.begin = time.monotonic()
        try:
            with open(TIMES) as f:
                self.times = json.load(f)
        except (OSError, ValueError):
            self.times = {}

    def add(self, test, where, verdict, seconds, why, said=()):
        with self.lock:
            self.number += 1
            self.count[verdict] += 1
            text = "".join(said) if verdict == "fail" else ""
            line = f"{'not ok' if verdict == 'fail' else 'ok'} {self.number} {test.name} {seconds:.1f}s {where}"
            line += {"ok": "", "skip": f" # SKIP {why}", "fail": f" # {why}"}[verdict]
            print(f"{text}{line}", flush=True)
            if verdict == "ok":
                self.times[f"{where.split()[0]} {test.name}"] = round(seconds, 1)

    def say(self, text):
        with self.lock:
            print(text, flush=True)

    def replace(self, where, test, code):
        with self.lock:
            self.replaced += 1
            print(f"# {where} ended with {code}: replaced, and {test.name if test else 'nothing'} tried again", flush=True)

    def expected(self, test, kind):
        """Seconds that it took last time, or a guess."""
        return self.times.get(f"{kind} {test.name}", test.deadline / 4)

    def keep_times(self):
        try:
            os.makedirs(CACHE, exist_ok=True)
            with open(TIMES + ".new", "w") as f:
                json.dump(self.times, f, indent=0, sort_keys=True)
            os.replace(TIMES + ".new", TIMES)
        except OSError as e:
            print(f"# times of tests are not kept: {e}")

    def summary(self):
        n = self.count
        return f"{n['ok']} passed, {n['fail']} failed, {n['skip']} skipped; beds replaced: {self.replaced}"


# --- places: a worker on this host, or one in a bed -------------------------------------------------

class Ended(Exception):
    """The worker is gone."""


class Place:
    """A worker process that is asked by lines and answers by lines."""

    def __init__(self, name, argv, verbose):
        self.name, self.verbose = name, verbose
        self.lines = queue.Queue()
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     text=True, errors="replace", cwd=ftlab.ROOT, bufsize=1)
        threading.Thread(target=self.read, daemon=True).start()
        self.said = []
        try:
            self.slow = float(self.wait("READY ", START_SECONDS))
        except BaseException:
            self.end()
            raise

    def read(self):
        for line in self.proc.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def wait(self, word, seconds):
        """What follows that word at the start of a line; what was said before is in .said."""
        end, self.said = time.monotonic() + seconds, []
        while True:
            try:
                line = self.lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"nothing was heard for {seconds:.0f} s") from None
            if line is None:
                raise Ended(self.proc.wait())
            if line.startswith(word):
                return line[len(word):].rstrip("\n")
            self.said.append(line)
            if self.verbose:
                print(line, end="", flush=True)

    def run(self, test):
        """Verdict, seconds, why."""
        deadline = test.deadline * max(1, self.slow / (SLOW_BED if suite_of(test) == "linux" else 1))
        try:
            self.proc.stdin.write(f"{test.module} {test.name} {deadline:.1f}\n")
            self.proc.stdin.flush()
        except BrokenPipeError:
            raise Ended(self.proc.wait()) from None
        words = self.wait("RESULT ", deadline + GRACE_SECONDS).split(" ", 2)
        return words[0], float(words[1]), words[2] if len(words) > 2 else ""

    def end(self):
        try:
            self.proc.stdin.write("\n")
            self.proc.stdin.close()
            self.proc.wait(10)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            pass
        for end in (self.proc.terminate, self.proc.kill):
            try:
                if self.proc.poll() is None:
                    end()
                    self.proc.wait(10)
            except subprocess.TimeoutExpired:
                pass


def worker(seed, suites, verbose):
    return [WORKER, *(["--verbose"] if verbose else []), str(seed), LOGS, *suites]


class Native(Place):
    kind, shape = "native", None

    def __init__(self, number, shape, seed, suites, verbose):
        super().__init__(f"native {number}", worker(seed, suites, verbose), verbose)

    def fits(self, shape):
        return True


def free_ports(n):
    """TCP ports that nobody listens at now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


class Bed(Place):
    kind = "bed"

    def __init__(self, number, shape, seed, suites, verbose):
        self.shape, self.far = shape, None
        ports = free_ports(2)
        argv = [TESTBED, "-m", shape["mem"], "--disk", shape["disk"], "-t", str(BED_SECONDS), "-w", LOGS, "--stdin",
                "-e", "FTVMM_IN_BED=1", *(o.format(*ports) for o in shape.get("net", ()))]
        for name in os.environ:
            if name.startswith(("FT_", "FTVMM_", "LINUX_", "MIGRATIONS")) and name not in ("FTVMM_BED", "FTVMM_CACHE"):
                argv += ["-e", name]
        if "far" in shape:
            self.far = self.start_far([o.format(*ports) for o in shape["far"]])
        try:
            super().__init__(f"bed {number}", [*argv, "--", *worker(seed, suites, verbose)], verbose)
        except BaseException:
            self.end_far()
            raise

    def start_far(self, options):
        """The other machine of a test that needs two."""
        self.far_log = os.path.join(LOGS, "far-bed")
        with open(self.far_log, "wb") as out:
            return subprocess.Popen([TESTBED, *options, "-t", str(BED_SECONDS), "-w", LOGS, "--",
                                     os.path.join(HERE, "linux/far.py")],
                                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ftlab.ROOT)

    def end_far(self):
        if self.far:
            self.far.terminate()
            self.far.wait()

    def run(self, test):
        result = super().run(test)
        # The test may have crashed it on purpose; when it froze, the test says nothing.
        if result[0] == "fail" and self.far:
            self.end_far()
            if "frozen" in ftlab.read_text(self.far_log):
                raise Ended(BED_FAILED)
            super().end()  # it has lost its other half
        return result

    def fits(self, shape):
        """Can it be used for a test with these needs?"""
        return (self.shape.get("net"), self.shape.get("far")) == (shape.get("net"), shape.get("far")) and \
            all(gigabytes(self.shape[k]) >= gigabytes(shape[k]) for k in BED)

    def end(self):
        super().end()
        self.end_far()


def run_in_bed(program, arguments):
    """This program again, in a bed, with what it prints. Its exit code."""
    missing = bed_missing()
    if missing:
        print(missing)
        return 1
    argv = [TESTBED, "-m", BED["mem"], "--disk", BED["disk"], "-t", "900", "-e", "FTVMM_IN_BED=1",
            "-e", f"FTVMM_BUILD={os.path.relpath(ftlab.BUILD, ftlab.ROOT)}", "--", program, *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, cwd=ftlab.ROOT).returncode


# --- the pool ---------------------------------------------------------------------------------------

class Pool:
    def __init__(self, kind, tests, results, verbose):
        self.kind, self.results, self.verbose = kind, results, verbose
        self.lock, self.broken = threading.Lock(), []
        self.tests = list(tests)
        self.suites = list(dict.fromkeys(suite_of(t) for t in tests))
        if until():  # what is left out then is left to chance
            random.Random(results.seed).shuffle(self.tests)
        else:
            self.tests.sort(key=lambda t: -results.expected(t, kind.kind))

    def take(self, place):
        """The next test; one that the place fits, if there is one."""
        with self.lock:
            if until() and time.time() > until():
                for t in self.tests:
                    self.results.add(t, "-", "skip", 0, "no time was left for it (FTVMM_UNTIL)")
                self.tests = []
            fitting = [t for t in self.tests if place and place.fits(needs(t))]
            test = (fitting or self.tests or [None])[0]
            if test:
                self.tests.remove(test)
            return test

    def start(self, number, shape):
        for attempt in (1, 2):
            try:
                return self.kind(number, shape, self.results.seed, self.suites, self.verbose)
            except (Ended, TimeoutError) as e:
                why = e.args[0]
                self.results.say(f"# {self.kind.kind} {number} did not start: {why}")
                if attempt == 2 or self.kind != Bed or why not in (BED_LATE, BED_FAILED):
                    raise
                self.results.replace(f"bed {number}", None, why)
        return None

    def try_test(self, place, test):
        """True: it has a result. False: the place is gone, through no fault of the test."""
        begin = time.monotonic()
        try:
            verdict, seconds, why = place.run(test)
        except Ended as e:
            if place.kind == "bed" and e.args[0] in (BED_LATE, BED_FAILED):
                return False
            verdict, why = "fail", f"the worker ended with {e.args[0]}"
        except TimeoutError as e:
            verdict, why = "fail", f"it did not end at its deadline: {e}"
        else:
            self.results.add(test, place.name, verdict, seconds, why, place.said)
            return True
        self.results.add(test, place.name, verdict, time.monotonic() - begin, why, place.said)
        place.end()
        return True

    def work(self, number):
        place = test = None
        try:
            while test := self.take(place):
                for attempt in (1, 2):
                    if place and (not place.fits(needs(test)) or place.proc.poll() is not None):
                        place.end()
                        place = None
                    place = place or self.start(number, needs(test))
                    if self.try_test(place, test):
                        test = None
                        break
                    code = place.proc.poll()
                    place.end()
                    if attempt == 1:
                        self.results.replace(place.name, test, code)
                    else:
                        self.results.add(test, place.name, "fail", 0, f"the bed ended with {code}, twice", place.said)
                        test = None
        except BaseException as e:  # of this program, or no place can be had
            self.broken.append(e)
            if test:
                self.results.add(test, "-", "fail", 0, f"it could not be run: {e!r}")
        finally:
            if place:
                place.end()

    def run(self, jobs):
        threads = [threading.Thread(target=self.work, args=(n + 1,), daemon=True) for n in range(jobs)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for test in self.tests:
            self.results.add(test, "-", "fail", 0, f"it had no turn: {(self.broken or ['?'])[0]!r}")
        self.tests = []


def bed_missing():
    """Installs what a bed needs, when root. Why there can be none, or None."""
    p = subprocess.run([os.path.join(ftlab.ROOT, "configs/deps.sh"), "bed"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors="replace")
    if p.returncode:
        return "no beds: " + (p.stdout.strip().splitlines() or ["no reason given"])[-1]
    return None


def jobs():
    """Beds at once; more than two on two processors freeze each other."""
    return int(os.environ.get("FTVMM_BEDS") or max(1, os.cpu_count() or 1))


def natives():
    """Laboratories at once, one more than processors: a good part of a test's time is spent waiting."""
    return int(os.environ.get("FTVMM_NATIVE") or min(MAX_NATIVE, (os.cpu_count() or 1) + 1))


def until():
    """When the last test is to begin, in seconds since 1970 (FTVMM_UNTIL); 0: no matter."""
    return int(os.environ.get("FTVMM_UNTIL") or 0)


def run(tests, seed, verbose=False):
    """Runs them all. The Results."""
    results = Results(seed)
    shutil.rmtree(LOGS, ignore_errors=True)
    os.makedirs(LOGS)
    print(f"# seed {seed}", flush=True)
    places = {}
    for suite in dict.fromkeys(suite_of(t) for t in tests):
        mine = [t for t in tests if suite_of(t) == suite]
        where, why = host.place(SUITES[suite].need)
        without, _ = host.place(host.NONE)
        print(f"# {suite}: {why}", flush=True)
        free = sum(not t.vm for t in mine)
        if free and where != without:
            print(f"# {suite}: {free} tests without a VM natively", flush=True)
        if SUITES[suite].prepare:
            SUITES[suite].prepare(mine)
        for t in mine:
            places.setdefault("bed" if "far" in needs(t) else where if t.vm else without, []).append(t)
    try:
        in_places(places, results, verbose)
    finally:
        results.keep_times()
    ran = results.count["ok"] + results.count["fail"]
    if until() and 10 * ran < len(tests):
        raise RuntimeError(f"only {ran} of {len(tests)} tests ran until FTVMM_UNTIL: too few to mean anything")
    if results.number != len(tests):
        raise RuntimeError(f"{len(tests)} tests, {results.number} results")
    return results


def in_places(places, results, verbose):
    """All tests, in each kind of place."""
    if places.get("native"):
        Pool(Native, places["native"], results, verbose).run(min(natives(), len(places["native"])))
    in_beds = places.get("bed", [])
    missing = bed_missing() if in_beds else None
    for t in in_beds if missing else ():
        results.add(t, "-", "fail" if os.environ.get("CI") == "true" else "skip", 0, missing)
    if in_beds and not missing:
        alone = [t for t in in_beds if "far" in needs(t)]  # each has two beds
        # Where time is short they are not to be those that it is always short for: they go first.
        Pool(Bed, alone, results, verbose).run(1)
        Pool(Bed, [t for t in in_beds if t not in alone], results, verbose).run(min(jobs(), len(in_beds)))


def seed_of(argument):
    return argument or int(os.environ.get("FT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 31)


def main(suite, about):
    """The command line of one suite."""
    import argparse
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    tests = find([suite], args.names)
    if args.list:
        for t in tests:
            print(f"{t.name:32} {t.about}")
        return 0
    if not tests:
        print(f"no test is called {' '.join(args.names)}; see --list")
        return 2
    ftlab.main_signals()
    try:
        results = run(tests, seed_of(args.seed), args.verbose)
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    print(results.summary())
    return 1 if results.count["fail"] else 0
