"""QEMU's x-colo with the same guest image: a primary on host A, a secondary on host B, the objects that compare what
they put out (QEMU's docs/COLO-FT.txt), no disks."""

import re
import time

from benchlib import QemuVm, ftlab, pin

MACHINE = ["-global", "virtio-mmio.force-legacy=false"]
MIGRATE_PORT, INPUT_PORT, OUTPUT_PORT = 9998, 9003, 9004
TAP = "q0"


def card(mac):
    """Frames without virtio's header: its comparison reads them as they are."""
    return ["-netdev", f"tap,id=hn0,ifname={TAP},script=no,downscript=no,vhost=off,vnet_hdr=off",
            "-device", f"virtio-net-device,netdev=hn0,mac={mac.hex(':')}"]


class QemuColo:
    """Runs, and compares, when made. ms: from one checkpoint to the next, if outputs do not differ."""

    def __init__(self, lab, guest, cmdline, ms, ip_mac=None, cpus=None):
        self.lab, self.vms = lab, ()
        try:
            self.start(guest, cmdline, ip_mac, cpus)
            self.begin(ms)
        except BaseException:
            self.end()
            raise

    def start(self, guest, cmdline, ip_mac, cpus):
        lab = self.lab
        cmdline += f" ip={ip_mac[0]}" if ip_mac else ""
        mac = ip_mac[1] if ip_mac else None
        self.b = QemuVm(lab, "B", guest, cmdline, *self.secondary_args(mac))
        self.vms = (self.b,)
        self.a = QemuVm(lab, "A", guest, cmdline, *self.primary_args(mac))
        self.vms = (self.a, self.b)
        self.a.wait_ready()
        if ip_mac:
            # The secondary's hears the primary, and nobody else.
            lab.ip("A", f"link set {TAP} master br0 up")
            lab.ip("B", f"link set {TAP} up")
        for vm, own in zip(self.vms, cpus or ()):
            pin(vm, own)

    def primary_args(self, mac):
        args = list(MACHINE)
        if not mac:
            return args
        here, inside = f"host={ftlab.LINK_IP['A']}", [self.lab.path(f"colo-{i}-{id(self)}") for i in range(2)]
        for id_, where in (("mirror0", f"{here},port={INPUT_PORT},server=on,wait=off"),
                           ("compare1", f"{here},port={OUTPUT_PORT},server=on,wait=on"),
                           ("compare0", f"path={inside[0]},server=on,wait=off"), ("compare0-0", f"path={inside[0]}"),
                           ("out", f"path={inside[1]},server=on,wait=off"), ("out0", f"path={inside[1]}")):
            args += ["-chardev", f"socket,id={id_},{where}"]
        for what in ("filter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0",
                     "filter-redirector,id=redire0,netdev=hn0,queue=rx,indev=out",
                     "filter-redirector,id=redire1,netdev=hn0,queue=rx,outdev=compare0", "iothread,id=compares",
                     "colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,outdev=out0,iothread=compares"):
            args += ["-object", what]
        return args + card(mac)

    def secondary_args(self, mac):
        args = [*MACHINE, "-incoming", f"tcp:{ftlab.LINK_IP['B']}:{MIGRATE_PORT}"]
        if not mac:
            return args
        for id_, port in (("red0", INPUT_PORT), ("red1", OUTPUT_PORT)):
            args += ["-chardev", f"socket,id={id_},host={ftlab.LINK_IP['A']},port={port},reconnect=1"]
        for what in ("filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0",
                     "filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1",
                     "filter-rewriter,id=rew0,netdev=hn0,queue=all"):
            args += ["-object", what]
        return args + card(mac)

    def begin(self, ms):
        self.b.connect()
        self.a.command("migrate-set-parameters", **{"x-checkpoint-delay": ms, "max-bandwidth": 1 << 40})
        self.a.command("migrate-set-capabilities", capabilities=[{"capability": "x-colo", "state": True}])
        self.a.command("migrate", uri=f"tcp:{ftlab.LINK_IP['B']}:{MIGRATE_PORT}")
        d = ftlab.Deadline(30)
        while (s := self.status()) != "colo":
            ftlab.expect(s not in ("failed", "cancelled", "completed"), f"QEMU's x-colo: {s}: {self.said()}")
            d.check(f"QEMU's x-colo, which is {s}")
            self.a.nap(0.05)
        self.stands(2)  # the first one, of all memory, takes longer

    def status(self):
        for vm in self.vms:
            ftlab.expect(vm.alive(), f"QEMU's x-colo ended: {self.said()}")
        return self.a.command("query-migrate").get("status", "none")

    def said(self):
        return "; ".join(filter(None, (ftlab.tail(vm.log, 2) for vm in self.vms)))

    def stands(self, at_least, seconds=0):
        """For how many ms the guest stood, of each checkpoint, for that many seconds and checkpoints."""
        self.a.command("query-status")
        self.a.events.clear()
        d, begin = ftlab.Deadline(30 + seconds), time.monotonic()
        while True:
            ftlab.expect(self.status() == "colo", f"QEMU's x-colo is over: {self.said()}")
            found, stopped = [], None
            for event in self.a.events:
                at = event["timestamp"]["seconds"] * 1e3 + event["timestamp"]["microseconds"] / 1e3
                if event["event"] == "STOP":
                    stopped = at
                elif event["event"] == "RESUME" and stopped:
                    found.append(at - stopped)
            if len(found) >= at_least and time.monotonic() - begin >= seconds:
                self.check_guest()
                return found
            d.check(f"{at_least} checkpoints of QEMU's x-colo")
            self.a.nap(0.1)

    def check_guest(self):
        for vm in self.vms:
            fault = re.search("^(CORRUPT|TRAP|FAILED).*", vm.console_text(), re.M)
            ftlab.expect(not fault, f"the guest under QEMU's x-colo: {fault and fault[0]}")

    def rest(self):
        for vm in self.vms:
            vm.rest()

    def go_on(self):
        for vm in reversed(self.vms):
            vm.go_on()

    def end(self):
        self.lab.release(*self.vms)
