"""Tables and pictures of docs/studies, from the runs of sweeps: ``python -m benchmarks.studies RUNS [SWEEP...]``.

For each sweep of configs/sweeps that has finished runs in RUNS, or for those named: Markdown on standard output, and
a plot and a picture of samples in docs/studies/images. With --budget, what the studies cost instead: runs, steps, and
hours of one run after the other by the quickest of the runs that are done, as the machine may have had other work.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from dcgan_dist.cli import read_yaml
from dcgan_dist.pictures import histogram_counts
from dcgan_dist.results.comparison import verdict
from dcgan_dist.results.sweep_summary import Summary, SweepMeasure, summarise
from dcgan_dist.results.trials import Setting
from dcgan_dist.sweeps.file import read_sweep
from dcgan_dist.sweeps.points import config_of, progress_of

MEASURES = {
    "eval/kid": "KID",
    "eval/fid": "FID",
    "eval/precision": "precision",
    "eval/recall": "recall",
    "eval/coverage": "coverage",
    "collapse/score": "collapse",
    "collapse/ndb": "NDB/k",
    "collapse/colour_modes": "colour modes",
    "collapse/colour_js": "colour JS",
    "collapse/msssim": "MS-SSIM",
    "collapse/sharpness": "sharpness",
    "score/real": "D(x)",
    "score/fake": "D(G(z))",
    "loss/d": "loss of D",
    "loss/g": "loss of G",
}
"""What the tables show, by the beginning of a name."""
IMAGES = Path("docs/studies/images")
SWEEPS = Path("configs/sweeps")
GRID_ROWS = 8
"""Of a sample grid of 64 images."""
ROWS_SHOWN = 3
GAP, CAPTION = 6, 16  # pixels


def main(argv: Sequence[str] | None = None) -> None:
    """Write what the studies' pages show; see ``--help``."""
    parser = argparse.ArgumentParser("benchmarks.studies", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, metavar="RUNS", help="directory of the sweeps' directories")
    parser.add_argument(
        "sweeps", nargs="*", metavar="SWEEP", help="names (default: all that begin with c and a number)"
    )
    parser.add_argument("--budget", action="store_true", help="what the studies cost, and nothing else")
    parser.add_argument("--step", type=int, help="compare after so many steps")
    parser.add_argument("--images", type=int, help="compare after so many real images")
    arguments = parser.parse_args(argv)
    mpl.use("agg")
    IMAGES.mkdir(parents=True, exist_ok=True)
    names = arguments.sweeps or sorted(path.stem for path in SWEEPS.glob("c[0-9][0-9]_*.yaml"))
    if arguments.budget:
        print(budget(names, arguments.runs))
        return
    for name in names:
        try:
            summary = summarise(
                read_sweep(SWEEPS / f"{name}.yaml"), arguments.runs, step=arguments.step, images=arguments.images
            )
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(f"\n## {name}\n")
        print(table(summary))
        if arguments.step is None and arguments.images is None:
            curves(summary, IMAGES / f"{name}.png")
            samples(summary, IMAGES / f"{name}-samples.webp")
            if summary.metric.name.startswith("score/"):
                print(f"\n{score_table(summary)}")
                score_histograms(summary, IMAGES / f"{name}-scores.png")


def budget(names: Sequence[str], runs: Path) -> str:
    """Markdown: steps x seconds x runs of each study, as far as runs of its recipes and batches are done."""
    paces: dict[tuple[str, int], list[float]] = {}
    for path in runs.glob("*/*/config.yaml"):
        settings, found = read_yaml(path), progress_of(path.parent, {})
        if found.pace:
            paces.setdefault((settings["recipe"], settings["batch_size"]), []).append(found.pace)
    lines = ["| study | runs | steps a run | seconds a step | hours |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in names:
        sweep = read_sweep(SWEEPS / f"{name}.yaml")
        configs = [config_of(sweep.point(index)) for index in range(sweep.count)]
        steps = [config.max_steps for config in configs]
        pace = [paces.get((config.recipe, config.images.batch_size)) for config in configs]
        seconds = [min(each) if each else None for each in pace]
        known = [(n, each) for n, each in zip(steps, seconds, strict=True) if n and each]
        hours = f"{sum(n * each for n, each in known) / 3600:.1f}" if len(known) == len(configs) else "not timed"
        range_of = sorted(each for _, each in known)
        told = f"{range_of[0]:.3f} to {range_of[-1]:.3f}" if known else ""
        lengths = " or ".join(sorted({f"{n:,}" if n else "epochs" for n in steps}))
        lines.append(f"| {name} | {len(configs)} | {lengths} | {told} | {hours} |")
    return "\n".join(lines)


def chosen(summary: Summary) -> list[tuple[str, SweepMeasure]]:
    """The measures of the table with their headings."""
    found = []
    for start, title in MEASURES.items():
        for measure in summary.measures:
            if measure.name == start or measure.name.startswith(f"{start}_"):
                found.append((title, measure))
                break
    return found


def table(summary: Summary) -> str:
    """Markdown: a row for each measure, a column for each trained setting, the baseline first, then the floor."""
    trained = [each for each in summary.settings if summary.trials_of(each)]
    others = [each for each in trained if each.place != summary.baseline.place]
    settings = [summary.baseline, *others]
    lines = [
        "| measure | " + " | ".join(_title(each, summary) for each in settings) + " | floor |",
        "| --- |" + " ---: |" * (len(settings) + 1),
    ]
    for title, measure in chosen(summary):
        at = f" at {measure.at:,}" if measure.at is not None and measure is summary.metric else ""
        cells = [_cell(measure, each) for each in settings]
        floor = "" if measure.floor is None else f"{measure.floor:.3g}"
        lines.append(f"| {title}{at} | " + " | ".join(cells) + f" | {floor} |")
    return "\n".join(lines)


def _title(setting: Setting, summary: Summary) -> str:
    return f"{_name(setting)} (n = {len(summary.trials_of(setting))})"


def _name(setting: Setting) -> str:
    """A setting for people; those of ``set`` as they are written, recipes by their names."""
    told = []
    for name, value in setting.values.items():
        if name == "set":
            told += [str(value)] if value else []
        elif name == "config":
            told.append(Path(str(value)).stem)
        else:
            told.append(f"{name} {value}")
    return ", ".join(told) or "as the recipe"


def _cell(measure: SweepMeasure, setting: Setting) -> str:
    """Mean and half-width; then what the comparison says, where it says more than that no difference is shown."""
    cell = measure.cells[setting.place]
    if cell is None:
        return ""
    half = cell.estimate.half_width
    said = verdict(cell.comparison, measure.better) if cell.comparison else ""
    if said.startswith(("no difference", "not tested")):
        said = ""
    return _number(cell.estimate.mean, half) + (f"; **{said}**" if said else "")


def _number(mean: float, half_width: float | None) -> str:
    """As many decimals as the interval has meaning for."""
    if half_width is None:
        return f"{mean:.4g}"
    if half_width == 0:
        return f"{mean:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(half_width)))
    return f"{mean:,.{decimals}f} ± {half_width:,.{decimals}f}"


def curves(summary: Summary, path: Path) -> None:
    """The sweep's metric and the collapse score against steps: a thin line a run, a colour a setting."""
    wanted = [measure for _, measure in chosen(summary) if measure.name.startswith(("eval/kid", "collapse/score"))]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for place, measure in enumerate(wanted, start=1):
        axes = figure.add_subplot(1, len(wanted), place)
        for setting in summary.settings:
            for number, trial in enumerate(summary.trials_of(setting)):
                assert trial.run is not None
                steps, values = trial.run.curves.get(measure.name, ([], []))
                label = _name(setting) if number == 0 else None
                axes.plot(steps, values, ".-", color=f"C{setting.place}", linewidth=0.9, label=label)
        axes.set_xlabel("step")
        axes.set_title(measure.name, fontsize=9)
        if place == 1:
            figure.legend(fontsize=7, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


def score_table(summary: Summary) -> str:
    """Markdown: what D says at the end, all seeds together; percentiles to the width of a bin of the histograms."""
    lines = ["| setting | of | 5 % | median | 95 % | above 0.9 |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for setting in summary.settings:
        for name, (edges, shares) in _scores(summary, setting).items():
            total = shares.cumsum()
            marks = [edges[np.searchsorted(total, level) + 1] for level in (0.05, 0.5, 0.95)]
            above = shares[edges[:-1] >= 0.9 - 1e-9].sum()
            cells = " | ".join(f"{mark:.2f}" for mark in marks)
            lines.append(f"| {_name(setting)} | {name} | {cells} | {above:.0%} |")
    return "\n".join(lines)


def score_histograms(summary: Summary, path: Path) -> None:
    """D's scores on reals and fakes at the end, a panel for each setting, all seeds together."""
    figure = Figure(figsize=(4.5 * len(summary.settings), 2.8), layout="constrained")
    for setting in summary.settings:
        axes = figure.add_subplot(1, len(summary.settings), setting.place + 1)
        for name, (edges, shares) in _scores(summary, setting).items():
            axes.stairs(shares, edges, fill=True, alpha=0.5, label=name)
        axes.set_title(_name(setting), fontsize=9)
        axes.set_xlabel("D's score")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _scores(summary: Summary, setting: Setting) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Edges of bins and shares in them of D's scores on reals and fakes, in the last row of each seed's histograms."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for trial in summary.trials_of(setting):
        if trial.run and trial.run.histograms:
            row = trial.run.histograms[-1]
            for name, counts in histogram_counts(row).items():
                _, before = found.get(name, (None, np.zeros(len(counts))))
                found[name] = np.array(row["edges"]), before + np.array(counts)
    return {name: (edges, counts / counts.sum()) for name, (edges, counts) in found.items()}


def samples(summary: Summary, path: Path) -> None:
    """The first rows of the last sample grids: a line for each setting, a block for each seed; no reals."""
    lines: list[tuple[str, list[Image.Image]]] = []
    for setting in summary.settings:
        runs = [trial.run for trial in summary.trials_of(setting) if trial.run]
        if blocks := [_first_rows(run.grids[-1][1]) for run in runs if run.grids]:
            lines.append((_name(setting), blocks))
    width = max(sum(block.width + GAP for block in blocks) for _, blocks in lines)
    sheet = Image.new("RGB", (width, sum(max(b.height for b in blocks) + CAPTION for _, blocks in lines)), "white")
    top = 0
    for name, blocks in lines:
        ImageDraw.Draw(sheet).text((2, top + 2), name, fill="black")
        for place, block in enumerate(blocks):
            sheet.paste(block, (place * (block.width + GAP), top + CAPTION))
        top += max(block.height for block in blocks) + CAPTION
    sheet.save(path, quality=85, method=6)


def _first_rows(path: Path) -> Image.Image:
    """The first rows of a square grid, half as large."""
    grid = Image.open(path).convert("RGB")
    return grid.crop((0, 0, grid.width, round(grid.height * ROWS_SHOWN / GRID_ROWS))).reduce(2)


if __name__ == "__main__":
    main()
