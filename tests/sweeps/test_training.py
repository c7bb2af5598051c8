"""``dcgan-sweep run`` with the real trainer: its points are the runs that one trains by hand."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.jobs import flags, row_count, rows, status
from tests.shared import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 60
LIMIT_SECONDS = 240
SETTINGS: dict[str, object] = {"max_steps": STEPS, "checkpoint_every": 10, "dtype": "float64"}


def command(arguments: list[str], directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "said").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory, flower_shards: Path) -> Path:
    """Point 1, trained without the sweep."""
    directory = tmp_path_factory.mktemp("by-hand")
    words = flags(flower_shards, directory / "run", seed=1, **SETTINGS)
    assert command(["dcgan_dist.train", *words], directory).wait(LIMIT_SECONDS) == 0
    return directory / "run"


@pytest.fixture
def sweep(tmp_path: Path, flower_shards: Path) -> list[str]:
    """The arguments that train a sweep of two seeds."""
    words = [word for word in flags(flower_shards, tmp_path, **SETTINGS) if not word.startswith("--run_dir=")]
    content = {
        "name": "two",
        "method": "grid",
        "parameters": {"seed": {"values": [0, 1]}},
        "command": ["-m", "dcgan_dist.train", *words, "${args}"],
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
    return ["dcgan_dist.sweep", "run", str(tmp_path / "two.yaml"), "--runs", str(tmp_path / "runs")]


def points(tmp_path: Path) -> list[Path]:
    return [tmp_path / "runs" / "two" / f"seed={seed}" for seed in (0, 1)]


def wait_for_steps(run_dir: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while row_count(run_dir) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = run_dir / "checkpoints" / f"step-{STEPS:08d}"
    return {
        f"{path.name} {name}": tensor
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_run(run_dir: Path, other: Path) -> None:
    """The same numbers to the last bit."""
    assert status(run_dir)["state"] == status(other)["state"] == "done"
    losses = [[(row["step"], row["loss/d"], row["loss/g"]) for row in rows(path)] for path in (run_dir, other)]
    assert losses[0] == losses[1]
    found, wanted = weights(run_dir), weights(other)
    assert len(wanted) > 10
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_point_is_the_run_that_is_trained_by_hand(by_hand: Path, sweep: list[str], tmp_path: Path) -> None:
    assert command([*sweep, "--jobs", "2"], tmp_path).wait(LIMIT_SECONDS) == 0, (tmp_path / "said").read_text()
    assert_same_run(points(tmp_path)[1], by_hand)


def test_a_sweep_that_is_killed_twice_ends_in_the_same_weights(by_hand: Path, sweep: list[str], tmp_path: Path) -> None:
    for steps in (15, 35):
        process = command([*sweep, "--jobs", "2"], tmp_path)
        wait_for_steps(points(tmp_path)[1], steps, process)
        process.kill()  # its trainers save and end
        process.wait()
    process = command([*sweep, "--jobs", "2"], tmp_path)
    assert process.wait(LIMIT_SECONDS) == 0, (tmp_path / "said").read_text()
    assert_same_run(points(tmp_path)[1], by_hand)
    assert status(points(tmp_path)[0])["state"] == "done"


def test_a_point_on_two_processes_stops_goes_on_and_is_the_run_of_one(
    by_hand: Path, sweep: list[str], tmp_path: Path
) -> None:
    process = command([*sweep, "--processes", "2"], tmp_path)
    wait_for_steps(points(tmp_path)[0], 10, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_SECONDS) == 0, (tmp_path / "said").read_text()
    assert status(points(tmp_path)[0])["state"] == "stopped"
    assert "sweep two: 1 stopped, 1 left" in (tmp_path / "said").read_text()
    assert command([*sweep, "--processes", "2"], tmp_path).wait(LIMIT_SECONDS) == 0, (tmp_path / "said").read_text()
    for found, wanted in zip(rows(points(tmp_path)[1]), rows(by_hand), strict=True):
        assert found["loss/g"] == pytest.approx(wanted["loss/g"], rel=1e-9)
    assert '"world_size": 2' in (points(tmp_path)[1] / "environment.json").read_text()
