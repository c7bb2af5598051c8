"""Runs that are killed at any moment, and disks that fill up: what is on disk is whole, and the run goes on."""

import contextlib
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image

from dcgan_dist import checkpoint, train
from tests.jobs import flags, rows, started, status
from tests.killing import Attempt, Fork, Killer, Torchrun, fork
from tests.shared import REPOSITORY

CADENCE = {"checkpoint_every": 3, "sample_every": 5, "keep_checkpoints": 2}
EVAL_EVERY = 10
NESTED = "DCGAN_TEST_NESTED"


# A run that is killed


def timeless(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def assert_same_run(found: Path, expected: Path, last_step: int) -> None:
    """Everything that a run leaves is there, whole, and what the uninterrupted run left."""

    def names(directory: Path) -> list[str]:
        return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))

    assert status(found).items() >= {"state": "done", "reason": "", "total_steps": last_step}.items()
    assert names(found) == names(expected)  # nothing is missing and nothing is left over
    for path in (found / "checkpoints").iterdir():
        assert checkpoint.verified(path).step == int(path.name.removeprefix("step-"))
    final = found / "checkpoints" / f"step-{last_step:08d}"
    assert (final / "generator.safetensors").exists()
    equal = ["reals.png", "nearest.png", "progress.gif", "config.yaml", "histograms.jsonl", "colours.jsonl"]
    equal += [name for name in names(found) if name.endswith(".safetensors") or name.startswith("samples/step-")]
    assert (
        len(equal) == 6 + 5 * (CADENCE["keep_checkpoints"] + 1) + 1 + last_step // CADENCE["sample_every"]
    )  # and best
    for name in equal:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name

    table, others = rows(found), rows(expected)
    assert [row["step"] for row in table] == list(range(1, last_step + 1))
    assert [timeless(row) for row in table] == [timeless(row) for row in others]
    assert len([row for row in table if "collapse/alarm" in row]) == last_step // EVAL_EVERY
    grids = sorted((found / "samples").iterdir())
    for path in (*grids, found / "losses.png", found / "reals.png"):
        with Image.open(path) as picture:
            picture.load()
    with Image.open(found / "progress.gif") as animation:
        assert animation.n_frames == len(grids)  # type: ignore[attr-defined]


@dataclass
class Torture:
    """Runs that are killed again and again, resumed each time, and compared when they are done."""

    start: Callable[[list[str], Path], Attempt]
    steps: int
    shards: Path
    directory: Path
    chance: random.Random

    def __post_init__(self) -> None:
        self.expected = self._run_dir("uninterrupted")
        begin = time.monotonic()
        self._finish(self.expected)
        self.seconds = time.monotonic() - begin
        assert status(self.expected)["state"] == "done"
        self.tally: Counter[str] = Counter()

    def kill(self, moments: list[float | str]) -> None:
        """Kill at each of the moments; a run that is over before its moment comes is followed by another."""
        runs = (self._run_dir(f"killed-{number}") for number in range(3 * len(moments)))
        run_dir = next(runs)
        for moment in moments:
            while (phase := self._killed(run_dir, moment)) is None:
                assert_same_run(run_dir, self.expected, self.steps)
                run_dir = next(runs)
            self.tally[phase] += 1
        self._finish(run_dir)
        assert_same_run(run_dir, self.expected, self.steps)

    def _killed(self, run_dir: Path, moment: float | str) -> str | None:
        """The phase in which the run was killed; None when it is done."""
        with self._started(run_dir) as attempt:
            phase = Killer(attempt, run_dir, self.steps, self.chance).strike(moment)
            assert phase is not None or attempt.code() == 0, run_dir.with_name("log").read_text()
        return phase

    def _finish(self, run_dir: Path) -> None:
        with self._started(run_dir) as attempt:
            assert attempt.code() == 0, run_dir.with_name("log").read_text()

    @contextlib.contextmanager
    def _started(self, run_dir: Path) -> Iterator[Attempt]:
        settings = {"max_steps": self.steps, "eval_every": EVAL_EVERY, "extractor": "none", **CADENCE}
        arguments = [*flags(self.shards, run_dir, **settings), "--resume"]
        attempt = self.start(arguments, run_dir)
        try:
            yield attempt
        finally:
            if not attempt.ended():
                attempt.kill()

    def _run_dir(self, name: str) -> Path:
        parent = self.directory / name
        parent.mkdir()
        return parent / "run"


def test_a_run_that_is_killed_ends_as_the_uninterrupted_one(flower_shards: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    torture = Torture(fork, steps=40, shards=flower_shards, directory=tmp_path, chance=chance)
    torture.kill([chance.uniform(0, 0.4), "writing", "sample", chance.uniform(0.4, 1), "writing", "removing", "end"])
    assert torture.tally.total() == 7
    print(f"\nkills: {dict(torture.tally)}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_30_kills(flower_shards: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    torture = Torture(fork, steps=90, shards=flower_shards, directory=tmp_path, chance=chance)
    looked_for = [*["writing"] * 10, *["sample"] * 2, *["removing"] * 2, *["end"] * 2]
    moments: list[float | str] = [*looked_for, *(chance.uniform(0, torture.seconds / 2) for _ in range(14))]
    chance.shuffle(moments)
    torture.kill(moments)
    print(f"\n30 kills: {dict(torture.tally)}")
    assert torture.tally.total() == 30
    assert torture.tally["checkpoint"] >= 5
    assert torture.tally["step"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_two_processes_and_their_launcher(flower_shards: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    orders = itertools.cycle(["at once", "launcher first", "at once", "rank 1 alone"])

    def start(arguments: list[str], run_dir: Path) -> Torchrun:
        return Torchrun(arguments, run_dir, order=next(orders))

    torture = Torture(start, steps=60, shards=flower_shards, directory=tmp_path, chance=chance)
    moments: list[float | str] = [*["writing"] * 4, "sample", "end"]
    moments += [chance.uniform(2, torture.seconds) for _ in range(4)]
    chance.shuffle(moments)
    torture.kill(moments)
    print(f"\n10 kills of two processes: {dict(torture.tally)}")
    assert torture.tally.total() == 10


def test_what_a_kill_left_in_the_last_save_is_removed_by_the_next_start(flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = flags(flower_shards, run_dir, max_steps=4, sample_every=4, checkpoint_every=1, keep_checkpoints=2)
    train.main(arguments)
    checkpoints = run_dir / "checkpoints"
    whole = sorted(path.name for path in checkpoints.iterdir())
    assert whole == ["step-00000003", "step-00000004"]
    # killed between the rename of the last checkpoint and the removal of an older one, or in that removal
    shutil.copytree(checkpoints / "step-00000003", checkpoints / "step-00000002")
    shutil.copytree(checkpoints / "step-00000003", checkpoints / ".step-00000001.removing")
    (checkpoints / ".step-00000001.removing" / "state.json").unlink()
    train.main([*arguments, "--resume"])
    assert sorted(path.name for path in checkpoints.iterdir()) == whole


# A disk that fills up


def mounted(path: Path) -> bool:
    """Whether a disk of 4 MiB could be put at ``path``."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def skip_after_a_run_as_root_of_a_namespace(test: str) -> NoReturn:
    """Run a test again where it may mount; skip it here, unless it failed there."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if NESTED in os.environ or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs: root, or a user namespace")
    command = [*unshare, sys.executable, "-m", "pytest", "-m", "slow or not slow", "-p", "no:cacheprovider", test]
    again = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {NESTED: "1"}, capture_output=True, text=True, check=False
    )
    if again.returncode != 0 or "1 passed" not in again.stdout:
        pytest.fail(f"in a user namespace: {again.stdout}{again.stderr}")
    pytest.skip("passed in a user namespace, where it may mount a tmpfs")


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    path = tmp_path / "disk"
    if not mounted(path):
        skip_after_a_run_as_root_of_a_namespace(request.node.nodeid)
    yield path
    for _ in range(50):
        if subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"cannot unmount {path}")


def fill(disk: Path, *, leave: int) -> None:
    """Leave so many bytes."""
    free = shutil.disk_usage(disk).free
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))


@dataclass
class Full:
    """A case of a full disk."""

    leave: int
    """Bytes that are free before the run starts."""
    settings: Mapping[str, object]
    files: str
    """The file that cannot be written, as a regular expression."""
    has_status: bool = True


EVAL_EVERY_STEP = {"checkpoint_every": 1, "keep_checkpoints": 1000}
FULL = {
    "a checkpoint": Full(4 << 20, EVAL_EVERY_STEP, r"checkpoints/.*step-\d+.*/\w+\.safetensors"),
    "a sample": Full(1 << 20, {"sample_every": 1, "sample_count": 64, "log_every": 1000}, r"samples/step-\d+\.png"),
    "metrics": Full(80 << 10, {"sample_count": 1}, r"metrics\.jsonl", has_status=False),
    "the first file": Full(0, {}, r"\w+\.(json|yaml)", has_status=False),
}


def assert_failed_well(run_dir: Path, output: str, case: Full) -> None:
    """One message that names the file, no traceback, older checkpoints whole, no part of another."""
    assert output.count("No space left on device") == 1, output
    assert output.count("error: ") == 1, output
    assert re.search(rf"error: {run_dir}/{case.files}: No space left on device", output), output
    assert "Traceback" not in output
    if case.has_status:
        assert status(run_dir)["state"] == "failed"
        assert "No space left on device" in status(run_dir)["reason"]
    assert not list(run_dir.rglob(".*"))
    assert not (run_dir / "requeue").exists()
    for path in (run_dir / "checkpoints").iterdir() if (run_dir / "checkpoints").exists() else []:
        assert checkpoint.verified(path).step == int(path.name.removeprefix("step-"))
    for path in (run_dir / "samples").iterdir() if (run_dir / "samples").exists() else []:
        with Image.open(path) as picture:
            picture.load()
    table = rows(run_dir) if (run_dir / "metrics.jsonl").exists() else []
    assert [row["step"] for row in table] == list(range(1, len(table) + 1))


@pytest.mark.parametrize(
    "name",
    [
        "a checkpoint",
        "metrics",
        pytest.param("a sample", marks=pytest.mark.slow),
        pytest.param("the first file", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_message_and_harms_nothing(
    name: str, disk: Path, flower_shards: Path, tmp_path: Path
) -> None:
    case, run_dir, log = FULL[name], disk / "run", tmp_path / "log"
    if case.leave < 4 << 20:
        fill(disk, leave=case.leave)
    code = Fork(flags(flower_shards, run_dir, max_steps=500, **case.settings), log).code()
    assert code == 1, log.read_text()
    assert_failed_well(run_dir, log.read_text(), case)
    if name == "a checkpoint":
        assert len(list((run_dir / "checkpoints").iterdir())) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_ends_two_processes_with_one_message(
    name: str, disk: Path, flower_shards: Path, tmp_path: Path
) -> None:
    case, run_dir, log = FULL[name], disk / "run", tmp_path / "log"
    if case.leave < 4 << 20:
        fill(disk, leave=case.leave)
    arguments = flags(flower_shards, run_dir, **case.settings)
    with started("torchrun", arguments, run_dir=run_dir, log=log) as job:
        deadline = time.monotonic() + 120
        while not (told := "No space left on device" in job.output) and job.launcher.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        seconds = job.seconds_to_the_end(limit_seconds=60)
        print(f"\nfull disk, {name}: {seconds} s from the message to the end of trainers and launcher")
        assert told
        assert max(seconds) <= 30
        assert job.alive() == set()
        assert job.launcher.returncode != 0
    # torchrun has a report and a traceback of its own below
    assert_failed_well(run_dir, job.output.partition("torch/distributed/elastic")[0], case)
