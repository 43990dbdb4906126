"""Typing at the guest: `ftvmm console` and its socket."""

import os
import re
import select
import signal
import socket

import ftlab
from ftlab import GUESTS, Pair, Vm, expect
from terminal import Fifo, Terminal
from testlib import test


def typist(lab):
    """A guest that says back what is typed."""
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/console.elf", "-m", "64M"])
    vm.wait_console("^READY")
    return vm


@test(60)
def console_typed(lab):
    """lines by a pipe, by a terminal, more at once than the port holds; the end of the VM"""
    vm = typist(lab)
    pipe = Terminal(lab)
    pipe.type("hello\n")
    pipe.wait("line 1: hello\n")
    tty = Terminal(lab, tty=True)
    tty.wait("Ctrl-. leaves")
    tty.type("from a terminal \x03\r")  # Ctrl-C is the guest's
    tty.wait("line 2: from a terminal \x03\r?\n")
    pipe.wait("line 2: ")
    many = [f"{i:04} " + "x" * 150 for i in range(100)]
    pipe.type("".join(text + "\n" for text in many))
    pipe.wait("line 102: ", 30)
    got = re.findall(r"^line \d+: (.*)$", pipe.seen.decode(), re.M)
    expect(got[2:] == many, f"{len(got)} lines, not as typed")
    tty.type("rest\x1dnot this")
    tty.wait_exit(0)
    pipe.type("\n")
    pipe.wait("line 103: rest\n")
    expect("not this" not in vm.console_text(), vm.console_text())
    pipe.type("quit")
    pipe.wait_exit(0)
    expect(vm.wait_exit() == 0, f"exit code {vm.code}")


@test(60)
def console_protected(lab):
    """the side that runs the VM has the console: before and after a takeover"""
    pair = Pair(lab, "console", "x", disk=0, net=False)
    a, b = pair.protect()
    here = Terminal(lab)
    here.type("before\n")
    here.wait("line 1: before")
    there = Terminal(lab, "B")
    there.wait("this side does not run 'vm'")
    there.wait_exit(2)
    a.kill()
    here.wait_exit(0)
    b.wait_state("DEGRADED")
    there = Terminal(lab, "B")
    there.type("after\n")
    there.wait("line 2: after")
    pair.end()


@test(60)
def console_held(lab):
    """what the guest prints while its epoch is not acknowledged is not shown"""
    pair = Pair(lab, "console", "x", disk=0, net=False, timeout="10s")
    _, b = pair.protect()
    here = Terminal(lab)
    here.type("first\n")
    here.wait("line 1: first")
    b.signal(19)  # SIGSTOP
    a = pair.vm["A"]
    here.type("secret\n")
    a.wait_status(lambda s: s["held_packets"] > 0, "held output")
    a.nap(0.3)  # what is wrongly let out would be here
    ready, _, _ = select.select([here.proc.stdout], [], [], 0)
    expect(not ready, f"shown before its epoch was acknowledged: {here.proc.stdout.read() if ready else ''}")
    b.signal(18)  # SIGCONT
    here.wait("line 2: secret")
    pair.end()


@test(60)
def console_clients(lab):
    """a fifth one is told so, one that does not read is dropped, none hinders the VM"""
    vm = typist(lab)
    path = vm.socket_path().replace(".sock", ".console")
    expect(os.stat(path).st_mode & 0o777 == 0o600, "others may connect")
    clients = []
    for _ in range(4):
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].connect(path)
    # The order of arrival is that of connect().
    fifth = socket.socket(socket.AF_UNIX)
    fifth.settimeout(10 * ftlab.SLOW)
    fifth.connect(path)
    expect(b"4 clients" in fifth.recv(100), "a fifth client is served")
    clients[0].settimeout(30 * ftlab.SLOW)
    reader = clients[0].makefile("rb")
    clients[0].sendall(b"flood 8000\n")
    for i in range(8000):
        expect(reader.readline().strip() == b"%0100d" % (7999 - i), f"line {i}")
    vm.wait_log("a client does not read; dropped")
    expect(vm.state() == "RUNNING", vm.state())


@test(90)
def console_stuck(lab):
    """nobody reads it: the pair stays in step, what is lost is counted, and then it goes on"""
    pair = Pair(lab, "console", "x", disk=0, net=False)
    pair.secondary("B").wait_state("STARTING")
    out = Fifo(lab, "console-fifo")
    a = Vm(lab, "A", ["--primary", *pair.guest_args, *pair.host_args("A"), "--console", out.path], console=False)
    pair.vm["A"] = a
    pair.in_step()
    keys = Terminal(lab)
    keys.type("flood 5000\n")
    keys.wait("line 1: flood 5000", 40)  # it printed all of it, whoever reads
    status = a.wait_status(lambda s: s["console_dropped_bytes_total"] > 0, "a loss that is counted")
    expect(status["loop_away_us"]["max"] < 1e6 * ftlab.SLOW, f"the loop was away: {status['loop_away_us']}")
    pair.in_step(1)
    a.wait_log("its reader takes nothing")
    out.read_until(lambda: "bytes were lost" in a.log_text(), "a reader that has caught up", 20)
    keys.type("after\n")
    out.wait(b"line 2: after", 20)
    lines = re.findall(rb"^(\d{100})$", out.seen, re.M)
    expect(len(lines) > 600, f"only {len(lines)} lines were kept")
    expect([int(n) for n in lines[:600]] == list(range(4999, 4399, -1)), "what was kept is not in order")
    pair.end()


@test(90)
def log_stuck(lab):
    """nobody reads the log: protection, a loss, and the VM goes on; the lines come when it is read"""
    pair = Pair(lab, "console", "x", disk=0, net=False)
    b = pair.secondary("B")
    b.wait_state("STARTING")
    err = Fifo(lab, "log-fifo")
    err.fill()
    a = Vm(lab, "A", ["--primary", *pair.guest_args, *pair.host_args("A")],
           before=("sh", "-c", 'exec "$@" 2>"$0"', err.path))
    pair.vm["A"] = a
    pair.in_step()
    b.kill()
    a.wait_state("DEGRADED")
    keys = Terminal(lab)
    keys.type("here\n")
    keys.wait("line 1: here")
    err.wait(rb"info: .*PROTECTED(.|\n)*DEGRADED")
    pair.end()


@test(60)
def console_left(lab):
    """who left with bytes that the guest has not read takes no place"""
    vm = typist(lab)
    vm.call("pause")
    path = vm.socket_path().replace(".sock", ".console")
    for _ in range(4):
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(path)
            gone.sendall(b"x" * 20000)
    stays = socket.socket(socket.AF_UNIX)
    stays.settimeout(10 * ftlab.SLOW)
    stays.connect(path)
    vm.call("status")  # served after the client
    vm.call("resume")
    stays.sendall(b"\nhere\n" * 20)  # others' bytes may come in between
    seen = b""
    while b": here" not in seen:
        more = stays.recv(65536)
        expect(more and b"clients" not in more, f"not served: {more}")
        seen += more


@test(60)
def console_terminal(lab):
    """it is not stopped with its terminal raw, and ends with the terminal"""
    typist(lab)
    tty = Terminal(lab, tty=True)
    tty.wait("Ctrl-. leaves")
    tty.proc.send_signal(signal.SIGTSTP)
    tty.type("goes on\r")
    tty.wait("line 1: goes on")
    os.close(tty.keys)
    tty.keys = -1
    tty.wait_exit(0)


@test(60)
def console_killed(lab):
    """a console that waits for its reader ends by a signal"""
    vm = typist(lab)
    stuck = Terminal(lab)
    stuck.type("flood 8000\n")
    with open(f"/proc/{stuck.proc.pid}/syscall") as f:
        vm.wait_status(lambda _: (f.seek(0), f.read())[1].startswith("1 0x1 "), "a full pipe")
    stuck.proc.terminate()
    expect(stuck.proc.wait(10 * ftlab.SLOW) == 0, "exit code")
