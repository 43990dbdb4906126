"""Unit tests that make a virtual machine: without KVM they can do nothing."""

import os

import ftlab
from ftlab import expect
from testlib import test


@test(60)
def unit_vm(lab):
    """tests/unit/vm_test.c, with a KVM"""
    p = ftlab.run(os.path.join(ftlab.BUILD, "tests/unit/vm_test"), check=False)
    expect(p.returncode == 0 and "[  SKIPPED ]" not in p.stdout, p.stdout)
