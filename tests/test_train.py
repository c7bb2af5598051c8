"""Whole runs of the trainer, most of them in this process, tiny networks on real shards."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
import yaml
from PIL import Image
from torch import Tensor

from dcgan_dist import preparation, profiling, sample, shard, train, wandb_sink
from dcgan_dist.clock import PAUSES, Account
from dcgan_dist.data.loader import open_loader
from dcgan_dist.loop import Training
from tests import jobs
from tests.jobs import rows, status
from tests.shared import REPOSITORY

LOGGED = ("loss/d", "loss/g", "score/real", "score/fake")


def flags(shards: Path, run_dir: Path, **settings: object) -> list[str]:
    """Arguments of a run of a few steps."""
    few = {"ema_decay": 0, "max_steps": 6, "sample_every": 3, "sample_count": 9, "checkpoint_every": 4}
    return jobs.flags(shards, run_dir, **(few | settings))


def losses(run_dir: Path) -> list[list[float]]:
    return [[row[name] for name in LOGGED] for row in rows(run_dir)]


def generator_bytes(run_dir: Path, step: int) -> bytes:
    return (run_dir / "checkpoints" / f"step-{step:08d}" / "generator.safetensors").read_bytes()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The one message of a run that must end with an exit code."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == code
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    return error


@pytest.fixture(scope="module")
def finished(flower_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    train.main(flags(flower_shards, run_dir))
    return run_dir


def test_a_run_leaves_its_directory(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "histograms.jsonl",
        "histograms.png",
        "lock",
        "losses.png",
        "metrics.jsonl",
        "progress.gif",
        "progress.webp",
        "reals-and-fakes.png",
        "reals.png",
        "report.html",
        "samples",
        "status.json",
    ]
    names = sorted(path.name for path in (finished / "samples").iterdir())
    assert names == ["step-00000000.png", "step-00000003.png", "step-00000006.png"]
    histograms = [json.loads(line) for line in (finished / "histograms.jsonl").read_text().splitlines()]
    assert [(row["step"], sum(row["real"]), sum(row["fake"])) for row in histograms] == [
        (0, 48, 256),
        (3, 48, 256),
        (6, 48, 256),
    ]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert (finished / "lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"
    with Image.open(finished / "progress.gif") as gif:
        assert gif.n_frames == 3  # type: ignore[attr-defined]


def test_status_says_how_the_run_ended_and_where_its_time_went(finished: Path) -> None:
    told = status(finished)
    account = Account.from_json(told.pop("account"))
    assert account.images == 48
    assert account.process_seconds == pytest.approx(account.seconds)
    assert {name: part.times for name, part in account.parts.items() if name in PAUSES} == {
        "evaluation": 0,
        "checkpoints": 2,
        "samples": 3,
    }
    assert told.pop("throughput/images_per_second") == pytest.approx(48 / account.seconds)
    assert told.pop("throughput/images_per_second_per_process") == pytest.approx(48 / account.seconds)
    shares = {name: told.pop(name) for name in list(told) if name.startswith("share/")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["share/communication"] == 0
    assert all(shares[f"share/{name}"] > 0 for name in ("compute", "data", "samples", "checkpoints", "logging", "rest"))
    assert told == {"state": "done", "reason": "", "total_steps": 6}
    page = (finished / "report.html").read_text()
    assert account.division() in page
    assert account.speed() in page


def test_metrics_have_each_step_once_with_sane_numbers(finished: Path) -> None:
    table = rows(finished)
    assert [row["step"] for row in table] == [1, 2, 3, 4, 5, 6]
    assert [row["images_seen"] for row in table] == [8, 16, 24, 32, 40, 48]
    for row in table:
        assert 0 < row["score/real"] < 1
        assert 0 < row["score/fake"] < 1
        assert row["loss/d"] > 0
        assert row["loss/g"] > 0
        assert row["time/images_per_second"] == pytest.approx(8 / row["time/step"])
        assert 0 <= row["time/data"] < row["time/step"]
    for name in ("score/fake_after", "gradient_norm/d", "gradient_norm/g"):
        assert [name in row for row in table] == [False] * 5 + [True]  # rows come every step, these cost more
        assert table[-1][name] > 0


def test_reals_are_images_of_the_data_and_samples_change(finished: Path) -> None:
    reals = np.asarray(Image.open(finished / "reals.png"))
    first, last = (np.asarray(Image.open(finished / "samples" / f"step-0000000{step}.png")) for step in (0, 6))
    assert reals.shape == first.shape == (3 * (64 + 2) + 2, 3 * (64 + 2) + 2, 3)  # nine images, doubled, 3 x 3
    assert reals.std() > 30  # coloured flowers, not a blank
    assert np.abs(first.astype(int) - last).max() > 0


def test_the_written_config_is_complete_and_repeats_the_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = yaml.safe_load((finished / "config.yaml").read_text())
    assert (written["loader"], written["threads"]) == ("resident", 1)
    assert written["base_channels"] == 4
    monkeypatch.chdir(tmp_path)
    train.main(["--config", str(finished / "config.yaml")])
    again = tmp_path / "runs" / "flowers17-arch1-001"  # the default name, the next free number
    assert losses(again) == losses(finished)
    assert generator_bytes(again, 6) == generator_bytes(finished, 6)
    train.main(["--config", str(finished / "config.yaml"), "--max_steps", "1"])
    assert (tmp_path / "runs" / "flowers17-arch1-002").is_dir()


def test_another_seed_is_another_run(finished: Path, flower_shards: Path, tmp_path: Path) -> None:
    train.main(flags(flower_shards, tmp_path / "other", seed=1, max_steps=1))
    assert losses(tmp_path / "other")[0] != losses(finished)[0]


def test_a_resumed_run_is_the_uninterrupted_one(finished: Path, flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "resumed"
    train.main(flags(flower_shards, run_dir, max_steps=4))
    with (run_dir / "metrics.jsonl").open("a") as file:  # as if it had been killed after step 5
        file.write('{"step": 5, "loss/d": 9.0}\n')
    train.main([*flags(flower_shards, run_dir), "--resume"])
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4, 5, 6]
    assert Account.from_json(status(run_dir)["account"]).images == 48  # of both starts
    assert losses(run_dir) == losses(finished)
    assert generator_bytes(run_dir, 6) == generator_bytes(finished, 6)


def test_resume_without_a_checkpoint_starts_at_step_0_and_says_so(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*flags(flower_shards, tmp_path / "new", max_steps=1), "--resume"])
    assert "no checkpoint" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path / "new")] == [1]


def test_a_directory_that_exists_is_refused(
    finished: Path, flower_shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "open_loader", None)  # nor anything that takes longer: it is refused before
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    assert "exists and is not empty: add --resume" in refused(flags(flower_shards, finished), capsys)
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before


def test_resume_with_other_settings_or_images_is_refused(
    finished: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused([*flags(flower_shards, finished, lr="3e-4", batch_size=4, max_steps=9), "--resume"], capsys)
    assert "lr: was 0.0001, now 0.0003" in message
    assert "batch_size: was 8, now 4" in message
    assert "max_steps" not in message
    other = tmp_path / "other"
    train_shards = ["synthetic", "--out", str(other), "--size", "32", "--count", "8", "--quiet"]
    shard.main(train_shards)
    assert "has other images" in refused([*flags(other, finished, max_steps=9), "--resume"], capsys)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ""}, "data must be a directory of shards, got none"),
        ({"data": "/no/such/place"}, "no index.json"),
        ({"config": REPOSITORY / "configs" / "flowers17-arch2.yaml"}, "convert again with dcgan-shard ... --size 28"),
        ({"model": "flowers_arch3"}, "flowers_arch"),
        ({"image_size": 64}, "image_size"),
        ({"loss": "hinge"}, "loss must be one of bce, got hinge"),
        ({"precision": "fp16"}, "precision fp16 needs a CUDA device"),
    ],
)
def test_what_does_not_fit_is_one_message(
    settings: dict[str, object],
    message: str,
    flower_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(flags(flower_shards, tmp_path / "run", **settings), capsys)
    assert not (tmp_path / "run").exists()


def test_an_empty_data_directory_is_named(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    message = refused(flags(flower_shards, tmp_path / "run", data=tmp_path / "empty"), capsys)
    assert f"{tmp_path / 'empty'}: not a directory of shards" in message


def test_divergence_stops_the_run_and_leaves_no_bad_state(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "diverged"
    message = refused(flags(flower_shards, run_dir, optimizer="sgd", lr=1e30, max_steps=9), capsys, code=1)
    assert "is not finite since step" in message
    assert status(run_dir)["state"] == "failed"
    assert not (run_dir / "checkpoints").exists()
    assert all(np.isfinite(row).all() for row in losses(run_dir))


def rolled_back(run_dir: Path, shards: Path, **settings: object) -> None:
    """A run of SGD whose learning rate blows up within a few steps, and that may go back with a millionth of it."""
    wild = {"optimizer": "sgd", "lr": 1e8, "on_divergence": "rollback", "rollback_lr_factor": 1e-5}
    train.main(flags(shards, run_dir, **(wild | {"max_steps": 8} | settings)))


def test_rollback_goes_on_from_the_last_good_checkpoint_with_a_lower_rate(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    rolled_back(run_dir, flower_shards)
    text = " ".join(capsys.readouterr().out.split())
    assert "is not finite since step" in text
    assert "with the learning rates times 1e-05, rollback 1 of 3" in text
    assert status(run_dir)["state"] == "done"
    assert [row["step"] for row in rows(run_dir)] == list(range(1, 9))
    assert np.isfinite(losses(run_dir)).all()
    state = json.loads((run_dir / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert state["rollbacks"] >= 1
    assert state["lr_factor"] == pytest.approx(1e-5 ** state["rollbacks"])
    # what came after the roll-back is the run that had the lower rate from that step on
    calm = tmp_path / "calm"
    rolled_back(calm, flower_shards, lr=1e8 * state["lr_factor"], on_divergence="stop")
    assert f"back to step 0 with the learning rates times {state['lr_factor']:g}" in text
    np.testing.assert_allclose(losses(run_dir), losses(calm), rtol=1e-6)


def test_a_rolled_back_run_resumes_with_its_lower_rate(flower_shards: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rolled_back(whole, flower_shards)
    rolled_back(parts, flower_shards, max_steps=4)
    train.main(["--resume", f"--run_dir={parts}", "--max_steps=8"])
    assert losses(parts) == losses(whole)
    assert generator_bytes(parts, 8) == generator_bytes(whole, 8)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_rollback_to_step_0_forgets_what_the_optimizers_knew(
    optimizer: str, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Training.update
    spoilt: list[int] = []

    def spoil_once(training: Training) -> dict[str, Tensor]:
        if training.step == 2 and not spoilt:
            spoilt.append(training.step)
            with torch.no_grad():
                training.gan.discriminator.parameters[0].fill_(torch.nan)
        return update(training)

    monkeypatch.setattr(Training, "update", spoil_once)
    settings = {"optimizer": optimizer, "on_divergence": "rollback", "checkpoint_every": 100, "sample_every": 100}
    train.main(flags(flower_shards, tmp_path / "run", **settings))
    assert spoilt == [2]
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state["rollbacks"] == 1


def test_the_network_that_spoilt_the_other_is_named(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Training.update

    def spoil(training: Training) -> dict[str, Tensor]:
        if training.step == 2:
            with torch.no_grad():
                training.gan.generator.parameters[0].fill_(torch.nan)
        return update(training)

    monkeypatch.setattr(Training, "update", spoil)
    message = refused(flags(flower_shards, tmp_path / "run", log_every=6, checkpoint_every=6), capsys, code=1)
    assert "the generator is not finite since step 3" in message  # D's loss is no number since then either
    assert "DivergenceError: the generator is not finite" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "progress.gif").exists()


def test_a_report_that_cannot_be_made_spoils_no_run(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(runs: Sequence[Path], path: Path) -> list[str]:
        raise ValueError("too many runs")

    monkeypatch.setattr("dcgan_dist.job.write_report", refuse)
    train.main(flags(flower_shards, tmp_path / "run", max_steps=2))
    assert f"warning: no {tmp_path / 'run' / 'report.html'}: too many runs" in capsys.readouterr().out
    assert status(tmp_path / "run")["state"] == "done"


def test_a_ctrl_c_after_another_signal_is_the_first(flower_shards: Path, tmp_path: Path) -> None:
    def both(*_: object, **__: object) -> bool:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dcgan_dist.job.train", both)
        patch.setattr("dcgan_dist.job._leave_pictures", lambda *_, **__: None)
        train.main(flags(flower_shards, tmp_path / "run"))
    told = status(tmp_path / "run")
    assert (told["state"], told["reason"]) == ("stopped", "SIGTERM at step 0")


def test_rollbacks_have_an_end(flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    arguments = flags(
        flower_shards,
        run_dir,
        optimizer="sgd",
        lr=1e30,
        on_divergence="rollback",
        rollback_lr_factor=0.9,
        max_rollbacks=2,
    )
    message = refused(arguments, capsys, code=1)
    assert "2 rollbacks" in message
    assert status(run_dir)["state"] == "failed"
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-00000000"]


def test_weights_that_are_not_numbers_are_not_saved_although_the_loss_was(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "diverged"
    arguments = flags(
        flower_shards, run_dir, optimizer="sgd", lr=1e308, lr_ratio=1, dtype="float64", checkpoint_every=1
    )
    assert "is not finite since step 1" in refused(arguments, capsys, code=1)
    assert not (run_dir / "checkpoints").exists()


def test_resume_of_a_run_longer_than_asked_for_is_refused(
    finished: Path, flower_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused([*flags(flower_shards, finished, max_steps=4), "--resume"], capsys)
    assert "has done 6 steps already, 4 are asked for" in message
    assert status(finished)["state"] == "done"
    assert not (finished / "requeue").exists()


def test_a_start_that_fails_is_not_queued_again(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train.main(flags(flower_shards, run_dir, max_steps=4))
    (run_dir / "requeue").touch()  # as if it had been stopped
    refused([*flags(flower_shards, run_dir, batch_size=4), "--resume"], capsys)
    assert not (run_dir / "requeue").exists()


def test_a_signal_before_the_first_step_stops_the_run(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = open_loader

    def slowly(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGUSR2)
        return original(*args, **kwargs)

    monkeypatch.setattr("dcgan_dist.preparation.open_loader", slowly)
    train.main(flags(flower_shards, tmp_path / "run"))
    told = status(tmp_path / "run")
    assert (told["state"], told["reason"]) == ("stopped", "SIGUSR2 at step 0")
    assert (tmp_path / "run" / "requeue").exists()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_a_rollback_that_finds_no_whole_checkpoint_is_one_message(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Training.update

    def spoil(training: Training) -> dict[str, Tensor]:
        if training.step == 2:
            training.wait_for_checkpoint()
            (training.run.checkpoints / "step-00000000" / "generator.safetensors").unlink()
            with torch.no_grad():
                training.gan.generator.parameters[0].fill_(torch.nan)
        return update(training)

    monkeypatch.setattr(Training, "update", spoil)
    message = refused(flags(flower_shards, tmp_path / "run", on_divergence="rollback"), capsys, code=1)
    assert "the generator is not finite since step 3" in message
    assert "nothing to go back to: resume: no checkpoint in" in message


def test_resume_of_what_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["--resume", f"--run_dir={tmp_path / 'nope'}"], capsys)
    assert f"there is no {tmp_path / 'nope' / 'config.yaml'}; give --config" in message


def test_a_place_that_cannot_be_written_is_one_message_and_exit_1(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file")
    monkeypatch.chdir(tmp_path)
    message = refused([*flags(flower_shards, Path()), "--run_dir="], capsys, code=1)
    assert "runs: File exists" in message


def test_what_the_launcher_was_told_and_the_run_does_not_follow_is_said(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train.main(flags(flower_shards, tmp_path / "run", max_steps=1))
    assert "mixed precision bf16 of accelerate launch is ignored; use --precision bf16" in capsys.readouterr().out


def test_trouble_with_wandb_does_not_end_training(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(wandb_sink, "START_SECONDS", 2)
    wandb.teardown()  # W&B reads its environment once in a process
    train.main(flags(flower_shards, tmp_path / "run", max_steps=1, tracker="wandb"))
    assert "going on offline" in capsys.readouterr().err
    assert status(tmp_path / "run")["state"] == "done"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    message = refused(flags(flower_shards, tmp_path / "next", tracker="wandb"), capsys)
    assert "WANDB_MODE must be one of online, offline, disabled, got 'sometimes'" in message
    assert not (tmp_path / "next").exists()


def test_dcgan_sample_draws_what_the_run_drew(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    sample.main([str(finished), "--count", "9", "--seed", "0", "--out", str(out)])
    last = finished / "samples" / "step-00000006.png"
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(last)))
    sample.main([str(finished / "checkpoints" / "step-00000004"), "--count", "9", "--out", str(out)])
    assert not np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(last)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--count", "0"], "--count must be at least 1, got 0"),
        (["{run}", "--seed", "-1"], "--seed must be at least 0"),
        (["{run}/nothing"], "no whole checkpoint here"),
        (["{run}", "--interpolate", "0"], "--interpolate must be at least 1, got 0"),
        (["{run}", "--interpolate", "1", "--steps", "1"], "--steps must be at least 2, got 1"),
        (["{run}", "--interpolate", "1", "--count", "9"], "--count has no effect with --interpolate or --progress"),
        (["{run}", "--steps", "9"], "--steps has no effect without --interpolate"),
        (["{run}", "--progress", "--seed", "0"], "--seed has no effect with --progress"),
        (["{run}", "--interpolate", "1", "--progress"], "give --interpolate or --progress, not both"),
        (["{run}", "--progress", "--out", "a.png"], "a.png: an animation must end in .gif, .webp, .mp4"),
        (["{run}/checkpoints", "--progress"], "no sample grids here"),
    ],
)
def test_dcgan_sample_refuses(
    arguments: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sample.main([argument.format(run=finished) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("dcgan-sample: error: ")
    assert message in error


def test_dcgan_sample_draws_ways_between_its_samples(finished: Path, tmp_path: Path) -> None:
    """The ends of way i are samples 2i and 2i + 1."""
    ways, ends, moving = (tmp_path / name for name in ("ways.png", "ends.png", "moving.webp"))
    sample.main([str(finished), "--interpolate", "3", "--steps", "5", "--seed", "4", "--out", str(ways)])
    sample.main([str(finished), "--count", "6", "--seed", "4", "--out", str(ends)])
    sample.main([str(finished), "--interpolate", "3", "--steps", "5", "--out", str(moving)])
    with Image.open(ways) as picture, Image.open(ends) as samples, Image.open(moving) as animation:
        cell = (samples.width - 2) // 3  # 3 columns, 2 rows
        assert picture.size == (5 * cell + 2, 3 * cell + 2)

        def images(grid: Image.Image, columns: int) -> list[bytes]:
            rows = grid.height // cell
            corners = [(2 + column * cell, 2 + row * cell) for row in range(rows) for column in range(columns)]
            return [grid.crop((x, y, x + cell - 2, y + cell - 2)).tobytes() for x, y in corners]

        found = images(picture, 5)
        assert [found[place] for place in (0, 4, 5, 9, 10, 14)] == images(samples, 3)
        assert len(set(found)) == 15
        assert getattr(animation, "n_frames", 1) == 8  # there and back: 5 and the 3 between


def test_dcgan_sample_animates_the_progress(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "progress.gif"
    sample.main([str(finished), "--progress", "--out", str(out)])
    with Image.open(out) as animation:
        frames = getattr(animation, "n_frames", 1)
    assert frames == len(list((finished / "samples").glob("*.png")))
    assert f"{frames} sample grids of" in capsys.readouterr().out


def test_dcgan_sample_fails_with_1_where_it_cannot_write(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        sample.main([str(finished), "--out", f"{finished}/no/such/place.png"])
    assert stopped.value.code == 1
    assert "place.png: No such file or directory" in capsys.readouterr().err


def test_summary_prints_both_networks_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main([f"--config={REPOSITORY / 'configs' / 'flowers17-arch1.yaml'}", "--summary"])
    text = capsys.readouterr().out
    assert "697,227" in text
    assert "396,077" in text


def test_dry_run_tells_and_writes_nothing(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*flags(flower_shards, tmp_path / "run"), "--dry_run"])
    text = capsys.readouterr().out
    assert "base_channels: 4" in text
    assert "6 steps of 8 images" in text
    assert "ms a step" in text
    assert not (tmp_path / "run").exists()


def test_profile_writes_a_trace_and_says_what_the_parts_of_a_step_took(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train.main([*flags(flower_shards, run_dir, max_steps=14), "--profile", "2"])
    events: list[dict[str, Any]] = json.loads((run_dir / "trace.json").read_text())["traceEvents"]
    assert any("convolution_backward" in event.get("name", "") for event in events)
    begun = {part: [event["ts"] for event in events if event.get("name") == part] for part in profiling.PARTS}
    # the simultaneous update: D sees reals and fakes, then both backward passes, then both steps
    assert {part: len(times) for part, times in begun.items()} == dict.fromkeys(profiling.PARTS, 2) | {
        "Discriminator forward": 4
    }
    order = ("data", "Generator forward", "Discriminator forward", "Discriminator backward", "Generator backward")
    first = [min(begun[part]) for part in (*order, "Discriminator optimizer", "Generator optimizer")]
    assert first == sorted(first)
    text = capsys.readouterr().out
    shares = [float(row.split("│")[3].strip(" %")) for row in text.splitlines() if row.startswith("│")]
    assert len(shares) == len(profiling.PARTS) + 2  # other, and the whole
    assert sum(shares[:-1]) == pytest.approx(shares[-1], abs=0.5)
    assert f"trace of 2 steps: {run_dir / 'trace.json'}" in text


def test_a_run_that_stops_early_has_no_trace_and_says_so(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dcgan_dist.job.train", lambda training, **_: False)
    monkeypatch.setattr("dcgan_dist.job._leave_pictures", lambda *_, **__: None)
    train.main([*flags(flower_shards, tmp_path / "run", max_steps=12), "--profile", "2"])
    assert "no trace: the run stopped before it began" in capsys.readouterr().out
    assert not (tmp_path / "run" / "trace.json").exists()


def test_a_profile_longer_than_the_run_is_refused(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused([*flags(flower_shards, tmp_path / "run"), "--profile", "5"], capsys)
    assert "profile 5 needs 15 steps" in message


def start(
    arguments: list[str], *, processes: int = 1, program: Sequence[str] = ("-m", "dcgan_dist.train")
) -> subprocess.Popen[str]:
    """A training job of its own, as people start them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*(launcher if processes > 1 else [sys.executable]), *program, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_two_processes_under_torchrun_give_the_run_of_one(flower_shards: Path, tmp_path: Path) -> None:
    settings = {"dtype": "float64", "max_steps": 5}
    train.main(flags(flower_shards, tmp_path / "one", **settings))
    job = start(flags(flower_shards, tmp_path / "two", **settings), processes=2)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["world_size"] == 2
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-9)
    assert output.count("step 5/5") == 1  # nothing from the other rank


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_compiled_networks_give_the_same_losses(processes: int, flower_shards: Path, tmp_path: Path) -> None:
    train.main(flags(flower_shards, tmp_path / "eager"))
    job = start([*flags(flower_shards, tmp_path / "compiled"), "--compile"], processes=processes)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "eager"), rtol=1e-4)


def test_a_batch_that_two_processes_cannot_share_is_one_message(flower_shards: Path, tmp_path: Path) -> None:
    job = start(flags(flower_shards, tmp_path / "run", batch_size=15), processes=2)
    output, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert output.count("error: batch_size must be a multiple of the number of processes") == 1
    assert "15 / 2 = 7.5 images each; try 14 or 16" in output
    assert not (tmp_path / "run").exists()


def test_a_mistake_that_one_rank_alone_meets_is_told_once(flower_shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "train_here.py"
    script.write_text(
        "import os, sys\nfrom dcgan_dist import train\n"
        "if os.environ['RANK'] == '1':\n    sys.argv.append('--data=/no/such/place')\ntrain.main()\n"
    )
    job = start(flags(flower_shards, tmp_path / "run"), processes=2, program=[str(script)])
    output, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert output.count("error: rank 1: /no/such/place: not a directory of shards") == 1
    assert not (tmp_path / "run").exists()


def test_other_images_on_one_rank_alone_are_refused_on_all(finished: Path, flower_shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shard.main(["synthetic", "--out", str(other), "--size", "32", "--count", "48", "--seed", "1", "--quiet"])
    script = tmp_path / "train_here.py"
    script.write_text(
        "import os, sys\nfrom dcgan_dist import train\n"
        f"if os.environ['RANK'] == '1':\n    sys.argv.append('--data={other}')\ntrain.main()\n"
    )
    arguments = [*flags(flower_shards, finished, max_steps=8), "--resume"]
    output, _ = (job := start(arguments, processes=2, program=[str(script)])).communicate(timeout=120)
    assert job.returncode != 0
    assert output.count("error: processes disagree on the images: ") == 1
    assert status(finished)["state"] == "done"


def test_a_signal_saves_and_ends_with_0_and_the_run_goes_on(flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = flags(flower_shards, run_dir, max_steps=100_000, checkpoint_every=100_000, sample_every=100_000)
    job = start(arguments)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run_dir / "metrics.jsonl").exists():
        time.sleep(0.1)
    time.sleep(1)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0, output
    assert status(run_dir)["state"] == "stopped"
    assert status(run_dir)["reason"].startswith("SIGTERM at step ")
    assert (run_dir / "requeue").exists()
    (saved,) = (run_dir / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step-"))
    train.main(["--resume", f"--run_dir={run_dir}", f"--max_steps={step + 2}"])
    assert [row["step"] for row in rows(run_dir)] == list(range(1, step + 3))
    assert not (run_dir / "requeue").exists()


def test_a_second_ctrl_c_stops_at_once(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted_twice(*_: object, **__: object) -> bool:
        signal.raise_signal(signal.SIGINT)  # asks to stop
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr("dcgan_dist.job.train", interrupted_twice)
    assert "second Ctrl-C" in refused(flags(flower_shards, tmp_path / "run"), capsys, code=1)
    assert status(tmp_path / "run")["state"] == "failed"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
