import os
from pathlib import Path

import pytest
import torch

from dcgan_dist.shard import main


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The number of threads changes last bits, and several test runs share a machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_system_metrics() -> None:
    """W&B would look at the machine all the time."""
    os.environ["WANDB_X_DISABLE_STATS"] = "true"


@pytest.fixture(scope="session")
def flower_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 synthetic flowers of 32 x 32 pixels in three shards."""
    directory = tmp_path_factory.mktemp("shards") / "flowers"
    main(["synthetic", "--out", str(directory), "--size", "32", "--count", "48", "--shard-images", "16", "--quiet"])
    return directory
