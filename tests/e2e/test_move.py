"""The secondary of a protected VM moves to another host, D, and the VM is covered all the way."""

import os
import re
import signal
import subprocess

import ftlab
from ftlab import FTVMM, Pair, expect
from test_protect import same_images
from testlib import check_load, dies, eighth, random_wait, start_load, test


class Trio(Pair):
    """A and B are in step; D stands by for what A is told."""

    def __init__(self, lab, **options):
        super().__init__(lab, **options)
        if "D" not in lab.ns:
            lab.third()
        if self.image:
            self.image["D"] = lab.path(f"{self.serial:03}-disk-D")
            with open(self.image["D"], "wb") as f:  # of something else: what differs is found out
                f.truncate(os.path.getsize(self.image["A"]))
                for at in range(0, os.path.getsize(self.image["A"]), 4 << 20):
                    f.seek(at)
                    f.write(lab.rng.randbytes(300000))
        self.arbiter_of["D"] = self.arbiter_of["A"]
        self.peer_of["D"] = f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT}"
        self.uri = f"tcp:{ftlab.LINK_IP['D']}:{ftlab.FT_PORT}"

    def stand_by(self, env=None):
        d = self.secondary("D", env=env)
        d.wait_state("STARTING")
        return d

    def move(self, *more):
        """To D, as a user has it done: exit code, what it said."""
        p = ftlab.run(*self.command(*more), check=False, env=self.env(), timeout=60)
        return p.returncode, p.stdout

    def command(self, *more):
        return [FTVMM, "migrate", "vm", "--secondary", self.uri, "--json", *more]

    def env(self):
        return dict(os.environ, XDG_RUNTIME_DIR=self.vm["A"].run_dir)

    def moved(self):
        """D is the secondary, B waits for a primary."""
        self.vm["A"].wait_status(lambda s: s["peer"] == self.uri and s["state"] == "PROTECTED", "D as peer")
        self.vm["D"].wait_state("PROTECTED")
        self.vm["B"].wait_state("STARTING")


@test(120)
def move_secondary(lab):
    """under load: the new secondary takes over all that was answered, connections and all"""
    trio = Trio(lab)
    a, b = trio.protect()
    d = trio.stand_by()
    load = start_load(lab, udp=2, tcp=2, echo=1, stream=1)
    random_wait(lab, load, 0.3, 0.6)
    generation = a.status()["generation"]
    code, said = trio.move()
    expect(code == 0, f"exit code {code}: {said}")
    trio.moved()
    expect(a.status()["generation"] == d.status()["generation"] == generation + 1, "not one generation a move")
    expect(b.stop() == 0, f"stop of the one that was let go: exit code {b.code}")
    random_wait(lab, load, 0.3, 0.6)
    killed = a.kill()
    trio.taken_over("D", killed)
    random_wait(lab, load, 0.3, 0.6)
    check_load(lab, [load], None)
    expect(d.stop() == 0, f"stop of the survivor: exit code {d.code}")
    lab.check([load], trio.image["D"])
    trio.check_ballast("D")
    trio.end()


PRIMARY = ("move-near", "move-sealed", "move-fed", "move-in-step", "move-claim", "move-won", "move-told",
           "move-done")
# Before and after the new one may claim.
NEW_EARLY = ("hello-received", "stage-begin", "stage-state")
NEW_LATE = ("ack-before", "commit-end", "ack-sent", "move-known")
OLD = ("move-let-go",)
STEPS = PRIMARY + ("move-kept", "move-known") + OLD
RUNS = ("UNPROTECTED", "SYNCING", "PROTECTED", "DEGRADED")


def runner(trio, hosts, seconds=15):
    """The one of these hosts that runs the VM."""
    d = ftlab.Deadline(seconds)
    while True:
        run = [h for h in hosts if trio.vm[h].alive() and trio.vm[h].status()["role"] == "primary"
               and trio.vm[h].state() in RUNS]
        if run:
            break
        d.check(f"one of {hosts} that runs the VM")
    expect(len(run) == 1, f"{run} run the VM")
    return run[0]


def one_goes_on(trio, load, hosts):
    """Exactly one of these hosts has the VM, with all that was answered."""
    lab = trio.lab
    host = runner(trio, hosts)
    lab.probe()
    random_wait(lab, load, 0.2, 0.4)
    expect(runner(trio, hosts) == host, "it wandered")
    check_load(lab, [load], None)
    expect(trio.vm[host].stop() == 0, f"stop of the survivor {host}: exit code {trio.vm[host].code}")
    lab.check([load], trio.image[host])
    return host


def move_dies(lab, victim, name, **options):
    trio = Trio(lab, disk=32, epoch=f"{lab.rng.choice((3, 10, 25))}ms", **options)
    env = {victim: {"FTVMM_DIE_AT": name}}
    a, b = trio.protect(env=env)
    trio.stand_by(env=env.get("D"))
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.3)
    trio.move()
    dies(trio.vm[victim])
    host = one_goes_on(trio, load, [h for h in "ABD" if h != victim])
    lab.note(f"{victim} died at {name}: {host} went on")
    trio.end()
    return host


# Who dies at which step, and who may go on.
PRIMARY_DIES = [("A", name, "B") for name in PRIMARY[:2]] + [("A", name, "BD") for name in PRIMARY[2:5]] + \
    [("A", name, "D") for name in PRIMARY[5:]]
NEW_DIES = [("D", name, "A") for name in NEW_EARLY + NEW_LATE]
OLD_DIES = [("B", name, "A") for name in OLD]


def each(lab, cases, **options):
    for victim, name, where in eighth(lab, cases):
        try:
            host = move_dies(lab, victim, name, **options)
            expect(host in where, f"{host} went on")
        except ftlab.LabError as e:
            raise ftlab.LabError(f"{victim} dies at {name}: {e}") from e


@test(240)
def move_primary_dies(lab):
    """at each step: exactly one of the two secondaries goes on"""
    each(lab, PRIMARY_DIES)


@test(240)
def move_primary_frozen(lab):
    """at each step from which two may go on: one does, and the primary that wakes up is fenced"""
    for name in eighth(lab, ("move-fed", "move-in-step", "move-claim", "move-won", "move-told")):
        trio = Trio(lab, disk=32)
        a, b = trio.protect(env={"A": {"FTVMM_STOP_AT": name}})
        trio.stand_by()
        load = start_load(lab)
        random_wait(lab, load, 0.1, 0.3)
        asked = subprocess.Popen(trio.command(), env=trio.env(), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        host = runner(trio, "BD")
        a.signal(signal.SIGCONT)
        expect(a.wait_exit(20) == ftlab.EXIT_FENCED, f"{name}: exit code {a.code}")
        asked.wait(20)
        expect(one_goes_on(trio, load, "BD") == host, f"{name}: it wandered")
        trio.end()


@test(240)
def move_new_dies(lab):
    """at each step: the VM goes on"""
    each(lab, NEW_DIES)


@test(400)
def move_colo_dies(lab):
    """the same with a guest at both sides, and whoever dies"""
    each(lab, PRIMARY_DIES + NEW_DIES + OLD_DIES, ft="colo")


@test(120)
def move_old_dies(lab):
    """at some instant, or when it is let go: the VM goes on"""
    for _ in range(ftlab.work(3)):
        trio = Trio(lab, disk=32)
        a, b = trio.protect()
        trio.stand_by()
        load = start_load(lab)
        random_wait(lab, load, 0.1, 0.2)
        asked = subprocess.Popen(trio.command(), env=trio.env(), stdout=subprocess.DEVNULL)
        random_wait(lab, load, 0.0, 0.2)
        b.kill()
        asked.wait(60)
        one_goes_on(trio, load, "AD")
        trio.end()
    each(lab, OLD_DIES)


def to_and_fro(lab, moves, filled=0, **options):
    """Every epoch is verified, the first one of each secondary and those that build on it."""
    trio = Trio(lab, extra=["--verify"], epoch="10ms", timeout="2s", **options)
    if filled:  # so that a pass over the disk takes its time
        with open(trio.image["A"], "r+b") as f:
            f.seek(16 << 20)
            f.write(lab.rng.randbytes(filled << 20))
    a, b = trio.protect()
    trio.stand_by()
    for i in range(moves):
        to, other = ("D", "B") if i % 2 == 0 else ("B", "D")
        before = trio.vm[to].status()["epochs_total"]
        trio.uri = f"tcp:{ftlab.LINK_IP[to]}:{ftlab.FT_PORT}"
        code, said = trio.move()
        expect(code == 0, f"move {i + 1}: exit code {code}: {said}")
        epochs = max(6, ftlab.work(20))
        trio.vm[to].wait_status(lambda s: s["epochs_total"] >= before + epochs or s["state"] != "PROTECTED",
                                f"{epochs} epochs", 20)
        expect(trio.vm[to].state() == "PROTECTED", f"move {i + 1}: {to} is {trio.vm[to].state()}")
        trio.vm[other].wait_state("STARTING")
        expect(a.state() == "PROTECTED", f"move {i + 1}: A is {a.state()}")
    return trio


@test(120)
def move_verify_writer(lab):
    """a guest that writes much, several times to and fro: the same memory at each side"""
    trio = to_and_fro(lab, max(2, ftlab.work(4)), guest="writer",
                      cmdline="mode=hot tick=10 pages=600 seconds=100", disk=0, net=False)
    text = trio.vm["A"].console_text()
    expect(not re.search("CORRUPT|FAILED|STALLED|TRAP", text), text)
    trio.end()


@test(120)
def move_verify_turns(lab):
    """captures that have turns: the move's last epoch is none of those that are under way"""
    trio = to_and_fro(lab, max(2, ftlab.work(4)), guest="writer",
                      cmdline="mode=seq tick=5 pages=1500 total=12000 words=1 seconds=100", disk=0, net=False)
    text = trio.vm["A"].console_text()
    expect(not re.search("CORRUPT|FAILED|STALLED|TRAP", text), text)
    trio.end()


@test(120)
def move_verify_smp(lab):
    """two CPUs, several times to and fro"""
    trio = to_and_fro(lab, max(2, ftlab.work(4)), guest="smp", cmdline="", cpus=2, disk=0, net=False)
    text = trio.vm["A"].console_text()
    expect(not re.search("CORRUPT|FAILED|STALLED|TRAP", text), text)
    trio.end()


@test(120)
def move_verify_blk(lab):
    """a busy disk, there and back, and an orderly stop: the images are equal"""
    moves = 2 * ftlab.work(2)  # back at B
    trio = to_and_fro(lab, moves, filled=max(16, ftlab.work(64)), guest="blk", cmdline="ops=10000000 region=8K",
                      net=False, disk=96)
    a, b = trio.vm["A"], trio.vm["B"]
    expect(a.stop() == 0, f"exit code {a.code}: {a.console_text()}")
    b.wait_state("STARTING")
    expect(b.stop() == 0, f"exit code {b.code}")
    same_images(trio)
    trio.end()


@test(120)
def move_primary(lab):
    """the primary moves, too: to the new secondary; the old one is that one's by itself"""
    trio = Trio(lab)
    a, b = trio.protect()
    d = trio.stand_by()
    load = start_load(lab, udp=2, tcp=2, echo=1, stream=1)
    code, said = trio.move()
    expect(code == 0, f"exit code {code}: {said}")
    trio.moved()
    a.call("failover")
    expect(a.wait_exit(20) == 3, f"exit code {a.code}")
    d.wait_state("PROTECTED", seconds=20)
    b.wait_state("PROTECTED")
    random_wait(lab, load, 0.2, 0.4)
    check_load(lab, [load], None)
    expect(d.stop() == 0, f"stop: exit code {d.code}")
    lab.check([load], trio.image["D"])
    lab.check([load], trio.image["B"])
    trio.end()


@test(120)
def move_old_image(lab):
    """after an orderly stop the image of the one that was let go does not start unasked; the others do"""
    trio = Trio(lab, guest="idle", cmdline="hz=10", net=False)
    a, b = trio.protect()
    d = trio.stand_by()
    expect(trio.move()[0] == 0, "no move")
    trio.moved()
    expect(a.stop() == 0, f"exit code {a.code}")
    d.wait_state("STARTING")
    lab.release(b, d)
    b = trio.primary("B")
    expect(b.wait_exit(10) == ftlab.EXIT_FENCED and "the image here is older than theirs" in b.log_text(), f"{b.code}: {b.log_text()}")
    d = trio.primary("D")
    d.wait_state("UNPROTECTED")
    expect(d.stop() == 0, f"exit code {d.code}")
    trio.end()


@test(120)
def move_both_stay_known(lab):
    """a primary that loses the new secondary finds the old one, and then the new one again"""
    trio = Trio(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
    a, b = trio.protect()
    d = trio.stand_by()
    expect(trio.move()[0] == 0, "no move")
    d.kill()
    a.wait_status(lambda s: s["state"] == "PROTECTED" and s["peer"] == trio.peer_of["A"], "B as peer", 20)
    b.kill()
    trio.stand_by()
    a.wait_status(lambda s: s["state"] == "PROTECTED" and s["peer"] == trio.uri, "D as peer", 20)
    trio.end()


@test(120)
def move_refused(lab):
    """what cannot be a move says why, and the VM is as safe as before"""
    trio = Trio(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
    a, b = trio.protect()
    generation = a.status()["generation"]

    def refused(pattern):
        code, said = trio.move()
        expect(code == 2 and re.search(pattern, said), f"exit code {code}: {said}")
        status = a.status()
        expect(status["state"] == "PROTECTED" and status["generation"] == generation, f"{status}")

    refused("cannot connect|refused|no answer")  # nobody is there
    trio.secondary("D", "--arbiter", f"file:{lab.path('other')}").wait_state("STARTING")
    refused("refuses: .*same --arbiter")
    lab.release(trio.vm["D"])
    uri, trio.uri = trio.uri, trio.peer_of["A"]
    refused("is the secondary")
    trio.uri = uri
    code, said = trio.move("--cancel")
    expect(code == 1 and "exclude each other" in said, f"exit code {code}: {said}")
    b.kill()
    a.wait_state("DEGRADED")
    code, said = trio.move()
    expect(code == 2 and "no secondary is in step" in said, f"exit code {code}: {said}")
    trio.end()


@test(120)
def move_cancelled(lab):
    """--cancel, a stop and a failover end a move that has not gone too far"""
    for end in eighth(lab, ("cancel", "failover", "stop")):
        trio = Trio(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
        a, b = trio.protect()
        d = trio.stand_by(env={"FTVMM_STOP_AT": "hello-received"})
        asked = subprocess.Popen(trio.command(), env=trio.env(), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        a.wait_status(lambda s: s.get("migration") and s["migration"]["phase"] == "MOV_HELLO", "MOV_HELLO")
        if end == "cancel":
            a.call("migrate", cancel=True)
            expect(asked.wait(20) == 2, f"exit code {asked.returncode}")
            expect(a.status()["migration"]["status"] == "cancelled", f"{a.status()['migration']}")
            expect(a.state() == b.state() == "PROTECTED", f"{a.state()}, {b.state()}")
        elif end == "failover":
            a.call("failover")
            expect(a.wait_exit(20) == 3, f"exit code {a.code}")
            b.wait_status(lambda s: s["role"] == "primary", "B as primary")
        else:
            expect(a.stop() == 0, f"exit code {a.code}")
            b.wait_state("STARTING")
        asked.wait(20)
        d.kill()
        trio.end()
