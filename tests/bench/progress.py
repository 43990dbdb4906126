"""How fast a guest gets on, seen from outside: its own counter, read from its memory, in the process that runs it and
in the one that is going to.

Read from the file, not through a mapping: a page that has not come reads as zeros so, and stays absent."""

import os
import re
import struct
import threading
import time

STEP = 0.0005  # seconds between two looks


def ram_file(pid, name):
    """The memory file of a VM; name: as memfd has it."""
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{fd}").startswith(f"/memfd:{name}"):
                return os.open(f"{folder}/{fd}", os.O_RDONLY)
        except OSError:
            continue  # closed meanwhile
    return None


def counter_at(console):
    """Where the guest has its counter, as it says itself."""
    return int(re.search(r"^progress at (0x[0-9a-f]+)", console, re.M)[1], 16)


class Watch:
    """Samples of [ns, at the source, at the destination], from its making to its end.

    vms: (pid, name of its memory file) of both; the second may have no memory yet, and the first may end."""

    def __init__(self, source, destination, address):
        self.vms, self.address, self.samples = (source, destination), address, []
        self.fds, self.stop = [None, None], False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def look(self, i):
        if self.fds[i] is None:
            try:
                self.fds[i] = ram_file(*self.vms[i])
            except OSError:
                return 0
        if self.fds[i] is None:
            return 0
        data = os.pread(self.fds[i], 8, self.address)
        return struct.unpack("<Q", data)[0] if len(data) == 8 else 0

    def run(self):
        while not self.stop:
            self.samples.append((time.monotonic_ns(), self.look(0), self.look(1)))
            time.sleep(STEP)

    def end(self):
        self.stop = True
        self.thread.join()
        for fd in self.fds:
            if fd is not None:
                os.close(fd)
        return self.samples


def gap(samples):
    """ns: when the source got on for the last time, when the destination was first seen to be further; or None."""
    last = max(s for _, s, _ in samples)
    stood = next(t for t, s, _ in samples if s == last)
    on = next((t for t, _, d in samples if d > last > 0), None)
    return on and (stood, on)


def speeds(samples, begin, width_ns):
    """(seconds from `begin`, passes a second) of stretches of that width."""
    rows, at = [], 0
    while True:
        t0, s0, d0 = samples[at]
        following = next((i for i in range(at + 1, len(samples)) if samples[i][0] >= t0 + width_ns), None)
        if following is None:
            return rows
        t1, s1, d1 = samples[following]
        rows.append(((t0 + t1) / 2e9 - begin / 1e9, (max(s1, d1) - max(s0, d0)) * 1e9 / (t1 - t0)))
        at = following
