"""Checkpoints: exact resume, whole or absent, damaged ones set aside."""

import errno
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgan_dist import checkpoint
from dcgan_dist.config import MAY_DIFFER, TrainConfig, changed
from dcgan_dist.files import write_whole
from dcgan_dist.gan import Gan
from dcgan_dist.loop import Training
from tests import tiny

STATE = {
    "best": [False, 0.5],
    "world_size": 1,
    "threads": 1,
    "data_digest": "digest of the images",
    "metrics_bytes": 0,
}
FILES = {"generator", "discriminator", "optimizer_g", "optimizer_d"}


def config(name: str = "mnist28", **changes: Any) -> TrainConfig:
    return tiny.narrow(name, dtype="float32", **changes)


def start(given: TrainConfig) -> Training:
    return tiny.training(given, tiny.runtime())


def save(directory: Path, gan: Gan, step: int, *, keep: int = 9) -> Path:
    saver = checkpoint.Saver()
    saver.save(directory, gan, step=step, state=STATE, keep=keep)
    saver.wait()
    return directory / f"step-{step:08d}"


def saved(directory: Path, *steps: int, gan: Gan | None = None) -> list[Path]:
    gan = gan or start(config()).gan
    return [save(directory, gan, step) for step in steps]


def flip_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


# Exact resume


def all_tensors(gan: Gan) -> dict[str, Tensor]:
    """Networks, average and optimizers."""
    found = tiny.tensors(gan)
    for name, player in (("g", gan.generator), ("d", gan.discriminator)):
        for number, entry in player.optimizer.state_dict()["state"].items():
            found |= {f"{name}.{number}.{key}": value for key, value in entry.items() if value is not None}
    return found


CASES = {
    "adam": config(),
    "adam, contiguous": config("flowers17-arch1", memory_format="contiguous"),
    "adam, average": config("flowers17-arch1", ema_decay=0.9, flip=True),
    "rmsprop": config("flowers17-arch2", base_channels=2),
    "rmsprop, contiguous": config("flowers17-arch2", base_channels=2, memory_format="contiguous"),
    "sgd": config(optimizer="sgd", lr=0.01),
    "sgd, contiguous, average": config(optimizer="sgd", lr=0.01, memory_format="contiguous", ema_decay=0.5),
    "float64": tiny.narrow("mnist-pooled", optimizer="rmsprop", lr_decay_g=0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_resumed_run_has_the_bits_of_the_uninterrupted(name: str, tmp_path: Path) -> None:
    whole = start(CASES[name])
    for _ in range(3):
        whole.update()
    save(tmp_path, whole.gan, whole.step)
    for _ in range(3):
        losses = whole.update()

    resumed = start(CASES[name])
    with torch.no_grad():  # nothing of the fresh run may survive
        for player in (resumed.gan.generator, resumed.gan.discriminator):
            for value in player.plain.state_dict().values():
                value.fill_(3)
    found, told = checkpoint.newest(tmp_path)
    assert found is not None
    assert told == []
    checkpoint.load(found, resumed.gan)
    resumed.step = found.step
    assert resumed.step == 3
    for _ in range(3):
        again = resumed.update()

    assert {key: value.item() for key, value in again.items()} == {key: value.item() for key, value in losses.items()}
    expected, got = all_tensors(whole.gan), all_tensors(resumed.gan)
    assert got.keys() == expected.keys()
    assert len(expected) > 10
    for key, value in expected.items():
        assert torch.equal(got[key], value), key
        assert got[key].dtype == value.dtype, key
        assert got[key].stride() == value.stride(), key


def test_loading_restores_what_was_saved(tmp_path: Path) -> None:
    first = start(config("flowers17-arch1", ema_decay=0.9))
    for _ in range(2):
        first.update()
    save(tmp_path, first.gan, 2)
    second = start(config("flowers17-arch1", ema_decay=0.9, seed=5))
    checkpoint.load(checkpoint.find(tmp_path / "step-00000002"), second.gan)
    expected, got = all_tensors(first.gan), all_tensors(second.gan)
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    assert second.gan.average is not None


# What is on disk


def test_files_have_their_names(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 20)
    assert path == tmp_path / "step-00000020"
    assert names(tmp_path) == ["step-00000020"]
    assert names(path) == sorted([*(f"{name}.safetensors" for name in FILES), "state.json"])
    averaged = start(config(ema_decay=0.9))
    with_average = save(tmp_path, averaged.gan, 21)
    assert set(names(with_average)) - set(names(path)) == {"ema.safetensors"}
    state = json.loads((path / "state.json").read_text())
    assert state["step"] == 20
    assert state["config"]["lr"] == 1e-4
    assert set(state["sha256"]) == {f"{name}.safetensors" for name in FILES}
    assert state.items() >= STATE.items()


def test_the_newest_are_kept(tmp_path: Path) -> None:
    gan = start(config()).gan
    for step in (1, 2, 10, 9):  # by number, not by time
        save(tmp_path, gan, step, keep=2)
    assert names(tmp_path) == ["step-00000009", "step-00000010"]
    save(tmp_path, gan, 11, keep=1)
    assert names(tmp_path) == ["step-00000011"]


@pytest.mark.parametrize("failing", [1, 3, 5])
def test_a_full_disk_leaves_older_checkpoints_whole(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = start(config()).gan
    saved(tmp_path, 1, 2, gan=gan)
    before = snapshot(tmp_path)
    calls = []

    def full(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == failing:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_whole(path, data)

    monkeypatch.setattr(checkpoint, "write_whole", full)
    saver = checkpoint.Saver()
    saver.save(tmp_path, gan, step=3, state=STATE, keep=1)  # does not wait, so does not know
    with pytest.raises(OSError, match="No space left") as caught:
        saver.wait()
    assert Path(caught.value.filename).parent.name == ".step-00000003.writing"
    saver.wait()  # told once

    calls.clear()
    saver.save(tmp_path, gan, step=3, state=STATE, keep=1)
    deadline = time.monotonic() + 20
    raised = None
    while raised is None and time.monotonic() < deadline:
        try:
            saver.check()  # knows as soon as the thread does
        except OSError as error:
            raised = error
    assert "No space left" in str(raised)
    assert time.monotonic() < deadline
    assert len(calls) == failing
    assert snapshot(tmp_path) == before
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_training_may_go_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, saver, go_on = start(config()), checkpoint.Saver(), threading.Event()

    def slowly(path: Path, data: bytes) -> None:
        assert go_on.wait(20)
        write_whole(path, data)

    monkeypatch.setattr(checkpoint, "write_whole", slowly)
    training.update()
    expected = all_tensors(training.gan)
    saver.save(tmp_path, training.gan, step=1, state=STATE, keep=1)
    expected = {name: value.clone() for name, value in expected.items()}
    training.update()  # changes every tensor while the files are not even begun
    assert not (tmp_path / "step-00000001").exists()
    go_on.set()
    saver.wait()
    other = start(config(seed=3)).gan
    checkpoint.load(checkpoint.find(tmp_path / "step-00000001"), other)
    found = all_tensors(other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_a_kill_left_is_removed_and_never_read(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".step-00000007.writing")
    found, told = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, told) == (1, [])
    saved(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


# Damage


@pytest.mark.parametrize("file", [*(f"{name}.safetensors" for name in sorted(FILES)), "state.json"])
@pytest.mark.parametrize("end", [0, -1])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(file: str, end: int, tmp_path: Path) -> None:
    *_, last = saved(tmp_path, 1, 2, 3)
    flip_byte(last / file, end)
    found, told = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, found.path) == (2, tmp_path / "step-00000002")
    assert len(told) == 1
    assert told[0].startswith(f"damaged checkpoint set aside: {last / file}")
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003.damaged"]


@pytest.mark.parametrize("place", ["step", "lr", "metrics_bytes", "data_digest"])
def test_a_changed_number_in_state_json_is_damage(place: str, tmp_path: Path) -> None:
    _, last = saved(tmp_path, 1, 2)
    text = (last / "state.json").read_text()
    changed_text = {
        "step": text.replace('"step": 2', '"step": 6'),
        "lr": text.replace('"lr": 0.0001', '"lr": 0.0005'),
        "metrics_bytes": text.replace('"metrics_bytes": 0', '"metrics_bytes": 4'),
        "data_digest": text.replace("digest of the images", "digest of the image"),
    }[place]
    assert changed_text != text
    (last / "state.json").write_text(changed_text)
    found, told = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, len(told)) == (1, 1)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    _, last = saved(tmp_path, 1, 2)
    (last / "optimizer_g.safetensors").unlink()
    found, told = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert told == [f"damaged checkpoint set aside: {last / 'optimizer_g.safetensors'}: No such file or directory"]


def test_no_checkpoint_at_all_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "checkpoints") == (None, [])


def test_only_damaged_checkpoints_are_an_error_each_time(tmp_path: Path) -> None:
    for path in saved(tmp_path, 1, 2):
        flip_byte(path / "generator.safetensors", -1)
    for _ in range(2):  # a job that is queued again must not begin at step 0 over the run
        with pytest.raises(ValueError, match=r"^resume: no checkpoint in .* is whole; .*step-00000002.*step-00000001"):
            checkpoint.newest(tmp_path)


def test_a_step_can_be_damaged_twice(tmp_path: Path) -> None:
    gan = start(config()).gan
    saved(tmp_path, 1, gan=gan)
    for _ in range(2):
        (path,) = saved(tmp_path, 2, gan=gan)
        flip_byte(path / "generator.safetensors", -1)
        found, _ = checkpoint.newest(tmp_path)
        assert found is not None
        assert found.step == 1


def test_the_newest_of_two_directories_and_of_two_of_one_step_the_first(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1, 2)
    saved(tmp_path / "b", 2, 3)
    paths = []
    for step in (3, 2):
        found, _ = checkpoint.newest(tmp_path / "a", tmp_path / "b")
        assert found is not None
        assert found.step == step
        paths.append(found.path)
        shutil.rmtree(found.path)
    assert [path.parent.name for path in paths] == ["b", "a"]


def test_find_takes_the_newest_whole_one_and_changes_nothing(tmp_path: Path) -> None:
    one, two, three = saved(tmp_path / "checkpoints", 1, 2, 3)
    assert checkpoint.find(tmp_path).path == three
    flip_byte(three / "generator.safetensors", 100)
    before = snapshot(tmp_path)
    assert checkpoint.find(tmp_path).path == two
    assert checkpoint.find(one).path == one
    assert checkpoint.find(tmp_path / "checkpoints").path == two  # as for best/
    with pytest.raises(ValueError, match=r"no whole checkpoint here; .*generator.safetensors: sha256"):
        checkpoint.find(three)
    with pytest.raises(ValueError, match=r"^.*: no whole checkpoint here$"):
        checkpoint.find(tmp_path / "nothing")
    assert snapshot(tmp_path) == before


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    other = start(config(base_channels=5)).gan
    with pytest.raises(ValueError, match=r"generator.safetensors: does not load into the configured network"):
        checkpoint.load(checkpoint.verified(path), other)


# What a resumed run may change


def check(path: Path, now: TrainConfig, digest: str = STATE["data_digest"]) -> None:  # type: ignore[assignment]
    checkpoint.check_resumable(checkpoint.verified(path), now, data_digest=digest)


def test_other_cadence_length_and_place_of_data_are_accepted(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    check(path, config())
    free = {
        "max_epochs": None,
        "max_steps": 7,
        "log_every": 3,
        "sample_every": 3,
        "checkpoint_every": 3,
        "keep_checkpoints": 9,
        "tracker": "none",
        "project": "other",
        "data": "elsewhere",
        "loader": "resident",
        "workers": 3,
        "cache_dir": "there",
        "cache_gigabytes": 1.0,
        "threads": 2,
        "run_dir": "here",
        "resume": True,
        "profile": 3,
        "timeout": 5,
        "eval_every": 7,
        "extractor_weights": "there",
    }
    assert {*free, "max_images"} >= MAY_DIFFER
    check(path, changed(config(), free))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 2e-4),
        ("seed", 1),
        ("batch_size", 4),
        ("value_range", (0.0, 1.0)),
        ("dropout", 0.1),
        ("memory_format", "contiguous"),
        ("precision", "bf16"),
        ("shuffle_window", 1),
        ("ema_decay", 0.9),
        ("recipe", "other"),
        ("sample_count", 9),
        ("best_metric", "fid"),
        ("on_collapse", "rollback"),
    ],
)
def test_any_other_difference_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    with pytest.raises(ValueError, match=rf"^resume: the run in .* differs: {name}: was .*, now [^;]*$"):
        check(path, changed(config(), {name: value}))


def test_every_difference_is_told_at_once(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    with pytest.raises(ValueError, match=r"seed: was 0, now 3; .*lr: was 0.0001, now 0.01; .*data: .* other images"):
        check(path, changed(config(), {"seed": 3, "lr": 0.01}), digest="of others")
