"""Clients of the databases and the web server in a guest. Each keeps one connection, for ever: every answer
must be the one that a machine would give which never failed, and one connection has only one right answer."""

import hashlib
import itertools
import random
import socket
import struct
import threading
import time

import ftlab
from ftlab import expect

PAUSE = 0.02  # seconds between requests of a client: a first sync needs the processor, too
SILENCE = 300  # seconds without an answer that end a client; a TCP that has to repeat itself waits long
REDIS_PORT, PG_PORT, HTTP_PORT = 6379, 5432, 80


class Wrong(Exception):
    """An answer that a machine which never failed would not have given."""


def right(condition, what):
    if not condition:
        raise Wrong(what)


class Stream:
    """One TCP connection, made in the clients' network."""

    def __init__(self, lab, port, address=ftlab.GUEST_IP):
        self.sock = lab.socket_in("C", socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(SILENCE)
        self.sock.connect((address, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data)

    def read(self, count):
        data = self.file.read(count)
        if len(data) != count:
            raise ConnectionError("the connection ended")
        return data

    def line(self):
        data = self.file.readline()
        if not data.endswith(b"\r\n"):
            raise ConnectionError("the connection ended")
        return data[:-2].decode()

    def close(self):
        """Also while a thread waits for it, which is woken."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end was faster
            pass


class Client(threading.Thread):
    """Does step() after step() until finish()."""

    port = None

    def __init__(self, lab, number):
        super().__init__(daemon=True)
        self.number, self.acked, self.trouble = number, 0, None
        self.answered, self.gap = time.monotonic(), 0
        self.ending = threading.Event()
        self.rng = random.Random(lab.rng.random())
        self.stream = Stream(lab, self.port)
        lab.closing.append(self.stream)
        self.start()

    def run(self):
        try:
            self.greet()
            while not self.ending.is_set():
                self.step()
                self.ending.wait(PAUSE)
        except (Wrong, OSError, ValueError, struct.error) as e:
            if not isinstance(e, Wrong):
                e = f"the connection was not kept: {type(e).__name__}: {e}"
            self.trouble = f"{type(self).__name__} {self.number}, after {self.acked} answers: {e}"

    def greet(self):
        pass

    def progress(self):
        """A number that grows with each answer."""
        return self.acked

    def note_answer(self):
        """gap: the longest time without one, seconds."""
        now = time.monotonic()
        self.gap, self.answered = max(self.gap, now - self.answered), now

    def check(self):
        expect(not self.trouble, self.trouble)

    def more(self, count, seconds=40):
        """Until it has got so many answers more."""
        goal, d = self.progress() + count, ftlab.Deadline(seconds)
        while self.progress() < goal:
            self.check()
            d.check(f"an answer to {type(self).__name__} {self.number}")
            self.ending.wait(0.02)

    def finish(self, seconds=60):
        self.ending.set()
        self.join(seconds * ftlab.SLOW)
        self.check()
        expect(not self.is_alive(), f"{type(self).__name__} {self.number} waits for an answer in vain")


# --- Redis ------------------------------------------------------------------------------------------

def redis_send(stream, *commands):
    for command in commands:
        words = [str(w).encode() for w in command]
        stream.send(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))


def redis_answer(stream):
    line = stream.line()
    kind, rest = line[:1], line[1:]
    if kind == "$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == "*":
        return [redis_answer(stream) for _ in range(int(rest))]
    right(kind in "+:", f"Redis says {line}")
    return int(rest) if kind == ":" else rest


def redis_connect(lab, address=ftlab.GUEST_IP):
    stream = Stream(lab, REDIS_PORT, address)
    redis_send(stream, ("PING",))
    right(redis_answer(stream) == "PONG", "no PONG from Redis")
    return stream


class Redis(Client):
    """Writes: a counter, values that only grow, a journal. Several at once, as pipelines do."""

    port, keys = REDIS_PORT, 8

    def __init__(self, lab, number):
        self.n = 0
        super().__init__(lab, number)

    def step(self):
        me, commands, answers = self.number, [], []
        for _ in range(self.rng.randrange(1, 6)):
            self.n += 1
            key = f"k{me}.{self.n % self.keys}"
            commands += [("INCR", f"c{me}"), ("SET", key, self.n), ("RPUSH", f"j{me}", self.n), ("GET", key)]
            answers += [self.n, "OK", self.n, str(self.n)]
        redis_send(self.stream, *commands)
        for command, answer in zip(commands, answers):
            got = redis_answer(self.stream)
            right(got == answer, f"{' '.join(map(str, command))} was answered by {got}, not by {answer}")
            self.acked += command[0] != "GET"
        self.note_answer()

    def audit(self, stream):
        """Every acknowledged write is there, and nothing else."""
        me, n = self.number, self.n
        keys = {f"k{me}.{i % self.keys}": str(i) for i in range(max(1, n - self.keys + 1), n + 1)}
        redis_send(stream, ("MGET", f"c{me}", *keys), ("LRANGE", f"j{me}", 0, -1))
        values, journal = redis_answer(stream), redis_answer(stream)
        expected = [str(n), *keys.values()]
        expect(values == expected, f"Redis has {values} for c{me} and {' '.join(keys)}, acknowledged {expected}")
        expect(journal == [str(i) for i in range(1, n + 1)],
               f"Redis' journal j{me} has {len(journal)} entries up to {journal[-1:]}, acknowledged {n}")


# --- PostgreSQL: the protocol's version 3 -----------------------------------------------------------

def pg_answer(stream):
    """Rows and tags up to ReadyForQuery."""
    rows, tags = [], []
    while True:
        kind, length = struct.unpack("!cI", stream.read(5))
        body = stream.read(length - 4)
        if kind == b"Z":
            return rows, tags
        if kind == b"C":
            tags.append(body[:-1].decode())
        elif kind == b"D":
            count, at, row = struct.unpack_from("!H", body)[0], 2, []
            for _ in range(count):
                size = struct.unpack_from("!i", body, at)[0]
                row.append(body[at + 4:at + 4 + size].decode())
                at += 4 + size
            rows.append(row)
        elif kind == b"E":
            right(False, "PostgreSQL says " + body.replace(b"\0", b" ").decode(errors="replace"))


def pg_query(stream, text):
    data = text.encode() + b"\0"
    stream.send(b"Q" + struct.pack("!I", len(data) + 4) + data)
    return pg_answer(stream)


def pg_login(stream):
    data = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
    stream.send(struct.pack("!I", len(data) + 4) + data)
    pg_answer(stream)


def pg_connect(lab, address=ftlab.GUEST_IP):
    stream = Stream(lab, PG_PORT, address)
    pg_login(stream)
    return stream


class Postgres(Client):
    """Transfers between accounts, which must neither make nor lose money."""

    port, accounts, start_balance = PG_PORT, 12, 1000

    def __init__(self, lab, number):
        self.done = []
        super().__init__(lab, number)

    @classmethod
    def set_up(cls, lab):
        stream = pg_connect(lab)
        pg_query(stream, "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);"
                 "CREATE TABLE transfers (client int, n int, low int, high int, amount int, PRIMARY KEY (client, n));"
                 f"INSERT INTO accounts SELECT i, {cls.start_balance} FROM generate_series(1, {cls.accounts}) i")
        stream.close()

    def greet(self):
        pg_login(self.stream)

    def ask(self, text, *tags):
        rows, got = pg_query(self.stream, text)
        right(got == list(tags), f"{text} was answered by {got}")
        return rows

    def step(self):
        n = len(self.done) + 1
        low, high = sorted(self.rng.sample(range(1, self.accounts + 1), 2))  # in order: no deadlock
        amount = self.rng.randrange(-50, 51)
        work = (f"BEGIN; UPDATE accounts SET balance = balance - ({amount}) WHERE id = {low};"
                f"UPDATE accounts SET balance = balance + ({amount}) WHERE id = {high};"
                f"INSERT INTO transfers VALUES ({self.number}, {n}, {low}, {high}, {amount})")
        tags = ["BEGIN", "UPDATE 1", "UPDATE 1", "INSERT 0 1"]
        if n % 4:
            self.ask(work + "; COMMIT", *tags, "COMMIT")
        else:  # a transaction that is open for a while
            self.ask(work, *tags)
            self.ask("COMMIT", "COMMIT")
        self.done.append((n, low, high, amount))
        self.acked += 1
        if not n % 5:
            rows = self.ask("SELECT sum(balance), (SELECT count(*) FROM transfers "
                            f"WHERE client = {self.number}) FROM accounts", "SELECT 1")
            right(rows == [[str(self.accounts * self.start_balance), str(n)]],
                  f"sum of all accounts and number of my transfers are {rows}, after {n} transfers")

    @classmethod
    def audit(cls, clients, stream):
        """The transfers are those that were acknowledged, the accounts what comes of them."""
        balance = dict.fromkeys(range(1, cls.accounts + 1), cls.start_balance)
        for client in clients:
            rows, _ = pg_query(stream, f"SELECT n, low, high, amount FROM transfers WHERE client = {client.number} "
                               "ORDER BY n")
            found = [tuple(map(int, row)) for row in rows]
            lost, more = set(client.done) - set(found), set(found) - set(client.done)
            expect(found == client.done, f"of client {client.number}'s {len(client.done)} acknowledged transfers are "
                   f"lost: {sorted(lost)[:5]}; not acknowledged are: {sorted(more)[:5]}")
            for _, low, high, amount in found:
                balance[low] -= amount
                balance[high] += amount
        rows, _ = pg_query(stream, "SELECT id, balance FROM accounts ORDER BY id")
        found = {int(i): int(b) for i, b in rows}
        expect(found == balance, f"the accounts hold {found}, their transfers make {balance}")


# --- nginx ------------------------------------------------------------------------------------------

class Download(Client):
    """The same 50 MiB again and again over one connection, slowly, so that machines die meanwhile."""

    port, rate, chunk = HTTP_PORT, 1 << 20, 64 << 10

    def __init__(self, lab, number, size, digest, kills):
        self.size, self.digest, self.kills = size, digest, kills
        self.downloads = self.over_kills = self.bytes = 0
        super().__init__(lab, number)

    def progress(self):
        return self.bytes // self.chunk

    def step(self):
        kills = self.kills()
        self.stream.send(b"GET /50m HTTP/1.1\r\nHost: guest\r\n\r\n")
        head = list(itertools.takewhile(bool, iter(self.stream.line, None)))
        right(" 200 " in head[0] and f"content-length: {self.size}" in (h.lower() for h in head), f"nginx says {head}")
        digest, left = hashlib.sha256(), self.size
        while left:
            data = self.stream.read(min(left, self.chunk))
            digest.update(data)
            left -= len(data)
            self.bytes += len(data)
            if not self.ending.wait(self.chunk / self.rate):
                continue
            if self.over_kills:
                return
            # No other has been over a kill: this one is to arrive as well, and may hurry.
        right(digest.hexdigest() == self.digest, f"download {self.downloads + 1} has the wrong checksum")
        self.downloads += 1
        self.acked += 1
        self.over_kills += self.kills() > kills


def sha256_of(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
