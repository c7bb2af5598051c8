"""What each of our changes brings: ``python -m benchmarks.changes [CASE ...]``, steps with one of them taken back.

Every side is the trainer's step in float32, all changes but one in it, and takes turns with the step that has them
all. That is the number of a change beside the others; alone, before the others, it may have brought more or less.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import steps
from benchmarks.sides import Setup, Work, in_turns
from dcgan_dist import gan
from dcgan_dist.config import changed
from dcgan_dist.distributed import runtime
from dcgan_dist.models import layers

CASES = {**steps.CASES, "flowers_arch2": steps.Case("flowers17-arch2", "", batch_size=56, pieces=3)}


def _all_gradients(player: gan.Player, loss: Tensor, *, retain_graph: bool = False) -> None:
    """In place of ``Player.backward``: gradients of both networks, of which one uses its own."""
    player.optimizer.zero_grad(set_to_none=True)
    loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]


def _judge(of: gan.Gan, images: Tensor, *, draws: Any, dropout: str = "dropout_judge") -> Tensor:
    """In place of ``Gan.judge``: a pass of D like any other."""
    return of.discriminate(images, draws=draws, dropout=dropout)


def _upsampled(layer: nn.ConvTranspose2d, features: Tensor) -> Tensor:
    """In place of the sub-pixel form: the larger map, and a convolution over it."""
    return F.conv_transpose2d(F.interpolate(features, scale_factor=2), layer.weight, layer.bias, padding=2)


def _loops(network: nn.Module, optim: Any, *, lr: float) -> torch.optim.Optimizer:
    """In place of the fused optimizers: operation after operation, parameter after parameter."""
    betas = (optim.beta1, optim.beta2)
    return torch.optim.Adam(network.parameters(), lr, betas=betas, eps=optim.epsilon, foreach=False, fused=False)


Patch = tuple[object, str, Callable[..., object]]
CHANGES: dict[str, Sequence[Patch]] = {
    "memory that is freed is kept": [(runtime, "keep_freed_memory", lambda: None)],
    "channels_last": [],
    "no gradient that nobody uses": [(gan.Player, "backward", _all_gradients), (gan.Gan, "judge", _judge)],
    "fused optimizers": [(gan, "_optimizer", _loops)],
    "kernels that cover their map as matrix products": [
        (layers.CoveringConv2d, "forward", nn.Conv2d.forward),
        (layers.CoveringConvTranspose2d, "forward", nn.ConvTranspose2d.forward),
    ],
    "upsampling as sub-pixel convolution": [(layers.UpsampledConvTranspose2d, "forward", _upsampled)],
}
"""What is put in place of each; channels_last is a setting."""


def step_without(case: steps.Case, changes: Sequence[str]) -> Work:
    """The trainer's step, these changes taken back; the process is not for anything else."""
    patches = ExitStack()
    for change in changes:
        for owner, name, former in CHANGES[change]:
            patches.enter_context(mock.patch.object(owner, name, former))
    config = case.config()
    if "channels_last" in changes:
        config = changed(config, {"memory_format": "contiguous"})
    training = steps.training_of(config)

    def step() -> None:
        training.update()

    return step


def rows(name: str, *, turns: int) -> list[str]:
    """Of the table, in Markdown."""
    case = CASES[name]
    sides: dict[str, tuple[Setup, tuple[object, ...]]] = {"all": (step_without, (case, []))}
    has_upsampling = name == "flowers_arch2"
    tried = [change for change in CHANGES if has_upsampling or not change.startswith("upsampling")]
    sides |= {change: (step_without, (case, [change])) for change in tried}
    sides["all of these"] = (step_without, (case, tried))
    timed = in_turns(sides, turns=turns, pieces=max(1, case.pieces // 2))
    found = []
    for change in [*tried, "all of these"]:
        ratios = timed.ratios(change, "all")
        found.append(
            f"| {name} | {change} | {timed.median(change) * 1e3:.1f} | {timed.median('all') * 1e3:.1f} | "
            f"**{timed.ratio(change, 'all'):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    return found


HEADER = [
    "| networks | change | ms without it | ms with it | times the pace (least to most) |",
    "| --- | --- | ---: | ---: | ---: |",
]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("benchmarks.changes", description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args(argv)
    print("\n".join(HEADER))
    for name in arguments.cases or CASES:
        print("\n".join(rows(name, turns=arguments.turns)), flush=True)


if __name__ == "__main__":
    main()
