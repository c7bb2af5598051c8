"""Nothing in a step waits for the device: whole steps on torch's device "meta", whose tensors have no values.

There, reading a value that only the device would know is an error (``item``, ``tolist``, ``bool``, a mask as an
index), and so is here a copy to the device that the host would wait for. Kernels and casts of a GPU are left to
test_gpu.py.
"""

import contextlib
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dcgan_dist.config import TrainConfig
from dcgan_dist.gan import Gan
from dcgan_dist.loop import Training
from tests import tiny

META = torch.device("meta")
SMALL: dict[str, Any] = {
    "dtype": "float32",
    "precision": "fp16",
    "ema_decay": 0.9,
    "flip": True,
    "base_channels": 2,
}
RECIPES: dict[str, dict[str, Any]] = {
    "flowers17-arch1": {"dropout": 0.4},
    "flowers17-arch2": {},
    "flowers-dcgan64": {"memory_format": "channels_last"},
    "mnist28": {"precision": "no"},
    "mnist-pooled": {"instance_noise": 0.1, "instance_noise_on": "fakes"},
}
CONFIGS = {
    f"{name}, {update}": tiny.narrow(name, **(SMALL | changes), update=update)
    for name, changes in RECIPES.items()
    for update in ("simultaneous", "alternating")
}


class Copies(TorchDispatchMode):
    """Refuses copies to the device, unless from pinned memory and nobody waits for them."""

    def __init__(self, pinned: list[Tensor]) -> None:
        super().__init__()
        self.pinned = pinned

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        source = target = None
        if function is torch.ops.aten._to_copy.default:
            source, target = args[0], kwargs.get("device")
        elif function is torch.ops.aten.copy_.default:
            source, target = args[1], args[0].device
        if source is not None and source.device.type == "cpu" and target is not None and target.type == "meta":
            is_asynchronous = kwargs.get("non_blocking") and any(source is tensor for tensor in self.pinned)
            if not is_asynchronous:
                raise RuntimeError("the host waits for a copy to the device")
        return function(*args, **kwargs)


class Numbers(TorchFunctionMode):
    """Refuses tensors that are made on the device from the host's numbers, which is a copy inside torch."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and made.device == META:
            raise RuntimeError("the host waits for a copy to the device")
        return made


def update(training: Training, pinned: list[Tensor]) -> dict[str, Tensor]:
    """One step, watched."""
    with Numbers(), Copies(pinned):
        return training.update()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What has been put into pinned memory, once all that needs a real GPU has been replaced."""
    found: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(Gan, "_autocast", lambda gan: contextlib.nullcontext())
    optimizers = import_module("torch.optim.optimizer")  # torch.optim takes the name away
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    monkeypatch.setattr("dcgan_dist.gan.digest", lambda tensors: "")
    return found


def on_meta(config: TrainConfig) -> Training:
    where = tiny.runtime()
    where.device, where.accelerator = META, SimpleNamespace(prepare_model=lambda network: network)
    return tiny.training(config, where)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_step_waits_for_the_device(pinned: list[Tensor], name: str) -> None:
    training = on_meta(CONFIGS[name])
    for step in range(2):
        scalars = update(training, pinned)
        assert {value.device for value in scalars.values()} == {META}
        assert len(pinned) == step + 1  # the numbers of the batch's images, and nothing else


SPOILT: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a number": (lambda loss: loss + loss.item(), "item"),
    "a truth": (lambda loss: loss if loss > 0 else -loss, "bool|item|is_nonzero"),
    "a mask": (lambda loss: loss.expand(3)[loss.expand(3) > 0].mean(), "nonzero"),
    "to the host": (lambda loss: loss + loss.cpu().to(META), "copy out of meta"),
    "to the device": (lambda loss: loss * torch.tensor(2.0, device=META), "the host waits for a copy"),
    "not pinned": (lambda loss: loss * torch.ones(()).to(META, non_blocking=True), "the host waits for a copy"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_step_that_waits_is_found(pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    training = on_meta(CONFIGS["mnist28, simultaneous"])
    loss = training.gan.discriminator_loss
    spoilt, message = SPOILT[how]
    monkeypatch.setattr(training.gan, "discriminator_loss", lambda *logits: spoilt(loss(*logits)))
    with pytest.raises((NotImplementedError, RuntimeError), match=message):
        update(training, pinned)
