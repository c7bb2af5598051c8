"""Pictures made from a run's own files: losses.png from metrics.jsonl, progress.gif from the sample grids."""

import io
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dcgan_dist.files import write_whole
from dcgan_dist.run_directory import RunDirectory

FRAMES = 60
"""At most this many frames in progress.gif, spread evenly over the run."""


def plot_losses(run: RunDirectory) -> None:
    """Write losses.png: both losses, and D's mean score on reals and fakes, over steps."""
    from matplotlib.figure import Figure  # takes half a second to import

    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, scores = figure.subplots(2, 1, sharex=True)
    for axes, names in (
        (losses, {"loss/d": "discriminator", "loss/g": "generator"}),
        (scores, {"score/real": "D(x), real images", "score/fake": "D(G(z)), fakes"}),
    ):
        for name, label in names.items():
            axes.plot(steps, [row[name] for row in rows], label=label, linewidth=1)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        axes.grid(alpha=0.3)
    losses.set_ylabel("loss")
    losses.set_title(run.path.name, loc="left")
    scores.set(xlabel="step", ylabel="mean score", ylim=(0, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole(run.losses, buffer.getvalue())


def write_progress(run: RunDirectory) -> None:
    """Write progress.gif: the sample grids in turn, each with its step, resting on the last."""
    grids = run.sample_grids()
    if not grids:
        return
    last = len(grids) - 1
    chosen = (
        sorted({round(i * last / max(1, FRAMES - 1)) for i in range(FRAMES)}) if last >= FRAMES else range(last + 1)
    )
    frames = [_captioned(step, path) for step, path in (grids[i] for i in chosen)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[200] * (len(frames) - 1) + [3000],  # milliseconds
        loop=0,
    )
    write_whole(run.progress, buffer.getvalue())


def _captioned(step: int, path: Path) -> Image.Image:
    """A sample grid with its step written above, in 256 colours of its own."""
    with Image.open(path) as grid:
        frame = Image.new("RGB", (grid.width, grid.height + 24), "white")
        frame.paste(grid, (0, 24))
    ImageDraw.Draw(frame).text((6, 4), f"step {step:,}", fill="black", font=ImageFont.load_default(14))
    return frame.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
