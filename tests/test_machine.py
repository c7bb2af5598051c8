"""What a process asks of its machine; memory and compilers are tested with what uses them."""

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from dcgan_dist.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
before = faults()
for _ in range(10):
    torch.ones(2**24)  # 64 MiB
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept():
    taken = {
        way: int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, check=True).stdout)
        for way in ("keep", "free")
    }
    assert taken["keep"] < 100
    assert taken["free"] >= 10 * 64 * 2**20 / resource.getpagesize() / 512  # 512: where pages are huge
