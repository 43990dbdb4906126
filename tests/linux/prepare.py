"""What the Linux tests need before the first bed starts: guests, and the programs that are put into them."""

import importlib
import os
import subprocess

import ftlab
from linuxlab import HERE, TOOLS


def prepare(modules):
    parts = {"kernels"}.union(*(getattr(importlib.import_module(m), "PARTS_OF_LINUX", ()) for m in modules))
    subprocess.run([os.path.join(ftlab.ROOT, "guests/linux/build"), *sorted(parts)], check=True)
    os.makedirs(TOOLS, exist_ok=True)
    for name in os.listdir(os.path.join(HERE, "guest")):
        source, program = os.path.join(HERE, "guest", name), os.path.join(TOOLS, name[:-2])
        if name.endswith(".c") and not (os.path.exists(program) and
                                        os.path.getmtime(program) > os.path.getmtime(source)):
            subprocess.run([os.environ.get("CC", "gcc"), "-O2", "-s", "-static", "-Wall", "-Wextra", "-o", program,
                            source], check=True)
