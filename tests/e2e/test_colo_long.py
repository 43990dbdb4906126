"""Both sides run the guest for long: deaths of either under clients and byte streams, and a run in which nothing grows.

FT_KILLS=N (a few) deaths, FT_MODES (colo) of pairs in which mode, FT_FLAT=SECONDS (20) of the flat run."""

import os
import statistics

import ftlab
from ftlab import Deadline, Load, Pair, expect
from test_kills import answers, any_pair, cpus_run, random_load
from test_protect import SPREAD_KB, same_images
from testlib import check_load, flowing, random_wait, resources, test

KILLS = int(os.environ.get("FT_KILLS", "5"))
MODES = os.environ.get("FT_MODES", "colo").split(",")
FLAT = int(os.environ.get("FT_FLAT", "20"))
OF_A_PAIR = 12
STREAM = 50 << 20  # less on a slow machine, if no number of deaths was asked for


class Streams:
    """Byte streams of 50 MiB, one to the guest and back and one from it, at the same time."""

    def __init__(self, lab, ips):
        self.bytes = STREAM if "FT_KILLS" in os.environ else ftlab.work(STREAM)
        self.load = Load(lab, server=lab.rng.choice(ips), udp=0, tcp=0, echo=1, stream=1, echo_rate=0, stream_rate=0,
                         window=lab.rng.choice((30 << 10, 100 << 10, 400 << 10)), bytes=self.bytes)
        self.load.wait_ready()

    def end(self):
        """Both are over, whole and right."""
        s = self.load.finish(seconds=120, stop=False)
        said = f"byte streams of {self.bytes}: {s}; {self.load.log_text()}"
        expect((s["echo_ok"], s["stream_ok"], s["tcp_kept"]) == (1, 1, 2), said)
        expect(s["echo_bytes"] == s["stream_bytes"] == self.bytes, said)


class Told:
    """What a long test has done, for its output."""

    def __init__(self):
        self.primary = self.secondary = self.running = self.streams = 0
        self.drawn = set()  # numbers of CPUs, cards

    def deaths(self):
        return self.primary + self.secondary

    def __str__(self):
        return (f"{self.primary} deaths of a primary, {self.secondary} of a secondary, {self.running} of them with a twin "
                f"that ran; {self.streams} streams; CPUs, cards: {sorted(self.drawn)}")


def one_death(lab, pair, here, load, told):
    """Of either side of a pair in step, which is made one again. Who runs the guest."""
    random_wait(lab, load, 0.0, 1.0)
    victim = here if lab.rng.random() < 0.7 else pair.other(here)
    survivor = pair.other(victim)
    phase = pair.vm[here].status()["twin"]["phase"]
    killed = pair.vm[victim].kill()
    lab.note(f"host {victim} was killed, {'the primary' if victim == here else 'the secondary'}; twin: {phase}")
    told.running += phase == "runs"
    if victim == here:
        told.primary += 1
        pair.taken_over(survivor, killed)
    else:
        told.secondary += 1
        pair.vm[survivor].wait_state("DEGRADED")
    answers(lab, pair)
    pair.vm[victim].settle()
    pair.secondary(victim)
    pair.in_step(30)
    return survivor


def deaths(lab, most, told):
    """Of one pair, one after the other, as long as its byte streams last."""
    pair = any_pair(lab, f"{told.deaths()} deaths so far", MODES)
    told.drawn.add((pair.cpus, pair.nics))
    last = told.deaths() + most
    a, _ = pair.protect()
    ips = ftlab.GUEST_IPS[:pair.nics]
    loads = [random_load(lab, ip, rate=200) for ip in ips]
    streams, here, boot = Streams(lab, ips), "A", a.console_text()
    while streams.load.alive() and told.deaths() < last:
        here = one_death(lab, pair, here, loads[-1], told)
        cpus_run(pair, here, boot)
    streams.end()
    told.streams += 2
    check_load(lab, loads, pair.image[here])
    pair.check_ballast(here)
    there = pair.other(here)
    expect(pair.vm[here].stop(40) == 0, f"exit code {pair.vm[here].code}: {pair.vm[here].log_text()}")
    pair.vm[there].wait_state("STARTING")
    expect(pair.vm[there].stop() == 0, f"exit code {pair.vm[there].code}: {pair.vm[there].log_text()}")
    if not pair.shared:
        same_images(pair)
    pair.end()
    lab.release(*loads)


@test(max(120, 40 * KILLS))
def kill_streams(lab):
    """FT_KILLS (5) deaths of either side, a few of each pair, with kv clients and 50 MiB streams both ways all the time"""
    told = Told()
    wanted = KILLS if "FT_KILLS" in os.environ else max(2, ftlab.work(KILLS))
    while told.deaths() < wanted:
        try:
            deaths(lab, min(OF_A_PAIR, wanted - told.deaths()), told)
        except ftlab.LabError as e:
            raise ftlab.LabError(f"after {told}: {e}") from e
        print(f"# {told}", flush=True)


def sample(lab, pair):
    """File descriptors, threads and kB of each side, and how long an answer takes, in ms."""
    took = []
    for _ in range(20):
        begin = ftlab.mono()
        took.append((lab.probe() - begin) / 1e6)
    return [resources(pair.vm[h], "RssAnon") for h in "AB"], statistics.median(took)


@test(120 + 2 * FLAT)
def colo_flat(lab):
    """FT_FLAT (20) seconds under load: neither side has more memory, descriptors or threads at the end, nor are answers later"""
    pair = Pair(lab, ft="colo", disk=256, cpus=2, timeout="2s", cmdline=f"ip={ftlab.GUEST_IP} dirty=20")
    a, _ = pair.protect()
    load = Load(lab, udp=2, tcp=2, echo=1, stream=1, rate=20)
    flowing(lab, load)
    seconds = FLAT if "FT_FLAT" in os.environ or ftlab.SLOW < ftlab.SLOW_FROM else FLAT / 4
    samples, d = [], Deadline(seconds / ftlab.SLOW)
    while d.left() > 0 or len(samples) < 9:
        samples.append(sample(lab, pair))
        lab.note(f"fds, threads, kB of both, ms of an answer: {samples[-1]}")
        pair.vm["A"].nap(max(0.1, FLAT / 200))
    s = a.status()
    expect(s["state"] == "PROTECTED" and pair.vm["B"].state() == "PROTECTED", f"{s['state']}: {s['note']}")
    third = len(samples) // 3  # in the first one it takes what it needs
    for i, host in enumerate("AB"):
        first, last = ([r[i] for r, _ in part] for part in (samples[third:2 * third], samples[-third:]))
        fds, threads, kb = (tuple(statistics.median(x[k] for x in part) for part in (first, last)) for k in range(3))
        print(f"# host {host}: {FLAT} s, {len(samples)} samples; fds {fds}, threads {threads}, kB {kb}", flush=True)
        # io_uring's workers count among the threads, and come and go.
        expect(fds[0] == fds[1] and abs(threads[1] - threads[0]) <= 1, f"host {host}: fds {fds}, threads {threads}")
        expect(ftlab.SANITIZED or kb[1] < kb[0] + SPREAD_KB, f"host {host}: {kb} kB")
    first, last = (statistics.median(ms for _, ms in part) for part in (samples[third:2 * third], samples[-third:]))
    print(f"# answers {first:.2f} ms, then {last:.2f} ms; {s['twin']['let_total']} outputs by comparison, "
          f"{s['twin']['checkpoints_total']} checkpoints, differences {s['twin']['differences']}", flush=True)
    expect(last < 3 * first + 20 * ftlab.SLOW, f"an answer took {first:.2f} ms, and later {last:.2f} ms")
    check_load(lab, [load], pair.image["A"])
    pair.end()
