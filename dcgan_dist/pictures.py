"""Pictures made from a run's own files: curves and histograms, the progress of a fixed z, reals beside fakes."""

import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan_dist.animation import write_animation
from dcgan_dist.files import write_whole
from dcgan_dist.records import Curve, Row, curves, evenly, is_number, read_rows
from dcgan_dist.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAMES = 60
"""At most this many frames in an animation of the run, spread evenly over it: 15 seconds."""
FRAME_MILLISECONDS = 200
LAST_FRAME_MILLISECONDS = 3000
WAY_MILLISECONDS = 50
"""Of each frame on the way between two z: 20 frames a second, about as smooth as GIF players can."""
HISTOGRAMS = 6
"""At most this many steps in histograms.png, spread evenly over the run."""
CAPTION_PIXELS = 24
"""Height of the line above a picture."""

RATIO = "loss/ratio"
"""Drawn in no chart with losses: it has no bound where the generator's loss is small."""
LABELS = {
    "loss/d": "discriminator",
    "loss/g": "generator",
    "score/real": "D(x), real images",
    "score/fake": "D(G(z)), fakes",
    "score/fake_after": "D(G(z)) after D's step",
    RATIO: "discriminator's by generator's",
    "gradient_norm/d": "discriminator",
    "gradient_norm/g": "generator",
}
PANELS = {"loss": "loss", "score": "mean score", "gradient_norm": "gradient norm"}
"""Titles of the curves that share a chart in a picture or page of one run, by the first part of their names."""
HISTOGRAM_LABELS = {"real": "real", "fake": "fake", "held_out": "held-out real"}
"""The counts that a row of histograms.jsonl may have, and what they are of."""


def plot_losses(run: RunDirectory) -> None:
    """Write losses.png: losses, scores and, where there are any, gradient norms over steps; nothing without rows."""
    found = curves(read_rows(run.metrics)[0])
    panels = {label: group for first, label in PANELS.items() if (group := _group(found, first))}
    if not panels:
        return
    figure = _figure(9, 3 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, group) in zip(rows, panels.items(), strict=True):
        _draw(axes, group)
        axes.set_ylabel(label)
        if label == "mean score":
            axes.set_ylim(0, 1)
        if label == "gradient norm" and all(value > 0 for _, values in group.values() for value in values):
            axes.set_yscale("log")
    rows[0].set_title(run.path.name, loc="left", parse_math=False)
    rows[-1].set_xlabel("step")
    _write(run.losses, figure)


def _group(found: dict[str, Curve], first: str) -> dict[str, Curve]:
    """The curves whose names have this first part, with their labels, known ones first."""
    names = [name for name in LABELS if name in found] + [name for name in found if name not in LABELS]
    return {LABELS.get(name, name): found[name] for name in names if name.partition("/")[0] == first and name != RATIO}


def _draw(axes: "Axes", group: dict[str, Curve]) -> None:
    for label, (steps, values) in group.items():
        axes.plot(steps, values, label=label, linewidth=1, marker="." if len(steps) == 1 else None)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=min(4, len(group)), frameon=False)
    axes.grid(alpha=0.3)


def plot_histograms(run: RunDirectory) -> None:
    """Write histograms.png: D's scores on reals, fakes and held-out reals at some steps; nothing without rows."""
    rows = [row for row in read_rows(run.histograms)[0] if histogram_counts(row)]
    if not rows:
        return
    chosen = [rows[i] for i in evenly(len(rows), HISTOGRAMS)]
    figure = _figure(9, 1.5 * len(chosen) + 0.5)
    for axes, row in zip(figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0], chosen, strict=True):
        for name, counts in histogram_counts(row).items():
            share = np.array(counts) / max(1, sum(counts))
            filled = name != "held_out"
            axes.stairs(share, row["edges"], fill=filled, alpha=0.5 if filled else 1, label=HISTOGRAM_LABELS[name])
        axes.set_ylabel(f"step {row['step']:,}")
        axes.set_yticks([])
    figure.axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    figure.axes[0].set_title(run.path.name, loc="left", parse_math=False)
    figure.axes[-1].set_xlabel("score")
    _write(run.histogram_picture, figure)


def histogram_counts(row: Row) -> dict[str, list[float]]:
    """The counts of a row of histograms.jsonl by what they are of; empty when the row does not hold together."""
    edges = row.get("edges")
    if not _numbers(edges) or len(edges) < 2 or any(a >= b for a, b in pairwise(edges)):
        return {}
    counts = {name: row[name] for name in HISTOGRAM_LABELS if name in row}
    whole = all(_numbers(each) and len(each) == len(edges) - 1 and min(each) >= 0 for each in counts.values())
    return counts if whole else {}


def _numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(is_number(value) for value in values)


def _figure(width: float, height: float) -> "Figure":
    """A figure of these inches; matplotlib takes half a second to import."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(  # in inches, all: matplotlib's own layouts take half of the time that the picture takes
        left=0.8 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.35 / height, hspace=0.15
    )
    return figure


def _write(path: Path, figure: "Figure") -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole(path, buffer.getvalue())


def write_progress(run: RunDirectory) -> None:
    """Write progress.gif and progress.webp; nothing without sample grids."""
    if run.sample_grids():
        for path in (run.progress, run.progress_webp):
            animate_samples(run, path)


def animate_samples(run: RunDirectory, path: Path) -> int:
    """Write the sample grids in turn, each with its step, resting on the last, to ``path``; the number of frames.

    Raises:
        ValueError: when the run has no grids, or for an ending that no animation has.
    """
    grids = run.sample_grids()
    if not grids:
        raise ValueError(f"{run.path}: no sample grids here")
    frames = [_captioned(grid, f"step {step:,}") for step, grid in (grids[i] for i in evenly(len(grids), FRAMES))]
    shown = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    write_animation(path, frames, milliseconds=shown)
    return len(frames)


def write_comparison(run: RunDirectory) -> None:
    """Write reals-and-fakes.png: reals.png beside the last sample grid, labelled; nothing when one is not there."""
    grids = run.sample_grids()
    if not grids or not run.reals.exists():
        return
    step, last = grids[-1]
    buffer = io.BytesIO()
    beside([_captioned(run.reals, "real images"), _captioned(last, f"generated, step {step:,}")]).save(buffer, "PNG")
    write_whole(run.comparison, buffer.getvalue())


def _captioned(path: Path, caption: str) -> Image.Image:
    """The picture at ``path`` with a line of text above."""
    with Image.open(path) as picture:
        frame = Image.new("RGB", (picture.width, picture.height + CAPTION_PIXELS), "white")
        frame.paste(picture, (0, CAPTION_PIXELS))
    ImageDraw.Draw(frame).text((6, 4), caption, fill="black", font=ImageFont.load_default(14))
    return frame


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of several, from left to right."""
    whole = Image.new("RGB", (sum(each.width for each in pictures), max(each.height for each in pictures)), "white")
    left = 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width
    return whole


def animate_ways(pixels: Iterable[np.ndarray[Any, Any]], path: Path) -> None:
    """Write pictures, (H, W, 3) uint8 each, to ``path`` as an animation there and back, so that it never jumps."""
    frames = [Image.fromarray(each) for each in pixels]
    frames += frames[-2:0:-1]
    write_animation(path, frames, milliseconds=[WAY_MILLISECONDS] * len(frames))
