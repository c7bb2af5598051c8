"""What several test files need: the folder of references outside the repository, and the recipes."""

import os
from pathlib import Path

import pytest

from dcgan_dist.cli import read_config
from dcgan_dist.config import TrainConfig

REPOSITORY = Path(__file__).parents[1]

SHARED = Path(os.environ.get("DCGAN_SHARED", REPOSITORY / ".." / "shared")).resolve()

RECIPES = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml"))


def needs_shared(path: str) -> pytest.MarkDecorator:
    """Skips a test when ``path`` below SHARED is not there."""
    return pytest.mark.skipif(not (SHARED / path).exists(), reason=f"needs {SHARED / path} (DCGAN_SHARED)")


def recipe(name: str) -> TrainConfig:
    return read_config(REPOSITORY / "configs" / f"{name}.yaml")
