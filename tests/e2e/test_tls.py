"""Pairs and migrations over TLS, and who is kept out of them."""

import os
import re
import select
import socket
import subprocess

import ftlab
from ftlab import EXIT_FAILED, FT_PORT, FTVMM, LINK_IP, Deadline, Pair, expect
from test_migrate import Move, all_there, boot, client, command, cut_again_and_again, sound
from testlib import check_load, eighth, random_wait, start_load, test

CREDENTIALS = ("psk", "x509")


def make_key(lab):
    path = lab.path(f"key{lab.next_serial()}")
    ftlab.run(FTVMM, "key", path)
    return path


def make_certificates(lab):
    folder = lab.path(f"certs{lab.next_serial()}")
    ftlab.run(os.path.join(ftlab.ROOT, "tests/certs.sh"), folder)
    return folder


def credentials(lab, kind):
    """What each host's ftvmm is given."""
    if kind == "psk":
        return dict.fromkeys("AB", ["--tls-psk", make_key(lab)])
    folder = make_certificates(lab)
    return {"A": ["--tls-dir", f"{folder}/a"], "B": ["--tls-dir", f"{folder}/b"]}


class TlsPair(Pair):
    def __init__(self, lab, kind, **options):
        super().__init__(lab, scheme="tls", **options)
        self.credentials = credentials(lab, kind)

    def host_args(self, host):
        return super().host_args(host) + self.credentials[host]


def there_and_back(lab, kind):
    pair = TlsPair(lab, kind)
    pair.protect()
    load = start_load(lab, udp=2, tcp=2, echo=1, stream=1)
    for victim in "AB":
        random_wait(lab, load, 0.3, 0.8)
        killed = pair.vm[victim].kill()
        pair.taken_over(pair.other(victim), killed)
        lab.probe()
        pair.secondary(victim)
        pair.in_step(30)
    random_wait(lab, load, 0.3, 0.8)
    check_load(lab, [load], None)
    expect(pair.vm["A"].stop() == 0, f"exit code {pair.vm['A'].code}")
    lab.check([load], pair.image["A"])
    pair.check_ballast("A")
    pair.end()


@test(120)
def tls_pair(lab):
    """kv under load: each side is killed once and protected again, by a key and by certificates"""
    for kind in eighth(lab, CREDENTIALS):
        there_and_back(lab, kind)


@test(60)
def tls_nothing_plain(lab):
    """what the guest says and stores is nowhere on the link as it is"""
    pair = TlsPair(lab, "psk", guest="idle", cmdline="hz=10", net=False)
    sniffer = lab.socket_in("A", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffer.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    sniffer.setblocking(False)
    lab.closing.append(sniffer)
    a, b = pair.protect()
    seen = 0
    try:
        while True:
            frame = sniffer.recv(65536)
            seen += len(frame)
            expect(pair.ballast[1000:1016] not in frame and b"ftvmm\r\n" not in frame, "plain text on the link")
    except BlockingIOError:
        expect(seen > 100000, f"only {seen} bytes were seen")
    for vm in (a, b):
        expect(vm.stop() == 0, f"exit code {vm.code}")


def tls_client(lab, *args):
    """OpenSSL's own client at B's port; what it said."""
    p = subprocess.run(["nsenter", f"--net=/run/netns/{lab.ns['A']}", "--", "openssl", "s_client", "-connect",
                        f"{LINK_IP['B']}:{FT_PORT}", *args], input=b"x" * 100, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=20 * ftlab.SLOW)
    return p.stdout.decode(errors="replace")


def connect(lab):
    s = lab.socket_in("A", socket.AF_INET, socket.SOCK_STREAM, 0)
    s.settimeout(10 * ftlab.SLOW)
    s.connect((LINK_IP["B"], FT_PORT))
    return s


def is_dropped(s, seconds=10):
    """The other end gives it up by itself."""
    d = Deadline(seconds)
    try:
        while s.recv(65536):
            d.check("the end of a connection that says nothing of use")
    except (ConnectionError, BrokenPipeError):
        pass
    s.close()


HALF = bytes.fromhex("16030100f8010000f40303")  # of a ClientHello


def crowd(lab, count=40):
    """Far more than there are places for, with nothing more to say."""
    all_ = []
    for _ in range(count):
        all_.append(connect(lab))
        all_[-1].send(HALF)
    return all_


def is_slow_dropped(lab):
    """One that says a byte every 100 ms."""
    slow, d = connect(lab), Deadline(10)
    slow.setblocking(False)
    for byte in HALF + bytes(237):
        try:
            slow.send(bytes([byte]))
        except OSError:
            break
        if select.select([slow], [], [], 0.1)[0]:
            break
        d.check("the end of a client that says a byte every 100 ms")
    slow.close()


@test(120)
def tls_strangers(lab):
    """plain, silent, slow and unknown clients at the port, and too many: dropped; a pair meets all the same, and goes on"""
    pair = TlsPair(lab, "psk", timeout="3s")  # all of it is on this host
    b = pair.secondary("B")
    b.wait_state("STARTING")
    waiting = crowd(lab)
    a = pair.primary("A")
    pair.in_step()
    load = start_load(lab, udp=2, tcp=1)
    silent, half, plain = connect(lab), connect(lab), connect(lab)
    half.send(HALF)
    plain.send(b"ftvmm\r\n\x1a" + bytes(100))
    is_dropped(plain)
    for args in ((), ("-tls1_2",), ("-psk", "00" * 32, "-psk_identity", "ftvmm:vm/primary")):
        said = tls_client(lab, *args)
        expect(re.search("alert|error|no peer certificate", said, re.I), said)
    is_slow_dropped(lab)
    for s in (silent, half):
        is_dropped(s)
    waiting += crowd(lab)
    expect(a.state() == b.state() == "PROTECTED", f"{a.state()}, {b.state()}")
    killed = a.kill()
    pair.taken_over("B", killed)
    for s in waiting:
        s.close()
    lab.probe()
    check_load(lab, [load], pair.image["B"])
    pair.check_ballast("B")


def keep_apart(lab, at, who, why, binary=None):
    """A pair with these credentials never speaks, and that host says why."""
    pair = TlsPair(lab, "psk", guest="idle", cmdline="hz=10", net=False, disk=0, binary=binary)
    pair.credentials = at
    b = pair.secondary("B")
    b.wait_state("STARTING")
    a = pair.primary("A")
    d = Deadline(10)
    while not re.search(why, pair.vm[who].log_text()):
        expect(a.state() == "UNPROTECTED" and b.state() == "STARTING", "they speak")
        d.check(f"'{why}'")
        a.nap()
    expect(a.state() == "UNPROTECTED" and b.state() == "STARTING", "they speak")
    pair.end()


def wrong_role(lab, binary=None):
    folder = make_certificates(lab)
    cases = (("a", "primary", "A", "is not of ftvmm:vm/secondary"), ("web", "b", "B", "is not of ftvmm:vm/primary"))
    for a, b, who, why in cases if binary else eighth(lab, cases):
        keep_apart(lab, {"A": ["--tls-dir", f"{folder}/{a}"], "B": ["--tls-dir", f"{folder}/{b}"]}, who, why, binary)


@test(60)
def tls_wrong(lab):
    """another key, a stranger's or an expired certificate, the wrong role: never protected, and one side says why"""
    folder = make_certificates(lab)
    keys = {h: ["--tls-psk", make_key(lab)] for h in "AB"}
    keep_apart(lab, keys, "B", "binder does not verify")
    keep_apart(lab, keys, "A", "alert .*: the peer refuses this side, and its log says why")
    certificates = (("stranger", "A", "self-signed certificate"), ("expired", "B", "certificate has expired"))
    for a, who, why in eighth(lab, certificates):
        keep_apart(lab, {"A": ["--tls-dir", f"{folder}/{a}"], "B": ["--tls-dir", f"{folder}/b"]}, who, why)
    wrong_role(lab)
    b = ftlab.Vm(lab, "B", ["--secondary", "--listen", f"tls:{LINK_IP['B']}:{FT_PORT}", "--tls-psk", "/nowhere"])
    expect(b.wait_exit() == 1 and "--tls-psk '/nowhere'" in b.log_text(), b.log_text())


@test(40)
def tls_or_insecure(lab):
    """tcp: to another host is refused with what to do, at the start, of a secondary and of a migration; --insecure takes it"""
    far = "tcp:10.9.9.9:1"  # to which there is no way
    vm = ftlab.Vm(lab, "A", ["--incoming", far], insecure=False)
    expect(vm.wait_exit() == 1 and re.search(rf"--incoming: '{far}': tcp: between hosts is open.*--tls-psk.*--insecure", vm.log_text()),
           f"{vm.code}: {vm.log_text()}")
    lab.release(vm)
    vm = ftlab.Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M"], insecure=False)
    vm.wait_console("^READY")
    for words in (["--precopy", far], ["--postcopy", far], ["--recover", far]):
        code, _, err = client(lab, vm, *words)
        expect(code == EXIT_FAILED and f"migrate: '{far}': tcp: between hosts is open" in err, f"{words}: {code}: {err}")
    code, _, err = client(lab, vm, "--precopy", far, "--insecure")
    expect(code == EXIT_FAILED and f"{far}: cannot connect" in err, f"{code}: {err}")
    b = ftlab.Vm(lab, "B", ["--secondary", "--listen", f"unix:{lab.path('sock')}", "--arbiter", "none"], insecure=False)
    b.wait_state("STARTING")
    code, _, err = command(b, "set", f"peer={far}")
    expect(code == EXIT_FAILED and f"--peer: '{far}': tcp: between hosts is open" in err, f"{code}: {err}")
    b.call("set", peer=["tcp:127.0.0.1:1"])


class TlsMove(Move):
    """Both hosts have what they need to go back, too."""

    def __init__(self, lab, vm, given):
        super().__init__(lab, vm)
        self.given = given

    def uri(self, kind):
        return f"tls:{LINK_IP[self.there()]}:{FT_PORT}"

    def destination(self, uri, *more, env=None):
        return super().destination(uri, *self.given[self.there()], *more, env=env)


@test(90)
def tls_migrate(lab):
    """precopy and postcopy to and fro while the guest writes; without the key it stays where it is"""
    for kind in eighth(lab, CREDENTIALS):
        given = credentials(lab, kind)
        move = TlsMove(lab, boot(lab, "writer", "pages=50 tick=40 report=1", *given["A"], memory="128M"), given)
        move.vm.wait_console("^READY")
        for options in eighth(lab, ({}, {"how": "postcopy"}, {"how": "auto"})):
            move.go("tls", **options)
            move.vm.wait_state("RUNNING")
            all_there(move.vm)
            move.vm.wait_console("^speed")
            sound(move)
        lab.release(move.vm)
    plain = Move(lab, boot(lab, "writer", "pages=10 tick=10 report=1", memory="64M"))
    plain.vm.wait_console("^READY")
    code, _, err = client(lab, plain.vm, "--precopy", f"tls:{LINK_IP['B']}:{FT_PORT}")
    expect(code == EXIT_FAILED and "needs a key or certificates" in err, f"{code}: {err}")
    sound(plain)


@test(90)
def tls_cut(lab):
    """the links of a postcopy are cut after the switch, again and again: a fresh handshake each time, and all of it comes"""
    given = credentials(lab, "x509")
    vm = boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", *given["A"], memory="128M")
    cut_again_and_again(lab, TlsMove(lab, vm, given), "tls")


@test(60)
def tls_silent_server(lab):
    """a port that takes the connection and never says a word: the migration is given up, the VM goes on"""
    vm = boot(lab, "writer", "pages=10 tick=10 report=1", "--tls-psk", make_key(lab), memory="64M")
    vm.wait_console("^READY")
    silent = lab.socket_in("B", socket.AF_INET, socket.SOCK_STREAM, 0)
    lab.closing.append(silent)
    silent.bind((LINK_IP["B"], FT_PORT))
    silent.listen()
    code, _, err = client(lab, vm, "--precopy", f"tls:{LINK_IP['B']}:{FT_PORT}")
    expect(code == EXIT_FAILED and "goes on here" in err, f"{code}: {err}")
    lab.note(err.strip())
    vm.wait_state("RUNNING")
    sound(Move(lab, vm))
