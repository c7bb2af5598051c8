"""What this machine has. Standard library only."""

import ctypes
import os
import platform
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h


def core_numbers() -> frozenset[int]:
    """Numbers of the CPU cores this process may use; on systems without affinity (macOS), all there are."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(core_numbers())


def cpu_model() -> str:
    """Model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def free_memory(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> int:
    """Bytes that may still be taken: what the machine has, or less where a container or a batch job is limited."""
    return max(0, min([_available(proc / "meminfo"), *_left_in_cgroups(proc / "self" / "cgroup", cgroups)]))


def check_compiler(*, gpu: bool) -> None:
    """Look for what torch.compile calls: a C++ compiler, or Triton's C compiler on a GPU, and Python's headers.

    Raises:
        ValueError: naming what is missing; torch itself would say so minutes later, on many lines.
    """
    language, variable, usual = ("C", "CC", ["gcc", "clang"]) if gpu else ("C++", "CXX", ["g++"])
    wanted = [os.environ[variable]] if variable in os.environ else usual
    remedy = "or leave compile off (the container image has them when built with WITH_COMPILER=1)"
    if not any(shutil.which(name) for name in wanted):
        raise ValueError(
            f"compile needs a {language} compiler, and there is no {' or '.join(wanted)} here: "
            f"install one, name one in {variable}, {remedy}"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise ValueError(f"compile needs Python's headers, and there is no {header}: install them, {remedy}")


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees for its next use of it, where the C library is glibc.

    It hands large blocks back to the kernel at once, and each step of a training loop would ask for them again, page
    by page: a third of a step's time with 64x64 images. The process then stays as large as it has ever been.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or platform.libc_ver()[0] != "glibc":
        return
    # never a mapping of its own for a block, never trim (-1), grow by 64 MiB
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20)):
        mallopt(option, value)


def anonymous_file(size: int) -> int:
    """A file descriptor of ``size`` zero bytes that never have a name, for processes to map together.

    Raises:
        OSError: If there is no room.
    """
    if hasattr(os, "memfd_create"):  # memory, also where /dev/shm is small, as in a container
        handle = os.memfd_create("dcgan_dist")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    try:
        os.ftruncate(handle, size)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _available(meminfo: Path) -> int:
    """Bytes the kernel can hand out without swapping; half of all where it does not say (macOS)."""
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left_in_cgroups(membership: Path, cgroups: Path) -> Iterator[int]:
    """Bytes left in each control group around this process that has a limit, of version 2 or 1."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        for directory in (group, *group.parents):
            left = _left(directory, names)
            if left is not None:
                yield left
            if directory == top:
                break


def _left(directory: Path, names: tuple[str, str, str]) -> int | None:
    """Limit minus use of one control group, the file cache not counted; None without a limit."""
    limit, used, cached = names
    try:
        allowed = (directory / limit).read_text(encoding="ascii").strip()
        taken = int((directory / used).read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (directory / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if allowed == "max" else int(allowed) - taken + int(statistics.get(cached, 0))
