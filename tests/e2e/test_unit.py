"""Unit tests that make a virtual machine: without KVM they can do nothing."""

import os

import ftlab
from ftlab import expect
from testlib import test


def passes(name):
    p = ftlab.run(os.path.join(ftlab.BUILD, "tests/unit", name), check=False)
    expect(p.returncode == 0 and "[  SKIPPED ]" not in p.stdout, p.stdout)


@test(60)
def unit_vm(lab):
    """tests/unit/vm_test.c, with a KVM"""
    passes("vm_test")


@test(60)
def unit_replica(lab):
    """tests/unit/replica_vcpu_test.c, with a KVM"""
    passes("replica_vcpu_test")
