"""Processes that hold locks."""

import subprocess
import sys
from pathlib import Path

from tests.shared import REPOSITORY

HOLDER = """
import os, sys, time
from pathlib import Path
from dcgan_dist.run_lock import training_alone, try_lock
path = Path(sys.argv[2])
if sys.argv[1] == "log":
    file = path.open("ab+")
    assert try_lock(file.fileno())
    print("held", flush=True)
    time.sleep(60)
try:
    with training_alone(path):
        if sys.argv[1] == "parent" and os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        print("held", flush=True)
        time.sleep(60)
except ValueError as error:
    print(error, flush=True)
"""


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process that tries to hold a lock for a minute, and says ``held`` or why not.

    Args:
        kind: ``log`` for the lock of a log, ``run`` for that of a run directory, ``parent`` for the same with a child.
        path: of the log or the directory.
    """
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )


def hold(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock."""
    process = holder(kind, path)
    assert said(process) == "held"
    return process


def said(process: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert process.stdout
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and wait until it has gone."""
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()
