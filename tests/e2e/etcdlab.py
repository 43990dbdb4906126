"""etcd in the laboratory: a member on host A, on host B and at the client, on the network of the guest, not on the link
between A and B."""

import json
import os
import shutil
import socket
import tempfile

import ftlab
from ftlab import CLIENT_IP, Deadline, Process, expect
from testlib import Skip

IP = {"A": "10.77.0.11", "B": "10.77.0.12", "C": CLIENT_IP}
PORT, PEER_PORT = 2379, 2380
RANGE = json.dumps({"key": "eA=="})


class Member(Process):
    def __init__(self, lab, node, folder, nodes):
        self.lab, self.node = lab, node
        client, peer = f"http://{IP[node]}:{PORT}", f"http://{IP[node]}:{PEER_PORT}"
        super().__init__(lab.ns[node], [
            "etcd", "--name", node, "--data-dir", os.path.join(folder, node),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", ",".join(f"{n}=http://{IP[n]}:{PEER_PORT}" for n in nodes),
            "--initial-cluster-token", os.path.basename(folder),
        ], lab.path(f"{lab.next_serial():03}-etcd-{node}"))
        lab.processes.append(self)

    def answers(self):
        """Does it, with a majority behind it?"""
        try:
            with self.lab.socket_in(self.node, socket.AF_INET, socket.SOCK_STREAM) as s:
                s.settimeout(2 * ftlab.SLOW)
                s.connect((IP[self.node], PORT))
                s.sendall(f"POST /v3/kv/range HTTP/1.0\r\nContent-Length: {len(RANGE)}\r\n\r\n{RANGE}".encode())
                return s.makefile().readline().split()[1:2] == ["200"]
        except OSError:
            return False


def room(folder):
    try:
        f = os.statvfs(folder)
        return os.access(folder, os.W_OK) and f.f_bavail * f.f_frsize >= 2 << 30
    except OSError:
        return False


class Etcd:
    """A cluster of its members: as an arbiter `uri`, or `uri_of` the one on each host first."""

    def __init__(self, lab, nodes="ABC"):
        if not shutil.which("etcd"):
            raise Skip("etcd is not installed (apt-get install etcd-server)")
        if "FTVMM_IN_BED" in os.environ:
            raise Skip("etcd's own deadlines are not made for an emulated machine")
        self.lab, self.nodes, self.member = lab, nodes, {}
        # The disk may be slow for reasons of its own: a member that waits for it loses elections. Each takes 128M.
        self.folder = tempfile.mkdtemp(prefix=ftlab.PREFIX + "-etcd-", dir="/dev/shm" if room("/dev/shm") else lab.work)
        lab.closing.append(self)
        for host in "AB":
            lab.ip(host, f"address replace {IP[host]}/24 dev br0")
        for node in nodes:
            self.start(node)
        self.ready(nodes)
        self.uri = self.uri_from(nodes)
        self.uri_of = {h: self.uri_from(sorted(nodes, key=lambda n: n != h)) for h in "AB"}

    def uri_from(self, nodes):
        return "etcd:http://" + ",".join(f"{IP[n]}:{PORT}" for n in nodes)

    def start(self, node):
        self.member[node] = Member(self.lab, node, self.folder, self.nodes)

    def kill(self, *nodes):
        for node in nodes:
            self.member[node].kill()
            self.lab.release(self.member.pop(node))

    def ready(self, nodes, seconds=30):
        d = Deadline(seconds)
        for node in nodes:
            while not self.member[node].answers():
                expect(self.member[node].alive(), f"etcd on {node} ended: {self.member[node].log_text()[-500:]}")
                d.check(f"etcd on {node}")
                self.member[node].nap(0.05)

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)
