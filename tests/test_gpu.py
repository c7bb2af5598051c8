"""What needs a CUDA device: `make test-gpu`. None of it has been run by the authors yet."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan_dist import train
from tests.test_train import flags, losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_run_on_a_gpu_is_the_run_on_a_cpu(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main([*flags(flower_shards, tmp_path / "gpu", max_steps=5), "--deterministic"])
    assert json.loads((tmp_path / "gpu" / "environment.json").read_text())["device"] != "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train.main(flags(flower_shards, tmp_path / "cpu", max_steps=5))
    np.testing.assert_allclose(losses(tmp_path / "gpu"), losses(tmp_path / "cpu"), rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("config", ["flowers17-arch1", "mnist-pooled"])
def test_mixed_precision_trains_both_update_orders(
    precision: str, config: str, flower_shards: Path, tmp_path: Path
) -> None:
    settings = {"precision": precision, "image_size": 32, "channels": 3, "max_steps": 20}
    file = Path(__file__).parents[1] / "configs" / f"{config}.yaml"
    train.main(flags(flower_shards, tmp_path / "run", config=file, **settings))
    assert len(losses(tmp_path / "run")) == 20
    assert np.isfinite(losses(tmp_path / "run")).all()
