"""Real Flowers-17, real launchers: minutes, so `make test-slow`."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist import shard
from tests.shared import REPOSITORY, SHARED, needs_shared
from tests.test_train import losses

ARCHIVE = "data/flowers17/17flowers.tgz"

pytestmark = [pytest.mark.slow, needs_shared(ARCHIVE)]


@pytest.fixture(scope="module")
def flowers17(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards") / "flowers17-32"
    shard.main(["flowers17", str(SHARED / ARCHIVE), "--out", str(directory), "--size", "32", "--quiet"])
    return directory


def run(launcher: list[str], flowers17: Path, run_dir: Path, **settings: object) -> list[list[float]]:
    values: dict[str, object] = {
        "config": REPOSITORY / "configs" / "flowers17-arch1.yaml",
        "data": flowers17,
        "run_dir": run_dir,
    }
    values |= {"log_every": 1, "tracker": "none"} | settings
    arguments = [f"--{name}={value}" for name, value in values.items()]
    command = [sys.executable, "-m", *launcher, "-m", "dcgan_dist.train", *arguments]
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, check=True, timeout=250)
    return losses(run_dir)


@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [("float64", 20, 1e-9), ("float32", 5, 1e-3)])
def test_one_process_and_two_give_the_same_losses(
    dtype: str, steps: int, tolerance: float, flowers17: Path, tmp_path: Path
) -> None:
    settings = {"dtype": dtype, "max_steps": steps}
    one = run(["accelerate.commands.launch"], flowers17, tmp_path / "one", **settings)
    two_processes = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    two = run(two_processes, flowers17, tmp_path / "two", **settings)
    assert len(one) == steps
    np.testing.assert_allclose(two, one, rtol=tolerance)
