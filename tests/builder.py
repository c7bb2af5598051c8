"""The image built and run with ../shared/containers/local-build: a private Docker engine, no registry."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.shared import REPOSITORY, SHARED

PROGRAM = SHARED / "containers" / "local-build"
USER = "4711:4711"
"""Unknown to the image."""

Result = subprocess.CompletedProcess[str]


def why_not() -> str:
    """Why there is nothing here to build with; empty when there is."""
    if not PROGRAM.exists():
        return f"needs {PROGRAM} (DCGAN_SHARED)"
    return "" if os.geteuid() == 0 else f"{PROGRAM} must run as root"


def local_build(*words: str, seconds: float = 300, environment: Mapping[str, str] | None = None) -> Result:
    """What became of ``local-build WORDS``, which has ``seconds``."""
    limits = {f"LOCAL_BUILD_{what}_TIMEOUT": f"{seconds:.0f}" for what in ("INSTALL", "BASE", "BUILD", "RUN")}
    return subprocess.run(
        [str(PROGRAM), *words],
        cwd=REPOSITORY,
        env={**os.environ, **limits, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + 60,  # it ends what it started by itself
    )


def must(*words: str, seconds: float = 300) -> str:
    """Standard output of ``local-build WORDS``, which must succeed."""
    result = local_build(*words, seconds=seconds)
    assert result.returncode == 0, f"{' '.join(words)}:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def mounted(folder: Path) -> list[str]:
    """Options of docker run: a user id the image does not know, a read-only root, ``folder``'s shards and runs."""
    return [
        *("--user", USER, "--read-only", "--tmpfs", "/tmp:exec"),
        *("--volume", f"{folder}/shards:/workspace/shards", "--volume", f"{folder}/runs:/workspace/runs"),
    ]


@contextmanager
def running(name: str, *words: str) -> Iterator[None]:
    """A container in the background, gone after the block."""
    must("docker", "run", "--detach", "--name", name, "--network", "none", "--hostname", "localhost", *words)
    try:
        yield
    finally:
        local_build("docker", "rm", "--force", name)


def stopped(name: str) -> tuple[int, float, str]:
    """Exit code of a container that ``docker stop`` ends, seconds that took, and what it had printed."""
    begin = time.monotonic()
    must("docker", "stop", "--time", "120", name)
    seconds = time.monotonic() - begin
    code = must("docker", "inspect", "--format", "{{.State.ExitCode}}", name)
    logs = local_build("docker", "logs", name)
    return int(code), seconds, logs.stdout + logs.stderr
