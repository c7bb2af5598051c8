"""Where a step's time goes, and how near it comes to what the machine can do.

    python -m benchmarks.parts [RECIPE ...]

Every recipe trains alone on all cores with torch's profiler around it; operations are sorted into parts by their names.
The share of the limit is the operations a second of convolutions and matrix products in a whole step, over those of
plain matrix products of the same type, which are measured before the recipes.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.sides import in_turns
from benchmarks.steps import CONFIGS, GEMM_FLOPS, config_of, flops_of, gemm, training_of

PARTS = {
    "convolutions, forward": ("aten::mkldnn_convolution", "aten::_convolution", "aten::convolution_overrideable"),
    "convolutions, backward": ("aten::convolution_backward",),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear", "mkldnn::_linear"),
    "batch norm": ("aten::native_batch_norm", "aten::native_batch_norm_backward", "aten::batch_norm"),
    "activations": ("aten::leaky_relu", "aten::threshold", "aten::relu", "aten::clamp_min", "aten::tanh", "aten::sigm"),
    "optimizer": ("Optimizer.", "aten::_fused_adam_", "aten::_foreach"),
    "random draws": ("aten::_philox",),
    "copies and padding": ("aten::copy_", "aten::cat", "aten::constant_pad", "aten::fill_", "aten::pixel_shuffle"),
}
"""Beginnings of operations' names; what fits none is the rest: sums, losses, Python, the engine of autograd."""
STEPS, SECONDS = 40, 12.0
"""At most, of a recipe."""


@dataclass(frozen=True)
class Profile:
    """What a step of a recipe does."""

    recipe: str
    seconds: float
    """Of a step, median, without the profiler."""
    shares: dict[str, float]
    """Of the profiled time, by part; "rest" too."""
    flops: int
    peak: float
    """Operations a second of plain matrix products."""

    def row(self) -> str:
        """Of the table, in Markdown."""
        achieved = self.flops / self.seconds
        cells = " | ".join(f"{share:.0%}" for share in self.shares.values())
        return (
            f"| `{self.recipe}` | {self.seconds * 1e3:.0f} | {self.flops / 1e9:.1f} | {achieved / 1e9:.0f} | "
            f"{achieved / self.peak:.0%} | {cells} |"
        )


def header() -> str:
    """Of the table, in Markdown."""
    names = " | ".join([*PARTS, "rest"])
    return f"| recipe | ms | GFLOP | GFLOP/s | of GEMM's | {names} |\n| --- |" + " ---: |" * (5 + len(PARTS))


def measure(recipe: str, *, precision: str, peak: float) -> Profile:
    """Train a recipe for some seconds, then again under the profiler."""
    config = config_of(recipe, precision)
    training = training_of(config)
    seconds: list[float] = []
    for _ in range(3):
        training.update()
    while len(seconds) < STEPS and sum(seconds) < SECONDS:
        begin = time.perf_counter()
        training.update()
        seconds.append(time.perf_counter() - begin)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(max(2, len(seconds) // 4)):
            training.update()
    spent = dict.fromkeys([*PARTS, "rest"], 0.0)
    for event in profiler.key_averages():
        part = next((name for name, starts in PARTS.items() if event.key.startswith(starts)), "rest")
        spent[part] += event.self_cpu_time_total
    whole = sum(spent.values())
    shares = {name: value / whole for name, value in spent.items()}
    return Profile(recipe, statistics.median(seconds), shares, flops_of(config), peak)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each type."""
    parser = argparse.ArgumentParser("benchmarks.parts", description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help="default: all but the grey and the synthetic one")
    arguments = parser.parse_args(argv)
    recipes = arguments.recipes or [
        path.stem for path in sorted(CONFIGS.glob("*.yaml")) if "gray" not in path.stem and "synthetic" not in path.stem
    ]
    for precision, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        timed = in_turns({"gemm": (gemm, (dtype,))}, turns=5, pieces=1)
        peak = GEMM_FLOPS / timed.median("gemm")
        print(f"\n{str(dtype).removeprefix('torch.')}: GEMM {peak / 1e9:.0f} GFLOP/s\n\n{header()}")
        for recipe in recipes:
            print(measure(recipe, precision=precision, peak=peak).row(), flush=True)


if __name__ == "__main__":
    main()
