"""Three hosts for the examples of the documentation. Each has network, mount, process and host names
of its own, so that an example is run as it is written, down to `pkill ftvmm`.

    client   10.77.0.1 ---+--- ftbr0 of host A: tap of the guest      A 10.77.1.1 --- 10.77.1.2 B
                          +--- ftbr0 of host B: tap of the guest

/srv/shared is one folder that A and B see; /run and the current folder belong to each host.
"""

import os
import shutil
import subprocess
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.path.join(ROOT, os.environ.get("FTVMM_BUILD", "build/normal"))


class Failed(Exception):
    """An example does not do what the text says."""


class Host:
    """Lives as long as its first process, which ends with our end of its standard input."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.folder = os.path.join(lab.work, name)
        os.makedirs(os.path.join(self.folder, "run"))
        for link in ("build", "configs"):
            os.symlink(os.path.join(ROOT, link), os.path.join(self.folder, link))
        self.background, self.files = [], []
        script = (f"hostname {name} && mount -t tmpfs none /run && mount -t tmpfs none /srv && "
                  f"mkdir /srv/shared && mount --bind {lab.shared} /srv/shared && ip link set lo up "
                  "&& echo ready && exec cat")
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc",
             "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise Failed(f"host {name}: namespaces cannot be made here")
        with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children") as f:
            self.pid = int(f.read().split()[0])

    def argv(self, script):
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts",
                f"--wd={self.folder}", "sh", "-e", "-c", script]

    def environment(self):
        env = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        return dict(env, PATH=BUILD + ":" + env["PATH"])

    def run(self, script, timeout=120):
        """Exit code and output."""
        p = subprocess.run(self.argv(script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           stdin=subprocess.DEVNULL, text=True, timeout=timeout,
                           env=self.environment())
        return p.returncode, p.stdout

    def start(self, script):
        """Run it in the background; its output goes to a file of the host."""
        path = os.path.join(self.folder, f"output-{len(self.background)}")
        with open(path, "wb") as out:
            p = subprocess.Popen(self.argv("exec " + script), stdout=out, stderr=out,
                                 stdin=subprocess.DEVNULL, env=self.environment())
        self.background.append(p)
        self.files.append(path)
        return p, path

    def output(self):
        text = ""
        for path in self.files:
            with open(path, errors="replace") as f:
                text += f"--- {self.name}: {os.path.basename(path)}\n{f.read()[-3000:]}"
        return text

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()
        for p in self.background:
            p.wait()


class Lab:
    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="ftdocs-")
        self.shared = os.path.join(self.work, "shared")
        os.mkdir(self.shared)
        self.hosts = {}
        try:
            for name in ("client", "A", "B"):
                self.hosts[name] = Host(self, name)
            self.wire()
        except BaseException:
            self.close()
            raise

    def ip(self, name, *commands):
        for command in commands:
            p = subprocess.run(["nsenter", f"--target={self.hosts[name].pid}", "--net", "ip",
                                *command.split()], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
            if p.returncode:
                raise Failed(f"host {name}: ip {command}: {p.stdout}")

    def wire(self):
        bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        self.ip("client", f"link add lan {bridge}", "address add 10.77.0.1/24 dev lan",
                "link set dev lan up")
        for name in "AB":
            self.ip("client", f"link add to{name} type veth peer name uplink netns "
                    f"{self.hosts[name].pid}", f"link set dev to{name} master lan up")
            self.ip(name, f"link add ftbr0 {bridge}", "link set dev ftbr0 up",
                    "link set dev uplink master ftbr0 up")
        self.ip("A", f"link add ftlink type veth peer name ftlink netns {self.hosts['B'].pid}")
        for name, last in (("A", 1), ("B", 2)):
            self.ip(name, f"address add 10.77.1.{last}/24 dev ftlink", "link set dev ftlink up")

    def output(self):
        return "".join(h.output() for h in self.hosts.values())

    def close(self):
        for host in self.hosts.values():
            host.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
