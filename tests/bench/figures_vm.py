"""Figures beside fault tolerance: start, memory; and for information latency and stream."""

import socket
import struct

from benchlib import (FIRST_ELF, FLOORS, STARTUP, QemuVm, ftlab, has_qemu, median, plain, protected, qemu_args,
                      rounds, tool, with_twin)

STARTS = 9
ECHOES = 200
SYNCS = 5
STREAM_PORT = 7999  # of QEMU's migration


def first_byte(lab, *argv):
    return tool("nsenter", f"--net=/run/netns/{lab.ns['A']}", "env", f"XDG_RUNTIME_DIR={lab.work}",
                STARTUP, "first", *argv)["ms"]


def start(lab, report):
    """process start to the first guest instruction, 256 MiB"""
    ours_argv = [ftlab.FTVMM, "run", "-k", FIRST_ELF, "-m", "256M", "--name", "start"]
    peers = has_qemu()
    floor, ours, qmp, guest = [], [], [], []
    for _ in range(STARTS):
        floor.append(first_byte(lab, STARTUP, "kvm", "256"))
        ours.append(first_byte(lab, *ours_argv))
        if peers:
            qmp.append(first_byte(lab, *qemu_args("-S", "-qmp", "stdio")))
            guest.append(first_byte(lab, *qemu_args("-kernel", FIRST_ELF, "-serial", "stdio")))
    ms = median(ours)
    report.add("start to first guest byte", "ms", ms, "<= 10 ms", ms <= 10, floor=median(floor),
               peer=median(guest) if guest else None, pairs=[y / x for x, y in zip(floor, ours)])
    if qmp:
        ratio = ms / median(qmp)
        report.add("start / QEMU's start to QMP", "ms", ms, "<= 0.40", ratio <= 0.4, peer=median(qmp),
                   ratio=ratio)


def resident_kib(pid, ram_name):
    """Resident memory outside of the mappings of guest RAM."""
    total, ours = 0, True
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                ours = ram_name not in line
            elif words[0] == "Rss:" and ours:
                total += int(words[1])
    return total


def memory(lab, report):
    """resident memory beyond guest RAM, no fault tolerance"""
    mib, peer = [], None
    for _ in range(3):
        vm = plain(lab, "idle", "hz=10", "256M")
        mib.append(resident_kib(vm.pid, "ftvmm-ram") / 1024)
        lab.release(vm)
    if has_qemu():
        q = QemuVm(lab, "A", "idle", "hz=10", "-object", "memory-backend-memfd,id=ram0,size=256M",
                   "-machine", "memory-backend=ram0", memory="256M")
        q.wait_ready()
        peer = resident_kib(q.pid, "memory-backend-memfd") / 1024
        lab.release(q)
    report.add("memory beyond guest RAM", "MiB", median(mib), "<= 3 MiB", median(mib) <= 3, peer=peer)


# --- for information -------------------------------------------------------------------------------


def echo_us(lab, ip=ftlab.GUEST_IP):
    """Round trips of single datagrams to the guest's echo port."""
    times = []
    with lab.socket_in("C", socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((ip, 7))
        s.settimeout(2 * ftlab.SLOW)
        for i in range(rounds(ECHOES, 50)):
            data, begin = struct.pack("<Q", i), ftlab.mono()
            s.send(data)
            while s.recv(64) != data:
                pass
            times.append((ftlab.mono() - begin) / 1e3)
    return times


MODES = ("mc", "kemari", "auto", "colo")


def latency(lab, report):
    """one UDP echo, and kv throughput: unprotected, and in each mode in turns, with an epoch of 25 ms at most"""
    args = f"ip={ftlab.GUEST_IP}"
    mac = f"id=n0,tap=t0,bridge=br0,mac={ftlab.GUEST_MAC.hex(':')}"
    vm = plain(lab, "kv", args, more=["-n", mac, "-d", f"id=d0,path={lab.disk('plain.img')}"])
    lab.probe()
    free, free_ops = median(echo_us(lab)) / 1e3, ops_per_second(lab)
    lab.release(vm)
    pair = protected(lab, "kv", args, disk=64, net=True)
    lab.probe()
    echo, ops = {m: [] for m in MODES}, {m: [] for m in MODES}
    pause = {}
    for _ in range(3):
        for mode in MODES:
            pair.vm["A"].call("set", ft=mode)
            if mode == "colo":
                with_twin(pair.vm["A"])
            echo[mode] += echo_us(lab)
            ops[mode].append(ops_per_second(lab))
            pause[mode] = pair.vm["A"].status()["pause_us"]["p50"] / 1e3
    pair.end()
    asked = {m: median(echo[m]) / 1e3 for m in MODES}
    bound = free + 0.5 + pause["kemari"]
    targets = {"kemari": (f"<= floor + 0.5 + pause = {bound:.2f}", asked["kemari"] <= bound),
               "colo": ("<= kemari's", asked["colo"] <= asked["kemari"])}
    for mode in MODES:
        report.add(f"UDP echo p50 under {mode}", "ms", asked[mode], *targets.get(mode, ()), floor=free)
    done = {m: median(ops[m]) for m in MODES}
    targets = {"kemari": (">= 5 times mc's", done["kemari"] >= 5 * done["mc"]),
               "colo": (">= kemari's", done["colo"] >= done["kemari"])}
    for mode in MODES:
        report.add(f"kv operations under {mode}", "1/s", done[mode], *targets.get(mode, ()), floor=free_ops)


def ops_per_second(lab):
    load = ftlab.Load(lab, udp=8, tcp=8, echo=0, stream=0, seconds=4)
    summary = load.finish(stop=False)
    lab.release(load)
    return summary["ops_per_s"]


def migrate(lab, q, cmdline, memory):
    """QEMU's copy of the guest to another QEMU, MiB/s."""
    to = QemuVm(lab, "B", "writer", cmdline, "-incoming", f"tcp:{ftlab.LINK_IP['B']}:{STREAM_PORT}", memory=memory)
    to.connect()
    q.command("migrate", uri=f"tcp:{ftlab.LINK_IP['B']}:{STREAM_PORT}")
    d = ftlab.Deadline(60)
    while (s := q.command("query-migrate"))["status"] in ("none", "setup", "active", "device"):
        d.check("QEMU's migration")
        q.nap(0.05)
    ftlab.expect(s["status"] == "completed", f"QEMU's migration: {s['status']}")
    lab.release(to)
    q.command("cont")
    return s["ram"]["transferred"] / 1048576 / (s["total-time"] / 1e3)


def stream(lab, report):
    """first sync of a guest with 480 MiB of data, against loopback TCP"""
    mib = rounds(480, 96)
    memory = f"{mib + 32}M"
    cmdline = f"mode=seq tick=1000 work=0 pages=1 total={mib << 8} report=0"
    pair = ftlab.Pair(lab, "writer", cmdline, memory, disk=0, net=False)
    a = pair.primary("A")
    a.wait_console("^READY", 60)
    q = QemuVm(lab, "A", "writer", cmdline, memory=memory) if has_qemu() else None
    if q:
        q.wait_ready(60)
        q.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        q.rest()
    floor, ours, peer = [], [], []
    for _ in range(SYNCS):
        floor.append(tool(FLOORS, "tcp", "0.5")["mib_per_s"])
        before = a.status()["sync_bytes"]
        pair.secondary("B")
        begin = a.wait_state("SYNCING") and ftlab.mono()
        s = a.wait_state("PROTECTED", seconds=60)
        ours.append((s["sync_bytes"] - before) / 1048576 / ((ftlab.mono() - begin) / 1e9))
        pair.vm["B"].stop()
        lab.release(pair.vm["B"])
        a.wait_state("DEGRADED", "UNPROTECTED")
        if q:
            a.call("pause")
            q.go_on()
            peer.append(migrate(lab, q, cmdline, memory))
            q.rest()
            a.call("resume")
    pair.end()
    report.add(f"first sync of {mib} MiB", "MiB/s", median(ours), ">= 0.80", median(ours) / median(floor) >= 0.8,
               floor=median(floor), peer=median(peer) if peer else None,
               pairs=[y / x for x, y in zip(floor, ours)], all=ours)
