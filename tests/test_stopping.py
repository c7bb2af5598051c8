"""Signals end a run with its state saved, whoever launched it and whichever process they reach."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcgan_dist import checkpoint, job, train
from tests.jobs import LAUNCHERS, Job, flags, row_count, rows, started, status

ONE_PROCESS = ("python", "accelerate, 1 process")
LONG_STEPS = {"batch_size": 3072}
INTERVAL_SECONDS = 1.0
"""Ranks agree on stopping every step or every second, whichever is longer."""
SAVE_SECONDS = 5.0
"""More than a save takes, also on a busy machine."""
END_SECONDS = 15.0
"""More than the last pictures and the farewell of the ranks take."""


@dataclass
class Stop:
    """How a job ended after a signal."""

    trainers_seconds: float
    """From the signal to the end of the last process that trained."""
    launcher_seconds: float
    saved_seconds: float
    """From the signal to the checkpoint."""
    steps: int
    """Done after the signal."""
    code: int
    """Exit code of what was started."""


def stop(job: Job, number: signal.Signals, *, to: str = "launcher") -> Stop:
    """Send a signal to what was started, to its process group as a terminal does, or to rank 1; wait for the end."""
    before, sent = row_count(job.run_dir), time.time()
    if to == "group":
        os.killpg(job.launcher.pid, number)
    elif to == "rank 1":
        os.kill(job.trainer(1), number)
    else:
        job.launcher.send_signal(number)
    trainers, launcher = job.seconds_to_the_end()
    assert job.alive() == set()
    (path,) = (job.run_dir / "checkpoints").iterdir()
    saved = checkpoint.verified(path)
    assert path.name == f"step-{saved.step:08d}"
    assert [row["step"] for row in rows(job.run_dir)] == list(range(1, saved.step + 1))
    return Stop(
        trainers_seconds=trainers,
        launcher_seconds=launcher,
        saved_seconds=(path / "state.json").stat().st_mtime - sent,
        steps=saved.step - before,
        code=job.launcher.returncode,
    )


def check(job: Job, found: Stop, *, intervals_seconds: float = 2.0) -> None:
    """What every stop must leave, and when."""
    assert status(job.run_dir)["state"] == "stopped", job.output
    assert status(job.run_dir)["reason"].endswith(f"at step {row_count(job.run_dir)}")
    assert (job.run_dir / "requeue").exists()
    assert (job.run_dir / "progress.gif").exists()
    assert not list(job.run_dir.rglob(".*"))
    assert found.saved_seconds <= intervals_seconds + SAVE_SECONDS
    assert max(found.trainers_seconds, found.launcher_seconds) <= intervals_seconds + SAVE_SECONDS + END_SECONDS
    assert job.output.count("stopped at step") == 1, job.output


SIGNALS = [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT]
FAST = [("torchrun", signal.SIGTERM)]
CASES = [
    pytest.param(
        launcher,
        number,
        to,
        id=f"{launcher}-{number.name}-{to}",
        marks=[] if (launcher, number) in FAST else [pytest.mark.slow],
    )
    for launcher in LAUNCHERS
    for number in SIGNALS
    for to in (["launcher", "group"] if number == signal.SIGINT else ["launcher"])
]


@pytest.mark.parametrize(("launcher", "number", "to"), CASES)
def test_a_signal_saves_and_ends_the_whole_job(
    launcher: str, number: signal.Signals, to: str, flower_shards: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with started(launcher, flags(flower_shards, run_dir), run_dir=run_dir) as job:
        job.wait_for_steps(15)
        found = stop(job, number, to=to)
        print(f"\nstopped | {launcher} | {number.name} to {to} | {found}")
        check(job, found)
    if launcher == "python":
        assert found.code == 0
        assert found.steps <= 2
        assert status(run_dir)["reason"].startswith(f"{number.name} at step ")


def test_a_signal_to_one_rank_stops_all(flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started("torchrun", flags(flower_shards, run_dir), run_dir=run_dir) as job:
        job.wait_for_steps(15)
        found = stop(job, signal.SIGUSR2, to="rank 1")
        print(f"\nstopped | torchrun | SIGUSR2 to rank 1 | {found}")
        check(job, found)
    assert found.code == 0  # so both ranks ended with 0
    assert status(run_dir)["reason"].startswith("a signal to another rank at step ")


def test_a_reader_that_leaves_stops_the_run(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))
    reader = threading.Thread(target=read_until, args=("step 2/", reading))
    reader.start()
    train.main(flags(flower_shards, tmp_path / "run"))
    sys.stdout.close()  # with nothing left that nobody will read
    reader.join()
    found = checkpoint.newest(tmp_path / "run" / "checkpoints")[0]
    assert found is not None
    assert found.step >= 2
    told = status(tmp_path / "run")
    assert (told["state"], told["reason"]) == ("stopped", f"closed output at step {found.step}")


def read_until(word: str, descriptor: int) -> None:
    """Read lines, and leave after one that begins with ``word``."""
    with os.fdopen(descriptor) as lines:
        next(line for line in lines if line.startswith(word))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_long_steps_are_at_most_two_more(launcher: str, flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started(launcher, flags(flower_shards, run_dir, **LONG_STEPS), run_dir=run_dir) as job:
        job.wait_for_steps(2)
        step_seconds = max(row["time/step"] for row in rows(run_dir))
        assert step_seconds > INTERVAL_SECONDS
        found = stop(job, signal.SIGTERM)
        print(f"\nstopped | {launcher}, {step_seconds:.1f} s a step | SIGTERM to launcher | {found}")
        check(job, found, intervals_seconds=2 * step_seconds)
    assert found.steps <= 2


# A second Ctrl-C


def assert_whole(run_dir: Path) -> None:
    """There are checkpoints, each is whole, and there is no part of another."""
    paths = sorted((run_dir / "checkpoints").iterdir())
    assert paths
    for path in paths:
        assert checkpoint.verified(path).step == int(path.name.removeprefix("step-"))
    assert not list(run_dir.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_second_ctrl_c_stops_at_once(launcher: str, flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    # short steps, because two within one call into torch would be one to Python; pictures that take long
    arguments = flags(flower_shards, run_dir, checkpoint_every=1, sample_every=1, sample_count=64)
    with started(launcher, arguments, run_dir=run_dir) as job:
        job.wait_for_steps(40)
        os.killpg(job.launcher.pid, signal.SIGINT)
        time.sleep(0.2)
        os.killpg(job.launcher.pid, signal.SIGINT)
        seconds = job.seconds_to_the_end()
        print(f"\nat once | {launcher} | SIGINT twice | {seconds} {status(run_dir)} {job.launcher.returncode}")
    assert job.alive() == set()
    assert max(seconds) <= SAVE_SECONDS + END_SECONDS
    assert_whole(run_dir)
    if launcher in ONE_PROCESS:
        assert job.output.count("second Ctrl-C") == 1, job.output
        assert status(run_dir)["state"] == "failed"
        assert not (run_dir / "requeue").exists()
    else:  # their ranks have sessions of their own, so that only the launcher gets the second
        assert status(run_dir)["state"] in ("stopped", "failed")
    if launcher == "python":
        assert job.launcher.returncode == 1
        assert "Traceback" not in job.output


@pytest.mark.slow
def test_a_second_ctrl_c_in_a_save_leaves_no_part_of_it(flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"

    def is_writing() -> bool:
        return bool(list((run_dir / "checkpoints").glob(".step-*.writing")))

    arguments = flags(flower_shards, run_dir, base_channels=48, batch_size=4, checkpoint_every=20)
    with started("python", arguments, run_dir=run_dir) as job:
        job.wait_for(lambda: row_count(run_dir) % 20 == 10 and row_count(run_dir) > 20 and not is_writing())
        os.killpg(job.launcher.pid, signal.SIGINT)
        job.wait_for(is_writing, pause_seconds=0.0)
        os.killpg(job.launcher.pid, signal.SIGINT)
        job.seconds_to_the_end()
    assert job.launcher.returncode == 1, job.output
    assert job.output.count("second Ctrl-C") == 1
    assert "Traceback" not in job.output
    assert status(run_dir)["state"] == "failed"
    assert_whole(run_dir)


def test_a_second_ctrl_c_is_one_message_whatever_python_makes_of_it(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imports(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as interrupt:  # as Python 3.11 does while a class is made
            raise RuntimeError("Error calling __set_name__ on 'descriptor' instance 'x' in 'Axis'") from interrupt

    def train_here(*_: object, **__: object) -> bool:
        signal.raise_signal(signal.SIGINT)  # asks to stop
        return False

    monkeypatch.setattr(job, "train", train_here)
    monkeypatch.setattr(job, "_leave_pictures", imports)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(SystemExit) as stopped:
            train.main(flags(flower_shards, tmp_path / "run"))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("error:") == error.count("second Ctrl-C") == 1
    assert status(tmp_path / "run")["state"] == "failed"
