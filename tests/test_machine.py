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


GROWTH = """
import os
import torch
from dcgan_dist.machine import keep_freed_memory
def pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0])
keep_freed_memory()
torch.empty(2**20, dtype=torch.uint8)
before = pages()
torch.empty(3 * 2**30, dtype=torch.uint8)  # never touched: addresses, not memory
print((pages() - before) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept_however_much_it_is():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, check=True)
    assert int(done.stdout) > 2 * 2**30  # some of the 3 GiB may have been there


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept():
    taken = {
        way: int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, check=True).stdout)
        for way in ("keep", "free")
    }
    assert taken["free"] >= 10 * 64 * 2**20 / resource.getpagesize() / 512  # 512: where pages are huge
    assert taken["keep"] < taken["free"] / 4  # one of the ten may need a new place: small things lie in the old one
