"""What a process sets for its kernels and its memory before it trains."""

from types import SimpleNamespace

import pytest
import torch

from dcgan_dist.config import ComputeConfig
from dcgan_dist.distributed import runtime
from dcgan_dist.distributed.node import Node
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


@pytest.mark.parametrize(("wanted", "expected"), [(0, 3), (2, 2)])
def test_threads_are_the_cores_of_this_process_alone(
    wanted: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun may have bound each of two processes of a machine to its own cores; torchrun shares all out."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(runtime, "this_node", lambda: Node((0, 1), 0, 3))
    try:
        start(ComputeConfig(threads=wanted))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(1)
        tiny.runtime()


@pytest.mark.parametrize("has_gpu", [False, True])
def test_freed_memory_is_kept_where_steps_use_it(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    process = SimpleNamespace(device=tiny.CPU, process_index=0, num_processes=1)
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(runtime, "Accelerator", lambda **_: process)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    start(ComputeConfig(threads=1))
    assert kept == ([] if has_gpu else [True])
