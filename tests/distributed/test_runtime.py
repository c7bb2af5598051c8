"""What a process sets for its kernels before it trains."""

import pytest
import torch

from dcgan_dist.config import ComputeConfig
from dcgan_dist.distributed.runtime import start
from tests import tiny


def kernels() -> dict[str, bool]:
    return {
        "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "autotuned": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def test_kernels_are_fast_or_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fast = {"TF32 in products": True, "TF32 in convolutions": True, "autotuned": True, "deterministic": False}
    try:
        for deterministic in (False, True, False):
            start(ComputeConfig(threads=1, deterministic=deterministic))
            assert kernels() == {name: value is not deterministic for name, value in fast.items()}
    finally:
        tiny.runtime()
