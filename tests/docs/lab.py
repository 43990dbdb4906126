"""Three hosts for the examples of the documentation: those of `ftvmm trial` (vmm/cli/trial.sh), so that an example is
run as it is written, down to `pkill ftvmm`."""

import glob
import os
import re
import shutil
import subprocess
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.path.join(ROOT, os.environ.get("FTVMM_BUILD", "build/normal"))
FTVMM = os.path.join(BUILD, "ftvmm")


class Failed(Exception):
    """An example does not do what the text says."""


def environment():
    return dict(os.environ, PATH=BUILD + ":" + os.environ["PATH"])


class Host:
    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.background, self.files = [], []

    def argv(self, script):
        return [FTVMM, "trial", "--name", self.lab.name, "run", self.name, "--", "sh", "-e", "-c", script]

    def run(self, script, timeout=120):
        """Exit code and output."""
        p = subprocess.run(self.argv(script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           stdin=subprocess.DEVNULL, text=True, timeout=timeout, check=False)
        return p.returncode, p.stdout

    def start(self, script):
        """Run it in the background; its output goes to a file of the lab."""
        path = os.path.join(self.lab.work, f"{self.name}-output-{len(self.background)}")
        with open(path, "wb") as out:
            p = subprocess.Popen(self.argv("exec " + script), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.background.append(p)
        self.files.append(path)
        return p, path

    def output(self):
        text = ""
        for path in self.files:
            with open(path, errors="replace") as f:
                text += f"--- {os.path.basename(path)}\n{f.read()[-3000:]}"
        return text


class Lab:
    def __init__(self):
        sweep()
        self.name = f"docs-{os.getpid()}"
        self.work = tempfile.mkdtemp(prefix="ftdocs-")
        self.hosts = {name: Host(self, name) for name in ("client", "A", "B")}
        self.there = False

    def trial(self, script):
        """What the text has typed on the machine itself, but for the name of the trial: exit code and output."""
        named = re.sub(r"^ftvmm trial\b", rf"\g<0> --name {self.name}", script, flags=re.M)
        p = subprocess.run(["sh", "-e", "-c", named], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           stdin=subprocess.DEVNULL, text=True, timeout=120, env=environment(), check=False)
        self.there = True
        return p.returncode, p.stdout

    def host(self, name):
        """On a page that does not say how hosts are made they are there."""
        if not self.there:
            code, output = self.trial("ftvmm trial")
            if code:
                raise Failed(f"ftvmm trial: exit code {code}: {output}")
        return self.hosts[name]

    def output(self):
        return "".join(h.output() for h in self.hosts.values())

    def close(self):
        end(self.name)
        for p in (p for host in self.hosts.values() for p in host.background):
            p.wait()
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def end(name):
    subprocess.run([FTVMM, "trial", "--name", name, "end"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   stdin=subprocess.DEVNULL, timeout=120, check=False)


def sweep():
    """What a killed run has left."""
    for lock in glob.glob("/var/lib/ftvmm-trial/docs-*.lock"):
        name = os.path.basename(lock).removesuffix(".lock")
        if not os.path.exists(f"/proc/{name.removeprefix('docs-')}"):
            end(name)
