"""``dcgan-sweep run`` with a stand-in for the trainer: which points it trains, when, beside whom, and what it says."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dcgan_dist.run_lock import is_locked
from tests.shared import REPOSITORY
from tests.sweeps.trainer import STEP_SECONDS, STEPS

EACH_ONCE = [str(step) for step in range(1, STEPS + 1)]
GRID = """name: tiny
method: grid
metric: {{name: loss/g}}
run_cap: {count}
parameters:
{more}  seed: {{values: {values}}}
"""


@dataclass
class Sweeping:
    """A directory with a sweep, and the commands that work on it."""

    directory: Path
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, seeds: list[int], more: str = "") -> None:
        (self.directory / "tiny.yaml").write_text(GRID.format(count=len(seeds), values=[*seeds, 99], more=more))

    def start(self, *words: str, gpus: str = "", **environment: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        command = subprocess.Popen(
            [sys.executable, "-m", "tests.sweeps.command", gpus, *(words or ("run", "tiny.yaml", "--jobs", "2"))],
            cwd=self.directory,
            env=kept | {"PYTHONPATH": str(REPOSITORY)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.commands.append(command)
        return command

    def run(self, *words: str, gpus: str = "", code: int = 0, **environment: str) -> str:
        """The output of a command that must end with this code."""
        return ended(self.start(*words, gpus=gpus, **environment), code)

    def path(self, seed: int) -> Path:
        return self.directory / "runs" / "tiny" / f"seed={seed}"

    def steps(self, seed: int) -> list[str]:
        file = self.path(seed) / "steps"
        return file.read_text().split() if file.exists() else []

    def started(self, seed: int) -> dict[str, Any]:
        """What the trainer last saw of a point."""
        return json.loads((self.path(seed) / "started").read_text())  # type: ignore[no-any-return]

    def state(self, seed: int) -> str:
        return str(json.loads((self.path(seed) / "status.json").read_text())["state"])


def ended(command: subprocess.Popen[str], code: int) -> str:
    said, _ = command.communicate(timeout=60)
    assert command.returncode == code, said
    return said


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def sweeping(tmp_path: Path) -> Iterator[Sweeping]:
    found = Sweeping(tmp_path)
    found.write([0, 1, 2])
    yield found
    for command in found.commands:
        command.kill()
        command.wait()
        assert command.stdout
        command.stdout.close()
    wait_for(lambda: not any(is_locked(path) for path in tmp_path.glob("runs/*/*/lock")))  # no trainer is left behind


def test_all_points_are_trained_once_and_a_second_time_nothing(sweeping: Sweeping) -> None:
    said = sweeping.run()
    assert [sweeping.steps(seed) for seed in range(3)] == [EACH_ONCE] * 3
    assert "sweep tiny: 3 points, 0 done, 3 left; 2 at a time" in said
    assert said.index("started: point 1 (seed=1)") < said.index("done: point 0") < said.index("started: point 2")
    assert f"done: point 0 (seed=0), {STEPS} steps, loss/g {1 / STEPS:.4g}; " in said
    assert "sweep tiny: 3 done" in said
    assert "go on with" not in said
    again = sweeping.run()
    assert "3 points, 3 done, 0 left" in again
    assert "started" not in again
    assert [sweeping.steps(seed) for seed in range(3)] == [EACH_ONCE] * 3


def test_a_point_that_fails_does_not_stop_the_others(sweeping: Sweeping) -> None:
    sweeping.write([13, 14, 0])
    said = sweeping.run(code=1)
    log = Path("runs") / "tiny" / "seed=13.log"
    assert f"failed: point 0 (seed=13), DivergenceError: the loss of D is not finite; log {log}\n" in said
    assert "failed: point 1 (seed=14), was ended by SIGKILL; log" in said
    assert "1 done" in said
    assert "2 failed" in said
    assert "go on with: dcgan-sweep run tiny.yaml --jobs 2" in said
    assert sweeping.steps(0) == EACH_ONCE
    command = (sweeping.directory / log).read_text().splitlines()[0]
    assert command.startswith("$ DCGAN_EXPECT_WORLD_SIZE=1 ")
    assert "--run_dir=runs/tiny/seed=13 --seed=13" in command
    again = sweeping.run(code=1)
    assert again.count("resumed") == 2
    assert "point 2" not in again


def test_a_mistake_that_the_trainer_finds_is_told(sweeping: Sweeping) -> None:
    sweeping.write([0])
    (sweeping.directory / "runs" / "tiny").mkdir(parents=True)
    sweeping.path(0).write_text("a file in the way")
    said = sweeping.run(code=1)
    assert "failed: point 0 (seed=0), " in said
    assert "seed=0'; log runs/tiny/seed=0.log" in said.replace(str(sweeping.directory) + "/", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_and_says_how_to_go_on(number: signal.Signals, sweeping: Sweeping) -> None:
    command = sweeping.start()
    wait_for(lambda: len(sweeping.steps(1)) >= 3)
    command.send_signal(number)
    said = ended(command, 0)
    assert f"{number.name}: 2 points save and stop; once more ends all at once" in said
    assert "stopped: point 0 (seed=0), SIGTERM at step" in said
    assert "sweep tiny: 2 stopped, 1 left" in said
    assert "go on with: dcgan-sweep run tiny.yaml --jobs 2" in said
    assert [sweeping.state(seed) for seed in (0, 1)] == ["stopped"] * 2
    assert not sweeping.path(2).exists()
    again = sweeping.run()
    assert again.count("resumed") == 2
    assert [sweeping.steps(seed) for seed in range(3)] == [EACH_ONCE] * 3


def test_the_same_signal_again_ends_at_once(sweeping: Sweeping) -> None:
    command = sweeping.start()
    wait_for(lambda: len(sweeping.steps(1)) >= 1)
    for seed in (0, 1):  # so that nobody can save
        os.kill(int((sweeping.path(seed) / "lock").read_text().split()[1]), signal.SIGSTOP)
    command.send_signal(signal.SIGTERM)
    command.send_signal(signal.SIGHUP)  # as at the end of a session; not the same signal
    time.sleep(1.0)
    assert command.poll() is None
    command.send_signal(signal.SIGTERM)
    assert "ended at once; go on from the newest checkpoints with: dcgan-sweep run" in ended(command, 1)
    assert sweeping.state(0) == "running"  # but nobody does
    assert sweeping.run().count("resumed") == 2
    assert [sweeping.steps(seed) for seed in range(3)] == [EACH_ONCE] * 3


def test_a_killed_sweep_goes_on_beside_no_trainer_that_it_left(sweeping: Sweeping) -> None:
    sweeping.write([15, 0, 1])  # 15 ends when it is told that it may
    command = sweeping.start()
    wait_for(lambda: len(sweeping.steps(0)) >= 3)
    trainer = (sweeping.path(15) / "lock").read_text().strip()
    command.kill()
    command.wait()
    again = sweeping.start()
    wait_for(lambda: sweeping.steps(1) == EACH_ONCE)
    assert len(sweeping.steps(15)) < STEPS
    (sweeping.path(15) / "go").touch()
    said = ended(again, 0)
    assert f"left alone for now: point 0 (seed=15), {trainer} trains it" in said
    assert said.index("left alone") < said.index("resumed: point 0")
    assert [sweeping.steps(seed) for seed in (15, 0, 1)] == [EACH_ONCE] * 3


def test_several_at_once_train_each_point_once(sweeping: Sweeping) -> None:
    sweeping.write([0, 1, 2, 3, 4, 5])
    commands = [sweeping.start() for _ in range(3)]
    said = [ended(command, 0) for command in commands]
    assert [sweeping.steps(seed) for seed in range(6)] == [EACH_ONCE] * 6
    assert sum(text.count("started: ") for text in said) == 6
    assert sum(text.count("resumed: ") for text in said) == 0
    assert all("sweep tiny: 6 done" in text for text in said)  # each waits for the others


def test_a_point_of_others_is_taken_over_when_they_are_killed(sweeping: Sweeping) -> None:
    sweeping.write([0])
    first = sweeping.start()
    wait_for(lambda: len(sweeping.steps(0)) >= 2)
    second = sweeping.start()
    time.sleep(0.3)
    os.kill(int((sweeping.path(0) / "lock").read_text().split()[1]), signal.SIGKILL)
    assert "failed: point 0 (seed=0), was ended by SIGKILL" in ended(first, 1)
    assert "resumed: point 0" in ended(second, 0)
    assert sweeping.steps(0) == EACH_ONCE


def test_a_point_that_failed_beside_us_is_not_tried_again(sweeping: Sweeping) -> None:
    sweeping.write([16])  # 16 fails when it is told that it may
    first = sweeping.start()
    wait_for(lambda: len(sweeping.steps(16)) == 4)
    second = sweeping.start()
    assert second.stdout
    while "left alone for now: point 0 (seed=16)" not in second.stdout.readline():
        assert second.poll() is None
    (sweeping.path(16) / "go").touch()
    ended(first, 1)
    said = ended(second, 1)
    assert "failed: point 0 (seed=16), DivergenceError: the loss of D" in said
    assert "resumed" not in said


def test_a_quiet_sweep_says_what_came_of_it_and_what_failed(sweeping: Sweeping) -> None:
    sweeping.write([0, 13])
    failed, sum_up, go_on = sweeping.run("run", "tiny.yaml", "--jobs=2", "--quiet", code=1).splitlines()
    assert failed.startswith("failed: point 1 (seed=13), DivergenceError: the loss of D is not finite; log ")
    assert sum_up.startswith("sweep tiny: 1 done, 1 failed, after ")
    assert go_on == "go on with: dcgan-sweep run tiny.yaml --jobs=2 --quiet"


def test_no_bars_in_a_log_that_may_be_coloured(sweeping: Sweeping) -> None:
    sweeping.write([0])
    said = sweeping.run(FORCE_COLOR="1", TERM="xterm")
    assert "done: point 0" in said
    assert "\x1b" not in said
    assert "\r" not in said


def test_each_job_has_its_share_of_the_gpus(sweeping: Sweeping) -> None:
    said = sweeping.run("run", "tiny.yaml", gpus="4,5,GPU-aa")
    assert "3 at a time, 1 GPU each" in said
    shares = {sweeping.started(seed)["CUDA_VISIBLE_DEVICES"] for seed in range(3)}
    assert shares == {"4", "5", "GPU-aa"}
    assert not any("--threads" in word for word in sweeping.started(0)["arguments"])
    sweeping.write([3, 4, 5])
    sweeping.run("run", "tiny.yaml", "--jobs", "3", gpus="0,1")
    shares = {sweeping.started(seed)["CUDA_VISIBLE_DEVICES"] for seed in (3, 4, 5)}
    assert shares == {"0", "1"}


def test_each_job_has_its_share_of_the_cores(sweeping: Sweeping) -> None:
    sweeping.write([0])
    sweeping.run("run", "tiny.yaml", "--jobs", "1000")
    assert "--threads=1" in sweeping.started(0)["arguments"]
    sweeping.write([1])
    sweeping.run("run", "tiny.yaml", "--", "--threads=3")
    assert [word for word in sweeping.started(1)["arguments"] if "threads" in word] == ["--threads=3"]


def test_points_have_groups_and_job_types_unless_the_user_has(sweeping: Sweeping) -> None:
    sweeping.write([0, 1], more="  lr: {values: [0.5]}\n")
    sweeping.run(RANK="1")
    assert sweeping.started(1) | {
        "WANDB_RUN_GROUP": "tiny",
        "WANDB_JOB_TYPE": "seed=1",
        "RANK": None,
        "DCGAN_EXPECT_WORLD_SIZE": "1",
    } == sweeping.started(1)
    sweeping.write([2])
    sweeping.run(WANDB_RUN_GROUP="mine", WANDB_JOB_TYPE="trial")
    assert (sweeping.started(2)["WANDB_RUN_GROUP"], sweeping.started(2)["WANDB_JOB_TYPE"]) == ("mine", "trial")


def test_a_point_whose_settings_have_changed_is_refused_before_anything_starts(sweeping: Sweeping) -> None:
    sweeping.write([0], more="  lr: {value: 0.5}\n")
    sweeping.run()
    sweeping.write([0, 1], more="  lr: {value: 0.25}\n")
    said = sweeping.run(code=2)
    assert "error: 1 run had other settings than sweep tiny has now: set them back, give the sweep another name" in said
    assert "runs/tiny/seed=0: lr: was 0.5, now 0.25" in said
    assert not sweeping.path(1).exists()
    assert "lr: was 0.5, now 0.25" in sweeping.run("args", "tiny.yaml", "0", code=2)


def test_a_length_that_has_changed_is_gone_on_to_or_refused(sweeping: Sweeping) -> None:
    sweeping.write([0])
    sweeping.run("run", "tiny.yaml", "--", "--max_steps=12")
    assert "1 done, 0 left" in sweeping.run("run", "tiny.yaml", "--", "--max_steps=12")
    assert "max_steps: was 12, now 8" in sweeping.run("run", "tiny.yaml", "--", "--max_steps=8", code=2)
    assert len(sweeping.steps(0)) == 12
    assert "0 done, 1 left" in sweeping.run("run", "tiny.yaml", "--", "--max_steps=16")
    assert sweeping.steps(0) == [str(step) for step in range(1, 17)]


MISTAKES = {
    "jobs": (("--jobs", "0"), "argument --jobs: must be a positive whole number, got '0'"),
    "processes": (("--processes", "3"), "--processes must be at most the number of GPUs here, 2, got 3"),
    "run_dir": (("--", "--run_dir=x"), "error: run_dir: each point has its own directory, and resumes there"),
    "summary": (("--", "--summary"), "error: summary: trains nothing, and no point would ever be done"),
    "dry_run": (("--", "--dry_run"), "error: dry_run: trains nothing, and no point would ever be done"),
    "a parameter": (("--", "--seed", "3"), "error: seed: sweep tiny.yaml gives it already"),
    "unknown": (("--", "--sede=3"), "error: unknown setting 'sede'; did you mean seed?"),
    "no shards": (("--", "--data=none"), "error: data none: not a directory of shards: no index.json"),
    "a rule": (("--", "--batch_size=1"), "point 0 (seed=0): batch_size must be at least 2"),
    "no dashes": (("--max_steps=3",), "unrecognized arguments: --max_steps=3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_and_nothing_starts(name: str, sweeping: Sweeping) -> None:
    words, message = MISTAKES[name]
    assert message in sweeping.run("run", "tiny.yaml", *words, gpus="0,1", code=2)
    assert not (sweeping.directory / "runs").exists()


def test_flags_are_for_run_alone(sweeping: Sweeping) -> None:
    said = sweeping.run("status", "tiny.yaml", "--", "--lr=1", code=2)
    assert "only run, count and args take flags of dcgan_dist.train, got --lr=1" in said


def test_bars_on_a_terminal(sweeping: Sweeping) -> None:
    """script(1) gives the command a terminal."""
    words = f"{sys.executable} -m tests.sweeps.command '' run tiny.yaml --jobs 2 -- --max_steps=40"
    done = subprocess.run(
        ["script", "-qec", words, "/dev/null"],
        cwd=sweeping.directory,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "150"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert f"/40 steps, {STEP_SECONDS * 1000:.0f} ms a step" in done.stdout
    assert re.search(r"[12]/3 points, ETA 0:00:0\d", done.stdout)
    assert "sweep tiny: 3 done" in done.stdout
