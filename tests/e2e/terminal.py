"""Somebody at the guest's console, or nobody."""

import os
import pty
import re
import select
import subprocess

import ftlab
from ftlab import expect


class Terminal:
    """`ftvmm console vm` on a host, at a pipe or at a terminal of its own."""

    def __init__(self, lab, host="A", tty=False):
        self.seen = b""
        mine, theirs = pty.openpty() if tty else os.pipe()
        self.keys = mine if tty else theirs
        stdin = theirs if tty else mine
        self.proc = subprocess.Popen([ftlab.FTVMM, "console", "vm"], stdin=stdin, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT,
                                     env=dict(os.environ, XDG_RUNTIME_DIR=lab.path(host)))
        os.close(stdin)
        os.set_blocking(self.proc.stdout.fileno(), False)
        lab.closing.append(self)

    def type(self, text):
        os.write(self.keys, text.encode())

    def wait(self, pattern, seconds=10):
        d = ftlab.Deadline(seconds)
        while not re.search(pattern, self.seen.decode(errors="replace")):
            ready, _, _ = select.select([self.proc.stdout], [], [], max(0.01, d.left()))
            more = self.proc.stdout.read() if ready else b""
            expect(more or not ready, f"console ended without '{pattern}': {self.seen[-300:]}")
            expect(d.left() > 0, f"console: no '{pattern}' in {self.seen[-300:]}")
            self.seen += more or b""

    def wait_exit(self, code):
        out, _ = self.proc.communicate(timeout=10 * ftlab.SLOW)
        self.seen += out or b""
        expect(self.proc.returncode == code, f"console: exit code {self.proc.returncode}: {self.seen[-300:]}")

    def close(self):
        if self.keys >= 0:
            os.close(self.keys)
        self.keys = -1
        # A sanitizer, killed at its work at the end of the process, takes that for a bug.
        if self.proc.poll() is None:
            self.proc.terminate()
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


class Fifo:
    """What a process writes to, and its reader, who reads when told."""

    def __init__(self, lab, name):
        self.path, self.seen = lab.path(name), b""
        os.mkfifo(self.path)
        self.fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        lab.closing.append(self)

    def fill(self):
        junk = b"." * 4096
        try:
            while True:
                os.write(self.fd, junk)
        except BlockingIOError:
            pass

    def read_until(self, accept, what, seconds=10):
        d = ftlab.Deadline(seconds)
        while not accept():
            ready, _, _ = select.select([self.fd], [], [], 0.1)
            self.seen += os.read(self.fd, 65536) if ready else b""
            d.check(f"{what}, after {self.seen[-300:]}")

    def wait(self, pattern, seconds=10):
        self.read_until(lambda: re.search(pattern, self.seen), pattern, seconds)

    def close(self):
        os.close(self.fd)
