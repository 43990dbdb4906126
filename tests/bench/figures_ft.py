"""Figures of a protected guest: pauses, speed, epochs, bytes, takeover."""

from benchlib import (EPOCH_MS, QemuVm, Writer, floor_us, ftlab, has_qemu, median, memcpy_us, percentile, plain,
                      protected, record_ms, rounds, run_epochs, slowly)
import test_colo_outputs
import test_worst

IDLE_EPOCHS = 400
LOAD_EPOCHS = 150
PAIRS = 7
KILLS = 24
FLOORS = 200  # rounds of a floor
NAPS = 3000  # of a millisecond
WORST_SECONDS = 20
DIFFERENCES = 100


def pause(lab, report):
    """how long a seal stops the guest: idle, and with dirty pages against memcpy of as many"""
    pair = protected(lab, "idle", "hz=10")
    s, _ = run_epochs(pair, rounds(IDLE_EPOCHS, 60))
    low = floor_us("kick", FLOORS)
    pair.end()
    p50, p99 = s["pause_us"]["p50"] / 1e3, s["pause_us"]["p99"] / 1e3
    report.add("pause idle p50", "ms", p50, "<= 0.25 ms", p50 <= 0.25, floor=low["p50_us"] / 1e3)
    report.add("pause idle p99", "ms", p99, "<= 1 ms", p99 <= 1, floor=low["p99_us"] / 1e3)
    for mode in ("hot", "random"):
        for pages in (64, 256, 1024):
            loaded_pause(lab, report, mode, pages)


def loaded_pause(lab, report, mode, pages):
    """hot: every page in every epoch. random: as many faults as fit, spread over 16 MiB."""
    if mode == "hot":
        cmdline = f"mode=hot tick={slowly(5)} work=0 pages={pages} report=0"
    else:
        cmdline = f"mode=random tick={slowly(5)} work=0 pages={max(1, pages // 5)} total=4096 report=0"
    pair = protected(lab, "writer", cmdline)
    run_epochs(pair, rounds(20, 10))
    floor, samples = [], []
    kind = "row" if mode == "hot" else "scattered"
    for _ in range(3):
        s, d = run_epochs(pair, rounds(LOAD_EPOCHS // 3, 15))
        samples.append(s["pause_us"]["p50"])
        pair.vm["A"].call("pause")
        floor.append(memcpy_us(kind, s["dirty_pages_p50"]))
        pair.vm["A"].call("resume")
    pair.end()
    ours, low = samples[-1] / 1e3, median(floor) / 1e3
    bound = 1.25 * low + 0.2
    report.add(f"pause {mode} {pages}", "ms", ours, f"<= 1.25 floor + 0.2 = {bound:.2f}", ours <= bound,
               floor=low, dirty_pages=s["dirty_pages_p50"], p99=s["pause_us"]["p99"] / 1e3)


def speed(lab, report):
    """guest speed under mc, 25 ms epochs, against the same guest unprotected"""
    for name, cmdline, target in (
            ("compute", f"tick={slowly(25)} pages=1", 0.98),
            ("64 hot", "tick=0 mode=hot pages=64", 0.90),
            ("256 hot", "tick=0 mode=hot pages=256", 0.90),
            ("1024 hot", "tick=0 mode=hot pages=1024", 0.90),
            ("1024 hot per 25 ms", f"tick={slowly(25)} mode=hot pages=1024", 0.90)):
        free, held, peer = compare_speed(lab, cmdline)
        for i, what in ((0, ""), (1, " own CPU")):
            f, h = [s[i] for s in free], [s[i] for s in held]
            pairs = [y / x for x, y in zip(f, h)]
            ratio = median(pairs)
            report.add(f"speed {name}{what}", "pass/s", median(h),
                       "" if i else f">= {target:.2f} of unprotected", None if i else ratio >= target,
                       floor=median(f), peer=median(s[i] for s in peer) if peer else None, ratio=ratio, pairs=pairs,
                       free=f, protected=h)


def compare_speed(lab, cmdline):
    """Unprotected, protected and under QEMU in turns; those that do not run are paused."""
    alone = plain(lab, "writer", cmdline)
    alone.call("pause")
    peer = QemuVm(lab, "A", "writer", cmdline) if has_qemu() else None
    if peer:
        peer.wait_ready()
        peer.rest()
    pair = protected(lab, "writer", cmdline)
    both = pair.vm["A"]
    free, held, other = [], [], []
    for n in range(PAIRS):
        both.call("set", epoch_ns=10 ** 10)
        both.call("pause")
        alone.call("resume")
        free.append(Writer(alone).next_speed())
        alone.call("pause")
        if peer and n < 3:
            peer.go_on()
            other.append(Writer(peer).next_speed())
            peer.rest()
        both.call("set", epoch_ns=slowly(EPOCH_MS) * 10 ** 6)
        both.call("resume")
        held.append(Writer(both).next_speed())
    state = both.state()
    ftlab.expect(state == "PROTECTED", f"the guest is {state} at the end")
    pair.end()
    lab.release(alone, peer)
    return free, held, other


def epochs(lab, report):
    """committed epochs per second of an idle guest at the shortest epoch"""
    pair = protected(lab, "idle", "hz=10", epoch="100us")
    a = pair.vm["A"]
    rates, floor = [], []
    for _ in range(PAIRS):
        a.call("pause")
        floor.append(1e6 / floor_us("rtt", FLOORS)["p50_us"])
        a.call("resume")
        first, begin = a.status(), ftlab.mono()
        last, _ = run_epochs(pair, rounds(800, 50))
        rates.append((last["epochs_total"] - first["epochs_total"]) * 1e9 / (ftlab.mono() - begin))
    report.add("epochs idle", "1/s", median(rates), ">= 1000", median(rates) >= 1000, floor=median(floor),
               pairs=[y / x for x, y in zip(floor, rates)], ack_us=last["ack_lag_us"], pause_us=last["pause_us"]["p50"])
    pair.end()


def sent_bytes(lab, report):
    """bytes sent per byte dirtied when an eighth of each page changes"""
    # At most three ticks in an epoch, each with the next 20 of 512 words and the one at the head.
    for mode, cmdline in (("hot", f"mode=hot tick={slowly(10)} work=0 pages=200 words=20"),
                          ("random", f"mode=random tick={slowly(10)} work=0 pages=60 total=2000 words=20")):
        pair = protected(lab, "writer", cmdline)
        run_epochs(pair, rounds(40, 20))
        ratios = []
        for _ in range(PAIRS):
            _, d = run_epochs(pair, rounds(20, 10))
            ratios.append(d["page_bytes_total"] / (d["pages_total"] * 4096))
        report.add(f"bytes sent {mode}", "B/B", median(ratios), "<= 0.2", median(ratios) <= 0.2,
                   ratio=median(ratios))
        pair.end()


def kill(lab, report):
    """SIGKILL of the primary to the first guest instruction on the survivor"""
    pair = ftlab.Pair(lab, cmdline=f"ip={ftlab.GUEST_IP} dirty=64")
    pair.protect()
    total, takeover, host, kills = [], [], "A", rounds(KILLS, 15)
    for _ in range(kills):
        other = pair.other(host)
        run_epochs_of(pair.vm[host], 10)
        at = pair.vm[host].kill()
        s = pair.vm[other].wait_status(
            lambda s: s["state"] == "DEGRADED" and s["first_entry_mono_ns"], "a guest that runs")
        total.append((s["first_entry_mono_ns"] - at) / 1e6)
        takeover.append(s["takeover_us"] / 1e3)
        lab.release(pair.vm[host])
        pair.secondary(host)
        pair.in_step()
        host = other
    pair.end()
    low, record = floor_us("death", FLOORS), dict(zip((50, 99), record_ms(lab.work)))
    for pct in (50, 99):
        report.add(f"kill to running p{pct}", "ms", percentile(total, pct),
                   "<= 100 ms" if pct == 99 else "", percentile(total, pct) <= 100 if pct == 99 else None,
                   floor=low[f"p{pct}_us"] / 1e3, kills=kills)
    for pct in (50, 99):
        report.add(f"takeover p{pct}", "ms", percentile(takeover, pct), "<= 5 ms",
                   percentile(takeover, pct) <= 5, floor=record[pct], kills=kills)


def worst(lab, report):
    """how long the loop is away: the worst guest, a busy machine, nobody who reads log or console; either side"""
    guest = test_worst.WorstPair(lab)
    guest.protect()
    guest.make_busy()
    a = guest.pair.vm["A"]
    a.call("pause")
    low = floor_us("nap", NAPS)
    a.call("resume")
    sides = dict(zip("AB", guest.watch(ftlab.work(WORST_SECONDS))))
    guest.pair.end()
    ms = {k: {host: s["loop_away_us"][k] / 1e3 for host, s in sides.items()} for k in ("p99", "max")}
    for k in ("p99", "max"):
        ours = max(ms[k].values())
        report.add(f"loop away {k}, worst guest", "ms", ours, *(("<= 20 ms", ours <= 20) if k == "max" else ()),
                   floor=low[k + "_us"] / 1e3, sides=ms[k])


def difference(lab, report):
    """with colo: from the second of two outputs that differ to the pause for the checkpoint that it asks for"""
    epoch = slowly(5)
    pair = ftlab.Pair(lab, "chance", disk=0, ft="colo", epoch=f"{epoch}ms", timeout="1s")
    a, _ = pair.protect()
    a.wait_console("^READY")
    asker, took, ident = test_colo_outputs.Asker(lab, "udp"), [], 0
    while len(took) < rounds(DIFFERENCES, 30):
        test_colo_outputs.compares(a)
        a.nap(epoch * 12 / 1e3)  # one that comes sooner is a short one, and too many of these end the twin
        before = a.status()["twin"]["differences"]["bytes"]
        asker.ask(ident, where=ident % test_colo_outputs.DATA)
        ident += 1
        s = a.status()["twin"]
        if s["differences"]["bytes"] > before:  # else both drew the same byte, or nothing was compared
            took.append(s["asked_us"] / 1e3)
        ftlab.expect(ident < 4 * DIFFERENCES, f"{len(took)} differences for {ident} questions: {s}")
    pair.end()
    for pct in (50, 99, 100):
        name = f"p{pct}" if pct < 100 else "max"
        report.add(f"difference to its pause {name}", "ms", percentile(took, pct), *(
            ("<= 10 ms", percentile(took, pct) <= 10) if pct == 99 else ()), differences=len(took))


def run_epochs_of(vm, count):
    start = vm.status()["epochs_total"]
    vm.wait_status(lambda s: s["epochs_total"] >= start + count, f"{count} epochs")
