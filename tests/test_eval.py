"""The command dcgan-eval."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_dist import checkpoint, eval, train
from dcgan_dist.cli import read_yaml
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.data.shards import read_images, read_index
from dcgan_dist.evaluation.judging import UNMEASURED
from dcgan_dist.images import to_images
from dcgan_dist.metrics import efflite0
from dcgan_dist.models import build_networks
from dcgan_dist.sampling import sample_pixels
from tests import jobs
from tests.shared import REPOSITORY

PIXELS = ("--extractor", "pixels", "--count", "40")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)  # the command takes all cores


@pytest.fixture(scope="module")
def shards(flower_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, in which features may be kept."""
    return Path(shutil.copytree(flower_shards, tmp_path_factory.mktemp("eval") / "flowers"))


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, with an average of the generator."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    train.main(jobs.flags(shards, run_dir, max_steps=4, checkpoint_every=2))
    return run_dir


def outcome(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``--json`` prints, and nothing else on standard output."""
    capsys.readouterr()
    eval.main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = json.loads(printed.out)
    return found


def refused(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that must end with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        eval.main([*map(str, arguments)])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("error:") == 1
    return printed.err


def test_the_newest_checkpoint_against_the_runs_data(
    run: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = outcome(run, *PIXELS, capsys=capsys)
    assert found["checkpoint"] == str(run / "checkpoints" / "step-00000004")
    assert (found["step"], found["data"], found["trained_on"]) == (4, str(shards), True)
    assert found["generator"] == "average"
    assert (found["extractor"], found["count"], found["images"], found["floor_images"]) == ("pixels", 40, 40, 24)
    assert found["metrics"]["eval/fid_pixels_n40"] == found["measures"]["fid"] > 0
    assert found["metrics"]["eval/fid_floor_pixels_n24"] == found["floor"]["fid"] > 0
    again = outcome(run, *PIXELS, capsys=capsys)
    assert again["features"] == f"read from {shards}"
    assert again["measures"] == found["measures"]


def test_a_table_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eval.main([str(run / "checkpoints" / "step-00000002"), *PIXELS])
    printed = capsys.readouterr().out
    assert "step-00000002 (step 2) and " in printed
    assert "40 fakes, 40 reals" in printed
    assert "floor: 24 reals, 24" in printed
    assert [name for name in ("fid", "kid", "precision", "recall", "density", "coverage") if name not in printed] == []
    assert "±" in printed


def test_variety_is_measured_beside_quality(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(run, *PIXELS, capsys=capsys)
    assert found["metrics"]["collapse/score_n24"] == found["collapse"] > 0.35
    assert found["is_collapsed"]  # four steps: one image
    assert found["metrics"]["collapse/duplicates_n24"] > found["metrics"]["collapse/duplicates_n24_floor"]
    assert sum(mode["sample_share"] for mode in found["colours"]) == pytest.approx(1)
    assert sum(mode["data_share"] for mode in found["colours"]) == pytest.approx(1)
    alone = outcome(run, "--extractor", "none", capsys=capsys)
    assert "measures" not in alone
    del alone["metrics"]["time/eval"]
    assert alone["metrics"].items() < found["metrics"].items()
    eval.main([str(run), "--extractor", "none"])
    printed = capsys.readouterr().out
    assert f"score {found['collapse']:.2f}, alarm from 0.35: collapsed; " in printed
    reached = sum(mode["reached"] for mode in found["colours"])
    assert f"{reached} of {len(found['colours'])} colour modes of the data reached" in printed
    assert "FID" not in printed


def test_a_picture_of_the_nearest_real_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eval.main([str(run), "--extractor", "none", "--nearest", str(tmp_path / "nearest.png")])
    with Image.open(tmp_path / "nearest.png") as picture:
        assert picture.size == (6 * (68 + 2) + 2, 12 * (68 + 16 + 2) + 2)  # a sample and five neighbours, twelve rows
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        eval.main([str(run), "--extractor", "none", "--nearest", str(tmp_path / "none" / "nearest.png")])
    assert stopped.value.code == 1
    assert "nearest.png: No such file or directory" in capsys.readouterr().err


def test_without_the_extra_quality_is_said_to_be_missing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efflite0, "is_installed", lambda: False)
    found = outcome(run, capsys=capsys)
    assert "measures" not in found
    assert found["told"] == [UNMEASURED]
    assert found["collapse"] > 0


def test_the_average_is_what_is_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_average = outcome(run, *PIXELS, capsys=capsys)["measures"]
    path = run / "checkpoints" / "step-00000004"
    generators = []
    for name in ("ema", "generator"):
        config = changed(TrainConfig(), read_yaml(run / "config.yaml"))
        generator, _ = build_networks(config.network, seed=0)
        checkpoint.load_network(path / f"{name}.safetensors", generator)
        generators.append(sample_pixels(generator, range(4), seed=0, network=config.network))
    assert not np.array_equal(generators[0], generators[1])
    train_dir = tmp_path / "plain"
    train.main(jobs.flags(Path(read_yaml(run / "config.yaml")["data"]), train_dir, max_steps=4, ema_decay=0))
    found = outcome(train_dir, *PIXELS, capsys=capsys)
    assert found["generator"] == "last"
    assert found["measures"]["fid"] != pytest.approx(with_average["fid"], rel=1e-6)


def test_other_data_are_said_to_be_others(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dcgan_dist.shard import main as shard

    shard(["synthetic", "--out", str(tmp_path / "o"), "--size", "32", "--count", "44", "--seed", "5", "--quiet"])
    assert not outcome(run, *PIXELS, "--data", tmp_path / "o", capsys=capsys)["trained_on"]
    eval.main([str(run), *PIXELS, "--data", str(tmp_path / "o")])
    assert "these are not the images that the run was trained on" in capsys.readouterr().out


def test_mistakes_are_one_message(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ((tmp_path,), "no whole checkpoint here"),
        ((run, "--count", "3"), "eval_count must be at least 20, got 3"),
        ((run, "--count", "0"), "eval_count must be positive, got 0"),
        ((run, "--extractor", "vgg"), "extractor must be auto, none or one of efflite0, inception, pixels, got vgg"),
        ((run, *PIXELS, "--data", tmp_path), "not a directory of shards"),
        ((run, *PIXELS, "--download"), "--download and --weights are for --extractor inception"),
        ((run, "--nearest", "n.png", "--score", "a.png"), "--nearest is a picture of samples, --score is of files"),
        ((run, "--extractor", "inception", "--weights", tmp_path / "w"), "w: no such file; name weights-inception"),
        ((run, "--score", tmp_path / "none.png", run / "config.yaml"), "No such file"),
        ((run, "--score", run / "config.yaml"), "config.yaml: is not an image"),
    ):
        assert message in refused(*arguments, capsys=capsys), arguments


def test_without_a_launcher_and_with_one(run: Path, shards: Path) -> None:
    """One process and two print the same numbers, once."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    found = []
    for launcher in (["taskset", "-c", "0", sys.executable], [sys.executable, *jobs.LAUNCHERS["torchrun"]]):
        command = [*launcher, "-m", "dcgan_dist.eval", str(run), *PIXELS, "--json"]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    assert [result["processes"] for result in found] == [1, 2]
    assert found[1]["measures"] == pytest.approx(found[0]["measures"], rel=1e-9)


# Scores


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_scores_are_the_discriminators(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of the shards themselves, so that decoding changes nothing; in the company of the first real images."""
    images = read_images(read_index(shards))
    files = [picture(tmp_path / f"{number}.png", images[number]) for number in (20, 30)]
    found = outcome(run, "--score", *files, capsys=capsys)
    config = changed(TrainConfig(), read_yaml(run / "config.yaml"))
    assert config.network.batch_deviation > 0
    _, discriminator = build_networks(config.network, seed=0)
    checkpoint.load_network(run / "checkpoints" / "step-00000004" / "discriminator.safetensors", discriminator)
    discriminator.eval()
    for number, file, row in zip((20, 30), files, found["scores"], strict=True):
        batch = torch.from_numpy(images[[number, *range(config.images.batch_size - 1)]]).permute(0, 3, 1, 2)
        with torch.no_grad():
            logit = float(discriminator(to_images(batch, config.network.value_range, dtype=torch.float32))[0])
        assert row["file"] == str(file)
        assert row["logit"] == pytest.approx(logit, rel=1e-5)
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)


def test_scores_for_people_of_any_size_and_kind(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    files = [
        picture(tmp_path / "large.jpg", random.integers(256, size=(90, 140, 3), dtype=np.uint8)),
        picture(tmp_path / "grey.png", random.integers(256, size=(20, 20), dtype=np.uint8)),
    ]
    eval.main([str(run), "--score", *map(str, files)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [str(file) for file in files]
    assert all("% real" in line for line in lines[1:])
