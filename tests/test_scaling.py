"""The prediction of benchmarks/scaling.py against hand-worked numbers."""

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.shared import REPOSITORY


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", REPOSITORY / "benchmarks" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_seconds_of_a_step_by_hand(scaling: ModuleType) -> None:
    cluster = scaling.Cluster(
        flops=1e12,
        fewest_seconds=1e-3,
        node_bandwidth=200e9,
        network_bandwidth=25e9,
        call_seconds=20e-6,
        hop_seconds=10e-6,
    )
    step = scaling.Step(flops_per_image=1e9, calls=10, bytes=100_000_000)
    # one node: 0.128 s; 10 calls of 20 us; 2 * 7/8 * 1e8 bytes at 200e9
    assert scaling.step_seconds(step, 8, images_per_gpu=128, cluster=cluster) == pytest.approx((0.128, 2e-4 + 8.75e-4))
    # eight nodes: three doublings, so 50 us a call; 2 * 63/64 * 1e8 bytes at 25e9
    assert scaling.step_seconds(step, 64, images_per_gpu=128, cluster=cluster) == pytest.approx(
        (0.128, 5e-4 + 7.875e-3)
    )
    assert scaling.efficiency(step, 64, images_per_gpu=128, cluster=cluster) == pytest.approx(0.128 / 0.136375)
    small = scaling.Step(flops_per_image=1e3, calls=0, bytes=0)
    assert scaling.step_seconds(small, 8, images_per_gpu=1, cluster=cluster) == (1e-3, 0)
