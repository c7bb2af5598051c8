"""What needs a CUDA device: `make test-gpu`, meant for five minutes. None of it has been run by the authors yet.

The first GPU is used, and all of them together where there are several.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._dynamo.utils import counters

from dcgan_dist import train
from dcgan_dist.config import DataConfig, NetworkConfig, TrainConfig, changed
from dcgan_dist.data.loader import open_loader
from dcgan_dist.distributed.draws import StepDraws, run_key
from dcgan_dist.distributed.runtime import start as start_process
from dcgan_dist.distributed.runtime import wait_for
from dcgan_dist.loop import Training
from tests import tiny
from tests.shared import REPOSITORY, recipe
from tests.test_train import flags, losses, start

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of drivers and kernels that we have not seen
]

GPUS = torch.cuda.device_count()
GPU = torch.device("cuda", 0)
RECIPES = ("flowers17-arch1", "flowers17-arch2", "flowers-dcgan64", "mnist28", "mnist-pooled")
"""One for each model; both update orders, all optimizers, with and without dropout."""
PRECISIONS = ("no", "bf16", "fp16")


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def training(config: TrainConfig) -> Training:
    """A run of twenty images in memory, on the first GPU."""
    found = tiny.training(config, start_process(config.compute))
    assert found.gan.device.type == "cuda"
    return found


# The same run


def test_draws_are_those_of_the_cpu() -> None:
    here, there = (
        StepDraws(key=run_key(7, device), step=3, batch_size=8, start=2, stop=6, dtype=torch.float32)
        for device in (tiny.CPU, GPU)
    )
    assert torch.equal(there.keys("z").cpu(), here.keys("z"))
    assert torch.equal(there.coins("flip").cpu(), here.coins("flip"))
    for prior in ("normal", "uniform"):
        expected = here.latent("z", 100, prior=prior)
        torch.testing.assert_close(there.latent("z", 100, prior=prior).cpu(), expected, rtol=1e-5, atol=1e-6)


def test_resident_images_are_on_the_device(flower_shards: Path) -> None:
    data = DataConfig(data=str(flower_shards), batch_size=8, loader="resident")
    loader = open_loader(data, NetworkConfig(image_size=32), seed=4, rows=(0, 8), device=GPU)
    assert loader.description.endswith("MiB on cuda:0")
    batch = loader.batch(0)
    assert batch.device == GPU
    np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).cpu().numpy(), loader.read(loader.positions(0)))


def test_a_run_on_a_gpu_is_the_run_on_a_cpu(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = start(flags(flower_shards, tmp_path / "cpu", max_steps=5))
    monkeypatch.undo()
    train.main([*flags(flower_shards, tmp_path / "gpu", max_steps=5), "--deterministic"])
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    devices = [json.loads((tmp_path / run / "environment.json").read_text())["device"] for run in ("cpu", "gpu")]
    assert devices == ["cpu", torch.cuda.get_device_name(GPU)]
    np.testing.assert_allclose(losses(tmp_path / "gpu"), losses(tmp_path / "cpu"), rtol=1e-3)


@pytest.mark.skipif(GPUS < 2, reason=f"needs two CUDA devices for NCCL and SyncBatchNorm, there is {GPUS}")
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_all_gpus_together_give_the_run_of_one(precision: str, flower_shards: Path, tmp_path: Path) -> None:
    settings = {"max_steps": 5, "batch_size": 4 * GPUS, "precision": precision, "image_size": 32, "channels": 3}
    config = REPOSITORY / "configs" / "mnist-pooled.yaml"  # batch norm in both networks
    arguments = {
        processes: [*flags(flower_shards, tmp_path / str(processes), config=config, **settings), "--deterministic"]
        for processes in (1, GPUS)
    }
    train.main(arguments[1])
    output, _ = (job := start(arguments[GPUS], processes=GPUS)).communicate(timeout=120)
    assert job.returncode == 0, output
    assert json.loads((tmp_path / str(GPUS) / "environment.json").read_text())["world_size"] == GPUS
    tolerance = 1e-3 if precision == "no" else 0.05
    np.testing.assert_allclose(losses(tmp_path / str(GPUS)), losses(tmp_path / "1"), rtol=tolerance)


# Mixed precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", RECIPES)
def test_mixed_precision_follows_float32(name: str, precision: str) -> None:
    config = tiny.narrow(name, dtype="float32")
    exact, mixed = training(config), training(changed(config, {"precision": precision}))
    for _ in range(5):
        torch.testing.assert_close(mixed.update(), exact.update(), rtol=0.1, atol=0.1)
    for _ in range(15):
        mixed.update()
    mixed.check()


# Waiting, and CUDA graphs


def updated_without_waiting(run: Training, *, steps: int) -> dict[str, Tensor]:
    """The scalars of the last of some steps; one that waits for the GPU is an error."""
    wait_for(GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(steps):
            scalars = run.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return scalars


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize("name", RECIPES)
def test_no_step_waits_for_the_gpu(name: str, update: str, precision: str) -> None:
    run = training(tiny.narrow(name, dtype="float32", precision=precision, update=update, ema_decay=0.9))
    run.update()  # makes the optimizers' states
    updated_without_waiting(run, steps=3)


def seen(run: Training) -> list[float]:
    """The last step's scalars, and D's score on its fakes now, which is read from what CUDA graphs have left."""
    with torch.no_grad():
        after = run.gan.judge(run._result.fakes, draws=run._result.draws, dropout="dropout_fake").sigmoid().mean()
    return [value.item() for value in (*run._result.scalars.values(), after)]


def recordings() -> tuple[int, int]:
    """How many inputs recorded CUDA graphs copy, which grows with each recording; how many graphs were not recorded."""
    inductor = counters["inductor"]
    return inductor["cudagraph_recorded_non_static_inputs"], inductor["cudagraph_skips"]


@pytest.mark.parametrize(
    ("name", "update"),
    [("flowers17-arch1", "simultaneous"), ("flowers17-arch2", "alternating"), ("mnist-pooled", "alternating")],
)
def test_cuda_graphs_give_the_same_losses(name: str, update: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.narrow(name, dtype="float32", update=update)
    eager, compiled = training(config), training(changed(config, {"compile": True}))
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)  # after the starts, which allow it
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for step in range(1, 6):  # the first warms up, the second records, the others replay
        eager.update()
        compiled.update()
        if step != 4:
            assert seen(compiled) == pytest.approx(seen(eager), rel=1e-3)
    recorded, skipped = recordings()
    assert recorded > 0
    assert skipped == 0
    updated_without_waiting(compiled, steps=5)
    for _ in range(5):
        eager.update()
    assert recordings() == (recorded, 0)
    assert seen(compiled) == pytest.approx(seen(eager), rel=0.01)  # ten steps apart by rounding


# Throughput

COLUMNS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compiled": {"compile": True},
}
TIMED_SECONDS = 1.0


def images_per_second(config: TrainConfig) -> float:
    """Of a recipe as it is; kernels are chosen and graphs recorded before the clock starts."""
    torch._dynamo.reset()
    run = training(config)
    for _ in range(5):
        run.update()
    wait_for(GPU)
    first, begin = run.step, time.perf_counter()
    while time.perf_counter() - begin < TIMED_SECONDS:
        for _ in range(10):
            run.update()
        wait_for(GPU)
    seconds = time.perf_counter() - begin
    run.check()
    return (run.step - first) * config.images.batch_size / seconds


def test_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("recipe", "batch", *COLUMNS, title=f"images a second on one {torch.cuda.get_device_name(GPU)}")
    for name in RECIPES:
        found = [images_per_second(changed(recipe(name), changes)) for changes in COLUMNS.values()]
        table.add_row(name, str(recipe(name).images.batch_size), *(f"{value:,.0f}" for value in found))
    with capsys.disabled():
        Console().print("\n", table)
