"""One process at a time trains in a run directory, and its lock goes with it."""

import errno
import fcntl
import os
import platform
import re
from pathlib import Path

import pytest

from dcgan_dist import train
from dcgan_dist.run_lock import is_locked, trainer_in, training_alone
from dcgan_dist.sweeps.points import progress_of
from tests.jobs import flags
from tests.locks import end, hold, holder, said


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = hold("run", tmp_path)
    try:
        name = f"process {first.pid} on {platform.node()}"
        assert trainer_in(tmp_path) == name
        with pytest.raises(ValueError) as caught, training_alone(tmp_path):
            pass
        assert str(caught.value) == (
            f"run_dir {tmp_path}: {name} trains there; if its machine has died, remove {tmp_path / 'lock'}"
        )
    finally:
        end(first)
    assert trainer_in(tmp_path) is None
    with training_alone(tmp_path) as told:
        assert told == []
        second = holder("run", tmp_path)
        assert said(second).startswith(f"run_dir {tmp_path}: process {os.getpid()} on ")
        end(second)
    assert not is_locked(tmp_path / "lock")


def test_a_child_of_the_trainer_does_not_keep_the_lock(tmp_path: Path) -> None:
    end(hold("parent", tmp_path))
    assert trainer_in(tmp_path) is None


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    racers = [holder("run", tmp_path) for _ in range(6)]
    try:
        told = [said(racer) for racer in racers]
        assert sorted(text == "held" for text in told) == [False] * 5 + [True]
        winner = racers[told.index("held")].pid
        assert sum(f"process {winner} on " in text for text in told) == 5
    finally:
        for racer in racers:
            end(racer)


def test_a_lock_file_that_is_removed_frees_the_directory(tmp_path: Path) -> None:
    """As the message says: a dead machine's lock may outlive it on a network file system."""
    first = hold("run", tmp_path)
    try:
        (tmp_path / "lock").unlink()
        with training_alone(tmp_path) as told:
            assert told == []
    finally:
        end(first)


def test_a_file_system_without_locks_is_told_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with training_alone(tmp_path) as told:
        assert len(told) == 1
        assert re.fullmatch(
            rf"warning: no locks on the file system of {tmp_path}/lock \(No locks available\): .*", told[0]
        )
    with pytest.raises(OSError, match="No locks"):
        trainer_in(tmp_path)
    (tmp_path / "status.json").write_text('{"state": "running"}')  # nothing else is known
    assert progress_of(tmp_path, {}).state == "running"


def test_a_trainer_refuses_a_directory_where_another_trains(
    tmp_path: Path, flower_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    first = hold("run", run_dir)
    try:
        for more in ([], ["--resume"]):
            with pytest.raises(SystemExit) as ended:
                train.main([*flags(flower_shards, run_dir, max_steps=2), *more])
            assert ended.value.code == 2
            error = capsys.readouterr().err
            assert f"error: run_dir {run_dir}: process {first.pid} on " in error
            assert error.count("error") == 1
            assert sorted(path.name for path in run_dir.iterdir()) == ["lock"]
    finally:
        end(first)
    train.main(flags(flower_shards, run_dir, max_steps=2))  # a lock alone makes no run
    assert not is_locked(run_dir / "lock")
