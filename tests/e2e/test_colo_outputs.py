"""What the two guests of a pair put out, compared: one byte that differs is caught before it leaves; bytes that are cut
into segments in different ways are the same."""

import re
import select
import socket
import struct

import ftlab
from ftlab import Deadline, FrameWatch, Load, Pair, expect
from test_colo import colo_pair, compares, twin
from testlib import check_load, eighth, flowing, test

# guests/chance_proto.h
PORT, IDS, DATA, NONE = 11, 4096, 16, 0x100
BY_ANSWER, BY_CONSOLE, TELL = range(3)
ASK, ANSWER = struct.Struct("<IHH"), struct.Struct(f"<II{DATA}s")
QUESTIONS = 8  # of one pair: ten differences in a row, and it does without a twin for a while
SEGMENTS = 100000


class Asker:
    """A client of the guest `chance`."""

    def __init__(self, lab, way):
        self.lab, self.tcp = lab, way == "tcp"
        self.sock = lab.socket_in("C", socket.AF_INET, socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM)
        self.sock.settimeout(10 * ftlab.SLOW if self.tcp else 0.2)
        self.sock.connect((ftlab.GUEST_IP, PORT))
        lab.closing.append(self.sock)

    def send(self, ident, op=BY_ANSWER, where=0):
        self.sock.send(ASK.pack(ident, op, where))

    def answer(self):
        data = b""
        while len(data) < ANSWER.size:
            more = self.sock.recv(ANSWER.size - len(data))
            expect(more, "the guest has closed the connection")
            data += more
        return ANSWER.unpack(data)

    def ask(self, ident, op=BY_ANSWER, where=0, seconds=10):
        """The answer; a datagram that is lost is sent again."""
        d = Deadline(seconds)
        self.send(ident, op, where)
        while True:
            try:
                answer = self.answer()
                if answer[0] == ident:
                    return answer
            except OSError as e:  # late; or there is no way to the guest yet
                expect(not self.tcp, f"question {ident}: {e}")
                d.check(f"an answer to question {ident}: {e}")
                select.select([], [], [], ftlab.POLL)
                self.send(ident, op, where)


def said_in(frames):
    """The answers in captured frames, by question."""
    said = {}
    for _, frame in frames:
        if len(frame) < 34 or frame[12:14] != b"\x08\x00":
            continue
        ip = frame[14:14 + struct.unpack_from("!H", frame, 16)[0]]
        l4 = ip[4 * (ip[0] & 15):]
        payload = l4[8:] if ip[9] == 17 else l4[4 * (l4[12] >> 4):] if ip[9] == 6 else b""
        if len(payload) >= ANSWER.size and struct.unpack_from("!H", l4)[0] == PORT:
            for at in range(0, len(payload) - ANSWER.size + 1, ANSWER.size):
                ident, drawn, data = ANSWER.unpack_from(payload, at)
                if drawn == NONE:
                    said.setdefault(ident, set()).add(data)
    return said


def left(way, watch, vm, asked):
    """What has left host A for each question: the drawn byte."""
    if way == "console":
        return {int(i): int(n) for i, n in re.findall(r"^chance (\d+) (\d+)$", vm.console_text(), re.M)}
    drawn = {}
    for ident, data in said_in(watch.drain()).items():
        expect(len(data) == 1, f"two answers to question {ident} left: {data}")
        where = asked[ident]
        drawn[ident] = next(iter(data))[where]
        rest = set(next(iter(data))[:where] + next(iter(data))[where + 1:])
        expect(rest <= {where}, f"answer {data} to question {ident}")
    return drawn


def one_byte(lab, way, binary=None, wheres=range(DATA)):
    """Both guests are asked what each answers in its own way; the primary dies as soon as the answer to the last one
    has left, or before: whatever has left, the survivor knows as well."""
    pair = Pair(lab, guest="chance", disk=0, ft="colo", epoch="250ms", timeout="1s", binary=binary)
    a, b = pair.protect()
    a.wait_console("^READY")
    asker, asked, watch = Asker(lab, way), {}, FrameWatch(lab, "A", 256)
    op = BY_CONSOLE if way == "console" else BY_ANSWER
    for ident in range(QUESTIONS):
        compares(a)
        asked[ident] = lab.rng.choice(wheres)
        if ident < QUESTIONS - 1 or lab.rng.choice((True, True, False)):
            asker.ask(ident, op, asked[ident])
        else:
            asker.send(ident, op, asked[ident])
            a.nap(lab.rng.uniform(0, 0.01))
        if ident < QUESTIONS - 1:
            after = twin(a)
    a.kill()
    b.wait_state("DEGRADED")
    gone = left(way, watch, a, asked)
    expect(len(gone) >= QUESTIONS - 1, f"{len(gone)} of {QUESTIONS} answers have left: {gone}")
    teller = Asker(lab, "udp")
    for ident, drawn in gone.items():
        known = teller.ask(ident, TELL)[1]
        expect(known == drawn, f"host A said {drawn} for {ident} by {way}, and the survivor knows {known}")
    expect(after["differences"]["bytes"] >= QUESTIONS // 2, f"{after}")
    pair.end()


@test(120)
def colo_one_byte(lab):
    """an answer that differs in one byte leaves, by UDP, TCP or the console, only when the survivor would have said it"""
    for way in eighth(lab, ("udp", "tcp", "console")):
        one_byte(lab, way)


@test(60)
def colo_no_byte(lab):
    """the same guest, but nothing is drawn: no difference, so it is that byte"""
    pair = colo_pair(lab, guest="chance", cmdline=f"ip={ftlab.GUEST_IP} same", disk=0, timeout="4s")
    a, _ = pair.protect()
    a.wait_console("^READY")
    askers = [Asker(lab, way) for way in ("udp", "tcp")]
    compares(a)
    before = twin(a)
    for ident in range(40):
        for asker in askers:
            asker.ask(ident, lab.rng.choice((BY_ANSWER, BY_CONSOLE)), lab.rng.randrange(DATA))
    after = twin(a)
    expect(after["differences"] == before["differences"], f"{before} became {after}")
    pair.end()


@test(180)
def colo_cut(lab):
    """10^5 TCP segments, fewer in a bed, each as long as its side's TSC says: no checkpoint for them"""
    pair = colo_pair(lab, cmdline=f"ip={ftlab.GUEST_IP} cut=clock", disk=0, timeout="4s")
    a, b = pair.protect()
    compares(a)
    wanted, watch = SEGMENTS if ftlab.SLOW < 4 else ftlab.work(SEGMENTS), {h: FrameWatch(lab, h) for h in "AB"}
    load = Load(lab, udp=1, tcp=1, echo=1, stream=2, stream_rate=0, echo_rate=0, window=30000)
    flowing(lab, load)
    compares(a)
    before = twin(a)
    lengths = set()
    while True:
        lengths |= {struct.unpack_from("!H", f, 16)[0] for _, f in watch["A"].drain() if f[12:14] == b"\x08\x00"}
        after = twin(a)
        expect(after["differences"] == before["differences"], f"{before} became {after}")
        if after["let_total"] - before["let_total"] >= wanted:
            break
        expect(load.alive(), "kvclient has ended")
        load.nap(0.05)
    print(f"# {after['let_total'] - before['let_total']} segments and datagrams left by comparison, of "
          f"{len(lengths)} lengths; {after['checkpoints_total'] - before['checkpoints_total']} checkpoints", flush=True)
    expect(len(lengths) > 500, f"{len(lengths)} lengths of segments")
    pair.taken_over("B", a.kill())
    lab.probe()
    check_load(lab, [load], None)
    pair.end()
