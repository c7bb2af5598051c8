"""The package from Python: its public names, which do what the commands do."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dcgan_dist
from dcgan_dist import sample, shard, train
from dcgan_dist.cli import parse
from dcgan_dist.config import leaves
from dcgan_dist.data.shards import read_index
from dcgan_dist.job import RefusedError
from tests import jobs
from tests.jobs import status
from tests.shared import REPOSITORY

RECIPE = REPOSITORY / "configs" / "flowers17-arch1.yaml"
FEW: dict[str, Any] = {
    "base_channels": 4,
    "batch_size": 8,
    "max_steps": 2,
    "sample_count": 4,
    "threads": 1,
    "tracker": "none",
}


# Names


def test_each_name_is_there_and_no_other() -> None:
    for name in dcgan_dist.__all__:
        assert getattr(dcgan_dist, name) is not None
        assert name in dir(dcgan_dist)
    with pytest.raises(AttributeError, match=r"module 'dcgan_dist' has no attribute 'runtraining'"):
        dcgan_dist.runtraining  # noqa: B018


def test_a_config_and_shards_are_had_without_torch(tmp_path: Path) -> None:
    script = f"""
import sys
import dcgan_dist
assert not {{"tyro", "yaml", "numpy", "rich"}} & set(sys.modules)
dcgan_dist.read_config({str(RECIPE)!r})
dcgan_dist.write_shards("synthetic", {str(tmp_path / "shards")!r}, size=8, options={{"count": 2}})
assert not {{"torch", "scipy", "matplotlib", "wandb"}} & set(sys.modules)
"""
    job = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (job.returncode, job.stderr) == (0, "")


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs" / "api.py"))
    assert made["PAGE"].read_text() == made["page"](), "docs/api.md is stale: make docs"


# Configs


def test_a_config_with_changes_is_that_of_the_flags() -> None:
    changes = {
        "max_epochs": 2, "lr": 1e-4, "flip": True, "value_range": (-0.25, 0.25), "workers": None, "data": Path("a/b"),
        "run_dir": "runs/x", "resume": True,
    }  # fmt: skip
    flags = ["--max_epochs=2", "--lr=1e-4", "--flip", "--value_range=-0.25,0.25", "--data=a/b", "--run_dir=runs/x"]
    expected = dict(leaves(parse([f"--config={RECIPE}", *flags, "--resume"])))
    found = dict(leaves(dcgan_dist.read_config(RECIPE, changes)))
    assert found["max_steps"] is None  # the file's length
    assert found | {"config": str(RECIPE)} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrr": 1}, "unknown setting 'lrr'; did you mean lr?"),
        ({"lr": "high"}, "lr must be a number, got 'high'"),
        ({"lr": -1}, "lr must be positive, got -1.0"),
        ({"batch_size": 8.5}, "batch_size must be a whole number, got 8.5"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"flip": 1}, "flip must be true or false, got 1"),
        ({"data": None}, "data must be text, got None"),
        ({"update": "both"}, "update must be simultaneous or alternating, got 'both'"),
        ({"value_range": [0, 1, 2]}, r"value_range must be a list of 2 numbers, got \[0, 1, 2\]"),
        ({"max_steps": 1, "max_epochs": 1}, "give exactly one of max_steps, max_epochs, max_images, got"),
        ({"dry_run": True}, "dry_run belongs on the command line"),
    ],
)
def test_a_wrong_change_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcgan_dist.read_config(RECIPE, changes)


# Runs


def test_a_run_is_that_of_the_command(flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "command"
    train.main(jobs.flags(flower_shards, there, max_steps=2, ema_decay=0))
    capsys.readouterr()
    config = dcgan_dist.read_config(there / "config.yaml", {"run_dir": tmp_path / "here"})
    here = dcgan_dist.run_training(config)
    assert here == tmp_path / "here"
    assert "done: 2 steps" in capsys.readouterr().out
    assert status(here)["state"] == "done"
    for name in ("generator", "discriminator", "optimizer_g"):
        file = Path("checkpoints", "step-00000002", f"{name}.safetensors")
        assert (here / file).read_bytes() == (there / file).read_bytes()

    sample.main([str(here), "--seed", "3", "--count", "5", "--out", str(tmp_path / "grid.png")])
    pixels = dcgan_dist.load(here).sample(5, seed=3)
    assert pixels.shape == (5, 32, 32, 3)
    with Image.open(tmp_path / "grid.png") as image:
        assert (np.asarray(image) == dcgan_dist.grid(pixels)).all()


def test_what_the_command_tells_is_raised(flower_shards: Path, tmp_path: Path) -> None:
    config = dcgan_dist.read_config(RECIPE, FEW | {"data": tmp_path / "none"})
    with pytest.raises(RefusedError, match=r"none"):
        dcgan_dist.run_training(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    config = dcgan_dist.read_config(RECIPE, FEW | {"data": flower_shards, "run_dir": tmp_path / "run"})
    with pytest.raises(RefusedError, match=r"run_dir .*/run exists and is not empty"):
        dcgan_dist.run_training(config)
    with pytest.raises(RefusedError, match="dry_run belong"):
        dcgan_dist.run_training(parse(["--dry_run"]))


def test_a_fault_of_the_program_is_not_taken_for_the_users(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> bool:
        raise ValueError("of ours")

    monkeypatch.setattr("dcgan_dist.job.train", broken)
    config = dcgan_dist.read_config(RECIPE, FEW | {"data": flower_shards, "run_dir": tmp_path / "run"})
    with pytest.raises(ValueError, match="of ours") as raised:
        dcgan_dist.run_training(config)
    assert type(raised.value) is ValueError
    assert status(tmp_path / "run")["reason"] == "ValueError: of ours"


# Shards


def test_shards_are_those_of_the_command(tmp_path: Path) -> None:
    there, here = (tmp_path / name / "set" for name in ("command", "library"))
    arguments = ["--size=8", "--count=6", "--seed=1", "--gray", "--format=webp", "--shard-images=4", "--shuffle-seed=2"]
    shard.main(["synthetic", "--out", str(there), *arguments, "--limit=5", "--subset-seed=3", "--quiet"])
    options = {"count": 6, "seed": 1}
    arguments_here: dict[str, Any] = {"size": 8, "gray": True, "format": "webp", "shard_images": 4, "shuffle_seed": 2}
    written = dcgan_dist.write_shards("synthetic", here, options=options, limit=5, subset_seed=3, **arguments_here)
    assert (written.shards, written.images) == (2, 5)
    assert written.index
    assert written.index.contents == read_index(there).contents
    assert sorted(path.name for path in here.iterdir()) == sorted(path.name for path in there.iterdir())
    assert all(path.read_bytes() == (there / path.name).read_bytes() for path in here.iterdir())
    assert (
        dcgan_dist.write_shards("synthetic", here, options=options, limit=5, subset_seed=3, **arguments_here).images
        == 0
    )


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("flower17", {}, "source must be one of flowers17, .*, got flower17; did you mean flowers17?"),
        ("flowers17", {}, "flowers17 needs 17flowers.tgz .*, got no inputs"),
        ("synthetic", {"inputs": ["a.tgz"]}, "synthetic needs no inputs, got a.tgz"),
        ("synthetic", {"options": {"cuont": 3}}, "options: must be among those of the source, count, seed; got cuont"),
        ("synthetic", {"options": {"count": "3"}}, "options: count must be a whole number, got '3'"),
        ("mnist", {"inputs": ["a"], "options": {"split": "x"}}, "options: split must be train or .*, got 'x'"),
        ("synthetic", {"crop": "middle"}, "--crop must be none or center or square, got middle"),
        ("synthetic", {"shard_images": 0}, "--shard-images must be at least 1, got 0"),
        ("synthetic", {"workers": 0}, "--workers must be at least 1, got 0"),
        ("synthetic", {"subset_seed": 2}, "--subset-seed 2 has no effect without --limit"),
    ],
)
def test_wrong_shards_are_refused(source: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        dcgan_dist.write_shards(source, tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


# The example


def test_the_example_leaves_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(REPOSITORY / "examples" / "train_and_sample.py"))
    picture = example["main"](48, FEW | {"batch_size": 16})
    assert picture == Path("runs/synthetic-arch1-001/more.png")
    with Image.open(picture) as image:
        assert image.size == (8 * 66 + 2, 8 * 66 + 2)  # 64 images, doubled, with white lines of 2 pixels
