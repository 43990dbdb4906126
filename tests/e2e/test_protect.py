"""A protected guest, and what becomes of it when one side dies."""

import json
import os
import re
import signal
import socket
import time

import ftlab
from ftlab import EXIT_FENCED, FrameWatch, Pair, Vm, expect
from testlib import (Skip, check_load, hash_cmdline, hash_work, host_digest, eighth, random_wait, resources,
                     start_load, test, wait_hash)


@test(60)
def mc_basic(lab):
    """kv under load: the primary is killed once, nobody notices"""
    pair = Pair(lab)
    a, b = pair.protect()
    expect(a.status()["role"] == "primary" and b.status()["role"] == "secondary", "wrong roles")
    load = start_load(lab, udp=2, tcp=2, echo=1, stream=1)
    random_wait(lab, load, 0.5, 1.0)
    killed = a.kill()
    status = pair.taken_over("B", killed)
    expect(status["role"] == "primary", f"the survivor calls itself {status['role']}")
    answered = lab.probe()
    random_wait(lab, load, 0.5, 1.0)
    summary = check_load(lab, [load], None)[0]
    expect(b.stop() == 0, f"stop of the survivor: exit code {b.code}")
    lab.check([load], pair.image["B"])
    pair.check_ballast("B")
    run = (status["first_run_mono_ns"] - killed) / 1e6
    lab.note(f"takeover {run:.0f} ms, first answer {(answered - killed) / 1e6:.0f} ms, "
             f"longest gap {summary['client_gap_ms']:.0f} ms, {summary['acked']} acknowledged")


@test(60)
def sync_zeros(lab):
    """blocks of zeros do not travel, written or only reserved; what is between them does"""
    pair = Pair(lab, guest="idle", cmdline="hz=10", disk=96, net=False)
    with open(pair.image["A"], "r+b") as f:
        f.write(bytes(80 << 20))
        f.seek(33 << 20)
        f.write(b"not zero")
    a, b = pair.protect()
    sent = a.status()["sync_bytes"]
    expect(sent < 32 << 20, f"{sent >> 20} MiB were sent")
    expect(a.stop() == 0, f"exit code {a.code}")
    b.wait_state("STARTING")
    expect(b.stop() == 0, f"exit code {b.code}")
    same_images(pair)


@test(60)
def mc_stop(lab):
    """an orderly stop: everything that was answered is in both images"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.4, 0.8)
    check_load(lab, [load], None)
    expect(a.stop() == 0, f"stop of the primary: exit code {a.code}")
    lab.check([load], pair.image["A"])
    b.wait_state("STARTING")
    lab.check([load], pair.image["B"])
    expect(b.stop() == 0, f"stop of the secondary: exit code {b.code}")


@test(60)
def mc_stop_goodbye_lost(lab):
    """what was stopped in order is not taken over, though its goodbye never arrived"""
    for end in eighth(lab, ("released", "stopped")):
        pair = Pair(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
        a, b = pair.protect()
        record = os.path.join(pair.arbiter_dir, f"vm.{a.status()['generation']}")
        with open(record) as f:
            fields = json.load(f)
        with open(record + ".new", "w") as f:
            json.dump({**fields, end: True}, f)
        os.replace(record + ".new", record)
        a.kill()
        status = b.wait_state("STARTING", "DEGRADED")
        expect(status["state"] == "STARTING", f"{end}: the secondary is {status['state']}")
        pair.end()


@test(60)
def mc_stop_alone(lab):
    """a survivor is stopped: the other, whose image is older, does not start unasked"""
    pair = Pair(lab, guest="idle", cmdline="hz=10", disk=8, net=False)
    a, b = pair.protect()
    a.kill()
    b.wait_state("DEGRADED")
    for _ in range(2):  # what was claimed and then stopped alone is no more than the survivor was
        expect(b.stop() == 0, f"stop of the survivor: exit code {b.code}")
        a = pair.primary("A")
        a.wait_exit(10)
        expect(a.code == EXIT_FENCED and "--claim" in a.log_text(), f"{a.code}: {a.log_text()}")
        b = pair.primary("B")
        b.wait_state("UNPROTECTED")
    pair.end()


@test(60)
def mc_other_arbiter(lab):
    """a secondary with another arbiter than the primary's refuses at once, not when it must claim"""
    pair = Pair(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
    b = pair.secondary("B", "--arbiter", f"file:{lab.path('other')}")
    b.wait_state("STARTING")
    a = pair.primary("A")
    a.wait_log("refuses: .*same --arbiter")
    expect(b.state() == "STARTING", f"the secondary is {b.state()}")
    pair.end()


@test(60)
def ceilings(lab):
    """a primary whose VM, or whose disk, is larger than a secondary takes is refused before anything is made for it"""
    for more, word in (("--max-memory", "32M"), "has 64M of memory, this side takes 32M at most"), \
            (("--max-disk", "8M"), "disk 'd0' has 16M at the peer, this side makes images of 8M at most"):
        pair = Pair(lab, guest="idle", cmdline="hz=10", disk=16, net=False)
        b = pair.secondary("B", *more)
        b.wait_state("STARTING")
        a = pair.primary("A")
        a.wait_log(f"refuses: .*{word}.*{more[0]}")
        status = b.wait_status(lambda s: word in s["note"], f"'{word}' there")
        expect(status["state"] == "STARTING", f"the secondary is {status['state']}")
        expect(not os.path.exists(pair.image["B"]), "an image was made")
        lab.release(b)
        # The same host takes one that fits, and the primary, which goes on asking, is not kept from it.
        b = pair.secondary("B", "--max-memory", "64M", "--max-disk", "16M")
        pair.in_step()
        pair.end()


@test(60)
def mc_guest_exit(lab):
    """a guest that ends of its own accord under protection: its exit code, all of its output"""
    pair = Pair(lab, guest="writer", cmdline="mode=hot tick=10 pages=32 seconds=2", disk=0, net=False)
    b = pair.secondary("B")
    a = pair.primary("A")
    b.wait_state("PROTECTED")
    expect(a.wait_exit(20) == 0, f"exit code {a.code}")
    expect(re.search("^writer ok passes=[1-9]", a.console_text(), re.M), a.console_text())
    b.wait_state("STARTING")


def verify(lab, guest, cmdline, epochs=200, seconds=40, **options):
    """Every epoch's RAM and state are equal on both sides, and the guest's own checks hold."""
    options.setdefault("epoch", "10ms")
    pair = Pair(lab, guest=guest, cmdline=cmdline, extra=["--verify"], timeout="2s", **options)
    a, b = pair.protect()
    epochs = max(20, ftlab.work(epochs))
    b.wait_status(lambda s: s["epochs_total"] >= epochs or s["state"] != "PROTECTED",
                  f"{epochs} epochs", seconds)
    expect(b.state() == "PROTECTED", f"the secondary is {b.state()}")
    return pair


def still_well(pair):
    for host, vm in pair.vm.items():
        expect(vm.alive() and vm.state() == "PROTECTED", f"host {host} is not protected any more")
    text = pair.vm["A"].console_text()
    expect(not re.search("CORRUPT|FAILED|STALLED|TRAP", text), text)
    pair.end()


@test(90)
def mc_verify_writer(lab):
    """--verify: writer, hot and random"""
    for args in eighth(lab, ("mode=hot tick=5 pages=100", "mode=random tick=10 pages=60 total=3000 words=64",
                              "mode=seq tick=5 pages=50 work=0 words=500")):
        still_well(verify(lab, "writer", args, disk=0, net=False))


@test(60)
def mc_verify_smp(lab):
    """--verify: two and four CPUs"""
    for cpus in eighth(lab, (2, 4)):
        still_well(verify(lab, "smp", "", cpus=cpus, disk=0, net=False))


@test(90)
def mc_kill_ipi(lab):
    """a takeover loses no interrupt that one CPU sent to another"""
    for _ in range(ftlab.work(4)):
        pair = Pair(lab, guest="ipi", cmdline="", cpus=2, disk=0, net=False, epoch="5ms")
        a, b = pair.protect()
        random_wait(lab, a, 0.1, 0.5)
        a.kill()
        b.wait_state("DEGRADED")
        b.wait_console(r"^(ipi \d+ rounds \d+\n){2}|STALLED")
        expect("STALLED" not in b.console_text(), "an interrupt between CPUs was lost")
        pair.end()


@test(60)
def mc_verify_blk(lab):
    """--verify: a busy disk; when the guest is done the images are equal"""
    pair = verify(lab, "blk", f"ops={ftlab.work(80000)} region=8K", net=False, disk=16)
    a, b = pair.vm["A"], pair.vm["B"]
    expect(a.alive(), "the guest was done too early: more operations are needed")
    expect(a.wait_exit(40) == 0, f"exit code {a.code}: {a.console_text()}")
    b.wait_state("STARTING")
    expect(b.stop() == 0, f"exit code {b.code}")
    same_images(pair)


def same_images(pair):
    with open(pair.image["A"], "rb") as fa, open(pair.image["B"], "rb") as fb:
        at = 0
        while True:
            x, y = fa.read(1 << 20), fb.read(1 << 20)
            if x != y:
                sector = next(i for i in range(0, len(x), 512) if x[i:i + 512] != y[i:i + 512])
                raise ftlab.LabError(f"the images differ at sector {(at + sector) // 512}")
            if not x:
                return
            at += len(x)


@test(60)
def mc_verify_kv(lab):
    """--verify: kv under load, with background dirtying"""
    pair = verify(lab, "kv", f"ip={ftlab.GUEST_IP} dirty=60", epochs=20)
    load = start_load(lab)
    b = pair.vm["B"]
    begin = b.status()["epochs_total"]
    b.wait_status(lambda s: s["epochs_total"] >= begin + ftlab.work(200), "200 epochs", 30)
    check_load(lab, [load], pair.image["A"])
    still_well(pair)


@test(90)
def secondary_killed(lab):
    """the secondary dies; a new one is taken without a command, and then the primary dies"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.2, 0.6)
    b.kill()
    a.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.2, 0.5)
    b = pair.secondary("B")
    pair.in_step()
    random_wait(lab, load, 0.2, 0.5)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.2, 0.5)
    check_load(lab, [load], pair.image["B"])


ROUNDS = int(os.environ.get("FT_ROUNDS", "4"))
SPREAD_KB = 8192  # what a moment under load makes of the memory of one side


@test(max(120, 30 * ROUNDS))
def ping_pong(lab):
    """FT_ROUNDS (4) takeovers to and fro with a fresh secondary each time; connections stay, neither side grows"""
    pair = Pair(lab)
    pair.protect()
    load = start_load(lab)
    here, used = "A", []
    for _ in range(ROUNDS):
        random_wait(lab, load, 0.1, 0.5)
        pair.vm[here].kill()
        there = pair.other(here)
        pair.vm[there].wait_state("DEGRADED")
        lab.probe()
        pair.secondary(here)
        pair.in_step()
        here = there
        used.append([resources(pair.vm[side], "RssAnon") for side in (here, pair.other(here))])
        lab.note(f"fds, threads, kB of the primary and the secondary: {used[-1]}")
    check_load(lab, [load], pair.image[here])
    for first, last in zip(used[0], used[-1]):
        expect(first[:2] == last[:2] and (ftlab.SANITIZED or last[2] < first[2] + SPREAD_KB),
               f"fds, threads, kB of the primary and the secondary grow: {used}")


@test(60)
def hash_takeover(lab):
    """a computation carried over a takeover has the right result"""
    work = hash_work(64, 24000)
    pair = Pair(lab, guest="hash", cmdline=hash_cmdline(work), disk=0, net=False)
    a, b = pair.protect()
    wait_hash(lab, a, work)
    a.kill()
    expect("digest" not in a.console_text(), "the computation ended before the kill")
    b.wait_exit(50)
    want = host_digest(lab, *work)
    expect(b.code == 0 and f"digest {want}" in b.console_text(),
           f"exit code {b.code}, not digest {want}: {b.console_text()}")


@test(60)
def sigstop(lab):
    """a primary that was away for two seconds finds itself fenced, and says nothing more"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    watch = {h: FrameWatch(lab, h) for h in "AB"}
    random_wait(lab, load, 0.2, 0.6)
    frozen = ftlab.mono()
    a.signal(signal.SIGSTOP)
    status = pair.taken_over("B", frozen)
    lab.probe()
    load.nap(2)
    expect(watch["A"].drain(), "no frame of the guest was seen on host A before the stop")
    first_b = watch["B"].drain()
    expect(first_b, "no frame of the guest was seen on host B")
    watch_port(lab, watch["A"])
    a.signal(signal.SIGCONT)
    expect(a.wait_exit(10) == EXIT_FENCED, f"the old primary: exit code {a.code}, not fenced")
    late = watch["A"].drain()
    expect(not late, f"{len(late)} frames of the guest left host A after the takeover")
    lab.probe()
    expect(status["generation"] == b.status()["generation"], "the generation changed again")
    check_load(lab, [load], pair.image["B"])


def watch_port(lab, watch):
    """The watch does see what leaves that host: a frame of our own under the guest's address."""
    import socket
    with lab.socket_in(watch.host, socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind(("up0", 0))
        frame = b"\xff" * 6 + ftlab.GUEST_MAC + b"\x88\xb5" + bytes(50)
        s.send(frame)
    d = ftlab.Deadline(5)
    while not watch.drain():
        d.check("our own frame in the packet capture")
    # The switch has learned our lie; the guest's next frame puts it right.


@test(60)
def restart_at_once(lab):
    """a killed side can be started again without waiting"""
    pair = Pair(lab)
    for _ in range(5):
        b = pair.secondary("B")
        b.wait_state("STARTING")
        b.kill()
    b = pair.secondary("B")
    b.wait_state("STARTING")
    for _ in range(5):
        a = pair.primary("A", "--claim")
        pair.in_step()
        a.kill()
        b.wait_state("DEGRADED")
        b.kill()
        b = pair.secondary("B")


@test(60)
def smp_takeover(lab):
    """two and four CPUs carried over a takeover"""
    for cpus in eighth(lab, (2, 4)):
        pair = Pair(lab, guest="smp", cmdline=f"seconds={int(1 + 2 * ftlab.SLOW)}", cpus=cpus, disk=0, net=False)
        a, b = pair.protect()
        random_wait(lab, a, 0.1, 1.5)
        a.kill()
        b.wait_exit(20)
        expect(b.code == 0 and "smp ok" in b.console_text(),
               f"exit code {b.code}: {b.console_text()} {b.log_text()}")
        pair.end()


@test(90)
def blk_takeover(lab):
    """a busy disk of two queues carried over a takeover: what was in flight is done again"""
    for depth in eighth(lab, (2, 16)):
        pair = Pair(lab, guest="blk", cmdline=f"ops={ftlab.work(60000)} region=8K depth={depth}", cpus=2, disk=16, net=False)
        a, b = pair.protect()
        random_wait(lab, a, 0.1, 1.5)
        expect(a.alive(), "the guest was done too early: more operations are needed")
        a.kill()
        b.wait_exit(40)
        expect(b.code == 0 and "queues=2" in b.console_text(),
               f"exit code {b.code}: {b.console_text()} {b.log_text()}")
        pair.end()


@test(60)
def peer_list(lab):
    """of two peers the one that answers is taken"""
    pair = Pair(lab, disk=0)
    pair.peer_of["A"] = f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT + 7}," + pair.peer_of["A"]
    a, b = pair.protect()
    b.kill()
    a.wait_state("DEGRADED")
    b.settle()
    pair.secondary("B")
    pair.in_step()


@test(60)
def pause_protected(lab):
    """a paused VM stays protected; resumed, it goes on"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    a.call("pause")
    expect(a.status()["paused"] and a.state() == "PAUSED", "not paused")
    expect(a.status()["cover"] == "PROTECTED", "not protected")
    random_wait(lab, load, 0.7, 1.0)
    expect(b.state() == "PROTECTED" and a.alive(), "a pause was taken for a death")
    a.call("resume")
    a.wait_state("PROTECTED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["B"])


@test(60)
def pause_takeover(lab):
    """a takeover keeps the user's pause, and the guest goes on at the survivor when it is resumed; twice"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.3)
    a.call("pause")
    sealed = a.status()["epoch"]
    b.wait_status(lambda s: s["epoch"] >= sealed, "the epoch of the pause")
    a.kill()
    b.wait_state("PAUSED")
    expect(b.status()["paused"] and b.status()["cover"] == "DEGRADED", b.status())
    expect(not b.status()["first_entry_mono_ns"], "the guest ran at the survivor")
    # Protected again as it stands, and taken over once more.
    pair.secondary("A")
    b.wait_status(lambda s: s["cover"] == "PROTECTED", "a secondary in step")
    expect(b.state() == "PAUSED", b.state())
    b.kill()
    a = pair.vm["A"]
    a.wait_state("PAUSED")
    a.call("resume")
    a.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["A"])


def fill_output(lab, pair, packets):
    """Have the guest answer until so many frames of it are held. True: they are, in step."""
    a, b = pair.vm["A"], pair.vm["B"]
    end = ftlab.mono() + int(15e9 * min(ftlab.SLOW, 3))
    with lab.socket_in("C", socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((ftlab.GUEST_IP, 7))
        while ftlab.mono() < end:
            for _ in range(2000):
                try:
                    s.send(b"echo me!")
                except OSError:  # no ARP yet, or the guest does not listen
                    pass
            if a.status()["held_packets"] >= packets:
                return (a.state(), b.state()) == ("PROTECTED", "PROTECTED")
    return False


@test(60)
def stop_full(lab):
    """`stop` with more output held than can leave before the peer misses a heartbeat: it is over"""
    epoch = int(min(1500 * ftlab.SLOW, 9000))
    pair = Pair(lab, epoch=f"{epoch}ms", timeout="100ms", extra=["--output-limit", "64M"], disk=0)
    a, b = pair.protect()
    lab.probe()
    if not fill_output(lab, pair, ftlab.work(60000)):
        raise Skip("this machine is too slow, or too busy")
    a.call("stop", timeout_ns=0)
    expect(a.wait_exit(20) == 0, f"exit code {a.code}: {a.log_text()}")
    b.wait_log("stopped in order|TAKING-OVER")
    expect(b.state() == "STARTING", f"it goes on at the other side: {b.log_text()}")


@test(90)
def limits(lab):
    """staging, held output and disk log at their smallest: slower, but right"""
    small = ["--staging", "1M", "--output-limit", "128K", "--disklog-limit", "1M"]
    pair = Pair(lab, guest="writer", cmdline="mode=seq tick=20 pages=1200 work=0", disk=0, net=False,
                extra=["--verify", *small], timeout="2s")
    begun = ftlab.mono()
    a, b = pair.protect()
    status = a.wait_status(lambda s: s["throttled_total"] > 5, "staging that is full", 30)
    took_us = (ftlab.mono() - begun) / 1000
    expect(0 < status["staging_used_pages"] <= status["staging_pages"] == 256, f"{status}")
    parts = status["pause_total_us"]
    expect(parts["copy"] > 0 and all(0 < p < took_us for p in parts.values()), f"{parts} of {took_us} us")
    still_well(pair)
    pair = Pair(lab, epoch="100ms", extra=small, disk=32)
    a, b = pair.protect()
    load = start_load(lab, udp=2, tcp=2, echo=2, stream=3, stream_rate=0, echo_rate=0)
    random_wait(lab, load, 1.0, 1.5)
    held = max(a.status()["held_bytes"] for _ in range(50))
    expect(held <= (128 << 10) + 65536, f"{held} bytes held")
    for wrong in (0, 1 << 40, "1M"):
        try:
            a.call("set", output_limit_bytes=wrong)
        except ftlab.LabError as e:
            expect("output-limit must be" in str(e), str(e))
        else:
            raise ftlab.LabError(f"an output limit of {wrong}")
    epoch_ns = int(10**9 * min(ftlab.SLOW, 5))  # in which the guest answers so often
    a.call("set", output_limit_bytes=4 << 20, epoch_ns=epoch_ns)  # while it is full, perhaps
    expect(a.status()["output_limit_bytes"] == 4 << 20, f"{a.status()}")
    expect(fill_output(lab, pair, 4000), f"not more is held than before: {a.status()}")
    a.call("set", output_limit_bytes=128 << 10, epoch_ns=10**8)
    a.wait_status(lambda s: s["held_bytes"] <= (128 << 10) + 65536, "less that is held", 20)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.2, 0.4)
    check_load(lab, [load], pair.image["B"])
    pair.end()
    pair = Pair(lab, guest="blk", cmdline=f"ops={ftlab.work(20000)} region=2K depth=4", net=False, disk=16,
                epoch="100ms", extra=small)
    a, b = pair.protect()
    random_wait(lab, a, 0.2, 0.4)
    a.kill()
    b.wait_exit(30)
    expect(b.code == 0, f"exit code {b.code}: {b.console_text()} {b.log_text()}")


def freeze_in_epoch(a, b):
    """Stops b while a waits for staging in the middle of an epoch; a's status. An epoch that was out whole only waits
    for its ack: then the next one is tried."""
    while True:
        b.signal(signal.SIGSTOP)
        seen = {"now": None, "since": 0.0}

        def stands(status):
            now = status["sealing"], status["epoch"]
            if now != seen["now"]:
                seen.update(now=now, since=time.monotonic())
            return time.monotonic() > seen["since"] + 0.5 * ftlab.SLOW

        status = a.wait_status(stands, "one that takes no more")
        if status["sealing"]:
            return status
        b.signal(signal.SIGCONT)
        a.wait_status(lambda s: s["epoch"] > status["epoch"], "the next epoch")


@test(60)
def frozen_peer(lab):
    """a peer that takes nothing in mid-epoch: the VM stands, the process answers, and all goes on after it"""
    pair = Pair(lab, guest="writer", cmdline="mode=seq pages=12000 total=24000 words=510 tick=300 work=0",
                memory="256M", epoch=f"{min(int(300 * ftlab.SLOW), 9000)}ms", disk=0, net=False,
                extra=["--staging", "1M"], timeout="30s")
    a, b = pair.protect()
    stuck = freeze_in_epoch(a, b)
    a.call("pause")
    a.call("resume")
    now = a.status()
    expect(now["sealing"] and now["epoch"] == stuck["epoch"], f"resumed in mid-capture: {now}")
    b.signal(signal.SIGCONT)
    a.wait_status(lambda s: s["epoch"] > stuck["epoch"] + 3, "epochs to go on")
    freeze_in_epoch(a, b)
    a.call("stop", timeout_ns=0)
    expect(a.status()["sealing"], "a stop let go of an epoch")
    b.signal(signal.SIGCONT)
    expect(a.wait_exit(20) == 0, f"exit code {a.code}: {a.log_text()}")
    b.wait_log("stopped in order")


@test(60)
def mc_unix(lab):
    """over a unix socket, and from the first instruction on: the peer is there before the guest"""
    path = lab.path("link")
    for i in range(3):
        b = Vm(lab, "B", ["--secondary", "--listen", f"unix:{path}"])
        b.wait_state("STARTING")
        b.wait_log("no --peer: after a takeover")
        a = Vm(lab, "A", ["--primary", "--peer", f"unix:{path}", "--ft", "mc", "--verify",
                          "-k", f"{ftlab.GUESTS}/writer.elf", "-a", "pages=64 tick=10 mode=random report=1",
                          "-m", "64M"])
        a.wait_state("PROTECTED")
        expect(a.status()["generation"] == 1, "the first epoch was not taken")
        a.kill()
        b.wait_state("DEGRADED")
        b.wait_console("speed")
        if i < 2:
            lab.release(b)
    # It knew of nobody, and is told now.
    a = Vm(lab, "A", ["--secondary", "--listen", f"unix:{path}.new"])
    a.wait_state("STARTING")
    b.call("set", peer=[f"unix:{path}.none", f"unix:{path}.new"])
    b.wait_state("PROTECTED")
    b.kill()
    a.wait_state("DEGRADED")
    a.wait_console("speed")


@test(60)
def secondary_unfit(lab):
    """a side that could not run the VM says so when it is started, not when a primary comes"""
    pair = Pair(lab)
    b = ftlab.Vm(lab, "B", ["--secondary", "--listen", pair.listen["B"], *pair.host_args("B")],
                 before=["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "sh"])
    expect(b.wait_exit() == 1 and "/dev/kvm" in b.log_text(), f"exit code {b.code}: {b.log_text()}")
    folder = lab.path("nowhere")
    pair.arbiter_of = dict.fromkeys("AB", f"file:{folder}/vm")
    b = pair.secondary("B")
    b.wait_log("warning: no primary is taken, and nobody takes over, until this is mended: .*nowhere")
    status = b.wait_state("STARTING")
    expect("as it is none can come" in status["note"] and folder in status["note"], status["note"])
    os.mkdir(folder)
    pair.primary("A")
    pair.in_step()
    expect("none can come" not in b.status()["note"], b.status()["note"])
