"""A protected Linux guest does not notice the death of its host."""

import signal

from ftlab import expect
from linuxlab import VSOCK_PORT, LinuxPair, Ping, Shell, check_clock, check_guest_log
from snapshots import RESEEDED
from testlib import random_wait, test



def take_over(lab, pair, shell, ping, dies, how):
    """The side that runs the guest leaves, at an instant that nothing knows of; all goes on at the other."""
    lives = pair.other(dies)
    random_wait(lab, pair.vm[dies], 0.2, 2)
    shell.start("sleep 1; echo $((6 * 7))")
    how(pair.vm[dies])
    pair.vm[lives].wait_state("DEGRADED", seconds=20)
    lab.release(pair.vm[dies])
    expect(shell.finish() == "42", "the connection has lost or mixed up bytes")
    ping.more()
    check_clock(shell)


def protect_linux(lab, kernel, image, cpus):
    pair = LinuxPair(lab, kernel, image, cpus)
    pair.protect()
    shell, ping = Shell(lab), Ping(lab)
    shell.watch_clock()
    digest = shell.run("dd if=/dev/urandom of=/tmp/data bs=64k count=16; dd if=/tmp/data of=/dev/vda bs=64k conv=fsync; "
                       "sha256sum < /tmp/data").splitlines()[-1]
    take_over(lab, pair, shell, ping, "A", lambda vm: vm.signal(signal.SIGKILL))
    pair.secondary("A")
    pair.in_step()
    # Noticed only by its silence: the guest's clocks have seconds to make up for.
    take_over(lab, pair, shell, ping, "B", lambda vm: vm.signal(signal.SIGSTOP))
    if kernel == "cloud":
        pair.secondary("B")
        pair.in_step()
        take_over(lab, pair, shell, ping, "A", lambda vm: vm.call("failover"))
        runs = pair.vm["B"]
    else:
        runs = pair.vm["A"]
    for source in ("cat /tmp/data", "dd if=/dev/vda bs=64k count=16 iflag=direct 2> /dev/null"):
        seen = shell.run(f"{source} | sha256sum")
        expect(seen == digest, f"{source}: {seen}, not {digest}")
    echoed = shell.run(f"echo hello | vsockcat -t 20 2 {VSOCK_PORT}")
    expect(echoed == "hello", f"vsock: {echoed}")
    if kernel == "standard":
        expect(RESEEDED in shell.run("dmesg"), f"no '{RESEEDED}' in the kernel log")
    check_guest_log(shell)
    runs.call("stop")
    expect(runs.wait_exit(30) == 0 and "switched off" in runs.log_text(), f"the power button: {runs.log_text()}")


def add(kernel, image, cpus):
    def protect(lab):
        protect_linux(lab, kernel, image, cpus)
    protect.__name__ = f"protect_{kernel}_{cpus}"
    protect.__doc__ = f"{kernel} kernel as {image}, {cpus} vCPUs: a death, protected again, a frozen host" + \
        (", handed over" if kernel == "cloud" else "")
    test(360)(protect)


add("cloud", "vmlinuz", 1)
add("standard", "vmlinux", 2)
