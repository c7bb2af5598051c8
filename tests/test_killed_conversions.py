"""kill -9 at random moments of a conversion, and again: the bytes are those of one that was left alone."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.made import bytes_of

KILLS = 20
COMMAND = [sys.executable, "-m", "dcgan_dist.shard"]
DRAWN = ["synthetic", "--size", "16", "--count", "1500", "--shard-images", "100", "--quiet"]


def started(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.DEVNULL)


def undisturbed(out: Path) -> tuple[dict[str, bytes], float]:
    """The files of a conversion, and how long it took."""
    began = time.monotonic()
    assert started(*DRAWN, "--out", out, "--workers", "1").wait() == 0
    return bytes_of(out), time.monotonic() - began


def check(out: Path, expected: dict[str, bytes]) -> None:
    assert bytes_of(out) == expected
    assert {path.name for path in out.iterdir()} == expected.keys()  # and nothing is left beside them


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_one_process(tmp_path: Path, workers: int) -> None:
    expected, seconds = undisturbed(tmp_path / "whole" / "set")
    out, random, kills = tmp_path / "set", np.random.default_rng(workers), 0
    while kills < KILLS:
        process = started(*DRAWN, "--out", out, "--workers", str(workers))
        time.sleep(random.uniform(0, 1.2 * seconds))
        process.kill()
        if process.wait() == 0:  # it was quicker
            check(out, expected)
            shutil.rmtree(out)
        else:
            assert process.returncode == -9
            kills += 1
    assert started(*DRAWN, "--out", out, "--workers", str(workers)).wait() == 0
    check(out, expected)


@pytest.mark.slow
def test_three_parts_at_once_and_finish(tmp_path: Path) -> None:
    expected, seconds = undisturbed(tmp_path / "whole" / "set")
    out, random, kills = tmp_path / "set", np.random.default_rng(0), 0
    todo: set[int] = set()
    while kills < KILLS or todo:
        todo = todo or {1, 2, 3, 0}
        running = {n: started(*DRAWN, "--out", out, "--workers", "1", "--part", f"{n}/3") for n in todo - {0}}
        if not running:
            running = {0: started("finish", out, "--quiet")}
        if kills < KILLS:
            time.sleep(random.uniform(0, 1.2 * seconds if 0 not in running else 0.6))
            for process in running.values():
                process.kill()
        for number, process in running.items():
            if process.wait() == 0:
                todo.remove(number)
            else:
                assert process.returncode == -9
                kills += 1
        if not todo:
            check(out, expected)
            shutil.rmtree(out)
