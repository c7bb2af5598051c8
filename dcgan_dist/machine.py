"""What this machine has. Standard library only."""

import os


def cores() -> int:
    """CPU cores this process may use; on systems without affinity (macOS), all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
