"""How each measure of collapse answers to failures made on purpose, and what it costs; Markdown tables for docs.

    python -m benchmarks.collapse 17flowers.tgz MNIST_DIRECTORY --scratch /tmp/collapse --picture nearest.png
    python -m benchmarks.collapse ... --runs runs/flowers17-arch1-001     # also the generators of a run's checkpoints

Failures are made of real images: held-out ones, which nothing was fitted to, or images of the whole data, of which no
one comes twice unless that is the failure. A sample made from an image is not taken for a copy of that one, unless
the failure is to copy.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dcgan_dist import checkpoint, shard
from dcgan_dist.collapse.colours import brightness_points, colour_points
from dcgan_dist.collapse.flowers import flower_modes
from dcgan_dist.collapse.picture import nearest_picture
from dcgan_dist.collapse.pixels import Doubles, Integers, Pixels
from dcgan_dist.collapse.reference import Reference, fit, measure
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.shards import read_images, read_index
from dcgan_dist.data.synthetic import MODES, draw_flower
from dcgan_dist.images import grid, write_png
from dcgan_dist.sampling import sample_pixels
from dcgan_dist.trained import of_checkpoint

COLUMNS = {
    "score": "score",
    "ndb": "NDB/k",
    "bins_js": "bins JS",
    "colour_modes": "colour modes",
    "colour_js": "colour JS",
    "msssim": "MS-SSIM",
    "duplicates": "duplicates",
    "copies": "copies",
    "data_distance": "distance",
    "sharpness": "sharpness",
    "flower_modes": "flower modes",
    "flower_kl": "flower KL",
    "flower_unknown": "no flower",
}
DRAWN = 4096
"""Synthetic images: a half of them is held out, 1,024 for the floors and 1,024 for the control."""
RULE_FLOWERS = 3000
COSTS = ((28, 1024), (32, 256), (32, 1024), (32, 4096), (64, 1024), (64, 2048), (64, 4096))
"""Side of an image, pixels, and number of samples."""


@dataclass(frozen=True)
class Case:
    """Samples that fail in one way."""

    name: str
    samples: Pixels
    rows: Integers | None = None
    """Of the images they were made from."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers17", type=Path, help="17flowers.tgz")
    parser.add_argument("mnist", type=Path, help="directory of MNIST's files")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for shards; kept")
    parser.add_argument("--picture", type=Path, help="PNG: noisy copies of synthetic flowers beside their nearest")
    parser.add_argument("--cases", type=Path, help="directory for a PNG of each case")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="runs whose checkpoints are measured")
    parser.add_argument("--costs", action="store_true", help="only costs, and how often the rule for flowers is right")
    arguments = parser.parse_args(argv)
    drawn = arguments.scratch / "synthetic-32"
    flowers, mnist = arguments.scratch / "flowers17-32", arguments.scratch / "mnist-28"
    for name, source, out, size in (
        ("flowers17", [str(arguments.flowers17)], flowers, 32),
        ("synthetic", ["--count", str(DRAWN)], drawn, 32),
        ("mnist", [str(arguments.mnist), "--gray"], mnist, 28),
    ):
        shard.main([name, *source, "--out", str(out), "--size", str(size), "--quiet"])
    if arguments.costs:
        print_costs()
        print_rule()
        return
    for title, directory in (("Flowers-17", flowers), ("synthetic", drawn), ("MNIST", mnist)):
        print_answers(
            title, directory, picture=arguments.picture if directory == drawn else None, cases=arguments.cases
        )
    for run in arguments.runs:
        print_run(run)


def print_answers(title: str, directory: Path, *, picture: Path | None, cases: Path | None) -> None:
    """One row a failure, one column a measure."""
    index = read_index(directory)
    data = read_images(index)
    reference = fit(data, drawn=index.contents.settings.source == "synthetic")
    print(f"\n{title}: {len(data):,} images of {data.shape[1]} px, {reference.samples} samples, ", end="")
    print(f"{len(reference.bins.counts)} bins, {len(reference.colours.counts)} colour modes\n")
    header(["samples"], reference)
    row("floor", reference.floors)
    for case in failures(data, index.labels, reference):
        measures = measure(case.samples, reference, rows=case.rows)
        row(case.name, shortened(measures))
        if cases is not None:
            name = f"{title}-{case.name}".replace(" ", "-").replace(",", "").lower()
            write_png(cases / f"{name}.png", grid(case.samples[:64]))
        if picture is not None and "noise of 20" in case.name:
            write_png(picture, nearest_picture(case.samples, reference, data=data.__getitem__, rows=6))


def print_run(run: Path) -> None:
    """One row a checkpoint."""
    reference: Reference | None = None
    for path in sorted((run / "checkpoints").glob("step-*")):
        found = checkpoint.find(path)
        config = checkpoint.config_of(found)
        if reference is None:
            index = read_index(Path(config.images.data))
            drawn = index.contents.settings.source == "synthetic"
            reference = fit(read_images(index), drawn=drawn, flip=config.images.flip)
            print(f"\n{run.name}: {config.recipe} on {index.contents.settings.name}\n")
            header(["step"], reference)
            row("floor", reference.floors)
        samples = sample_pixels(
            of_checkpoint(found), range(reference.samples), seed=config.seed, network=config.network
        )
        row(f"{found.step:,}", shortened(measure(samples, reference)))


def print_costs() -> None:
    """Seconds to fit 8,192 images, to measure samples, and more of them when the modes of ``synthetic`` are counted."""
    print("\n| side, px | samples | fit, s | reference, MB | measure, s | flower modes, s |")
    print("| ---: |" + " ---: |" * 5)
    for side, count in COSTS:
        flowers = np.stack([draw_flower(index, seed=0, size=side)[0] for index in range(1024)])
        data = np.concatenate([shifted(flowers, amount=2, seed=seed) for seed in range(8)])
        begin = time.perf_counter()
        reference = fit(data, samples=count)
        fitted = time.perf_counter() - begin
        megabytes = len(reference.to_bytes()) / 1e6
        measured = fastest(partial(measure, data[:count], reference))
        counted = fastest(partial(flower_modes, data[:count]))
        print(f"| {side} | {count:,} | {fitted:.1f} | {megabytes:.1f} | {measured:.2f} | {counted:.2f} |")


def print_rule() -> None:
    """How often the rule for the modes of ``synthetic`` is right, on flowers it was not adjusted to."""
    print("\n| side, px | flowers | mode, % | colour, % | petals, % | shape, % | worst mode, % |")
    print("| ---: |" + " ---: |" * 6)
    for side in (28, 32, 64):
        drawn = [draw_flower(index, seed=11, size=side) for index in range(RULE_FLOWERS)]
        labels = np.array([label for _, label in drawn])
        found = flower_modes(np.stack([image for image, _ in drawn]))
        shares = [np.mean(found == labels)]
        shares += [np.mean(found // by % many == labels // by % many) for by, many in ((6, 5), (2, 3), (1, 2))]
        shares.append(min(np.mean(found[labels == mode] == mode) for mode in range(len(MODES))))
        print(f"| {side} | {len(drawn):,} | " + " | ".join(f"{100 * share:.2f}" for share in shares) + " |")


def fastest(action: Callable[[], object]) -> float:
    """Seconds, the least of three times."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return min(times)


def header(first: list[str], reference: Reference) -> None:
    """The head of a table."""
    names = first + [COLUMNS[name] for name in COLUMNS if name == "score" or name in reference.floors]
    print("| " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * (len(names) - 1))


def row(name: str, values: dict[str, float]) -> None:
    """A row of a table."""
    cells = [cell(short, values.get(short)) for short in COLUMNS if short == "score" or short in values]
    print(f"| {name} | " + " | ".join(cells) + " |")


def cell(short: str, value: float | None) -> str:
    """A number with as many digits as it deserves."""
    if value is None:
        return ""
    if short == "data_distance":
        return f"{value:.1f}"
    return f"{value:.0f}" if short in ("flower_modes", "sharpness") else f"{value:.3f}"


def shortened(measures: dict[str, float]) -> dict[str, float]:
    """Measures by the keys of COLUMNS, without floors."""
    names = [name for name in measures if not name.endswith("_floor")]
    return {
        short: measures[name]
        for short in COLUMNS
        for name in names
        if name.removeprefix("collapse/").rsplit("_n", 1)[0].startswith(short)
    }


def failures(data: Pixels, labels: Integers, reference: Reference) -> list[Case]:
    """The cases, the control first."""
    n, half = reference.samples, len(reference.rows) // 2
    fitted, held_out = reference.rows[:half], reference.rows[half:]
    unseen = held_out[n:] if len(held_out) >= 2 * n else held_out  # the floors are of the first n
    control = chosen("held-out (control)", data, unseen, n, mirrored_only=len(unseen) == len(held_out))
    random = np.random.default_rng(1)
    colour = points(data[reference.rows], reference)
    centres, shares = reference.colours.centres, reference.colours.shares
    nearest_mode = ((colour[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    every_other = np.argsort(-shares)[::2]
    near_one = np.argsort(((colour - centres[shares.argmax()]) ** 2).sum(axis=1))[: (n + 1) // 2]
    classes = np.unique(labels)
    few = fitted[np.arange(n) % 16]
    noise = random.normal(0, 20, (n, *reference.shape))
    return [
        control,
        chosen(f"one {kind(reference)} only", data, reference.rows[near_one], n),
        chosen(f"half of the {kind(reference)} modes", data, reference.rows[np.isin(nearest_mode, every_other)], n),
        chosen("half of the classes", data, np.flatnonzero(np.isin(labels, classes[::2])), n),
        Case("16 images of the data", data[few]),
        Case("16 images, moved up to 2 px, noise of 10", noisy(shifted(data[few], amount=2, seed=0), noise / 2)),
        Case("copies of the data", data[fitted[:n]]),
        Case("copies with noise of 20", noisy(data[fitted[:n]], noise)),
        Case("uniform noise", random.integers(0, 256, (n, *reference.shape), np.uint8)),
        Case("Gaussian of the data's mean and covariance", gaussian(data[fitted], n, random)),
        Case("held-out, blurred by 1 px", blurred(control.samples, 1), control.rows),
        Case("held-out, blurred by 2 px", blurred(control.samples, 2), control.rows),
        Case("one image", data[np.repeat(fitted[:1], n)]),
    ]


def kind(reference: Reference) -> str:
    """What the colour modes are modes of."""
    return "brightness" if reference.grey else "colour"


def points(pixels: Pixels, reference: Reference) -> Doubles:
    """Colours of images."""
    return brightness_points(pixels) if reference.grey else colour_points(pixels)


def chosen(name: str, data: Pixels, rows: Integers, count: int, *, mirrored_only: bool = False) -> Case:
    """Some of these images, in random order, and where they are too few, mirrored ones too (or mirrored ones only)."""
    rows = rows[permutation(len(rows), 3)]
    mirrored = np.ascontiguousarray(data[rows][:, :, ::-1])
    images = mirrored if mirrored_only else np.concatenate([data[rows], mirrored])
    assert len(images) >= count
    return Case(name, images[:count], np.tile(rows, 2)[:count])


def noisy(pixels: Pixels, noise: Doubles) -> Pixels:
    """Images with noise added, grey levels."""
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def shifted(pixels: Pixels, *, amount: int, seed: int) -> Pixels:
    """Each image moved by up to ``amount`` pixels either way, its edge repeated."""
    random = np.random.default_rng(seed)
    moves = random.integers(0, 2 * amount + 1, (len(pixels), 2))
    padded = np.pad(pixels, ((0, 0), (amount, amount), (amount, amount), (0, 0)), mode="edge")
    height, width = pixels.shape[1:3]
    return np.stack(
        [image[y : y + height, x : x + width] for image, (y, x) in zip(padded, moves.tolist(), strict=True)]
    )


def gaussian(pixels: Pixels, count: int, random: np.random.Generator) -> Pixels:
    """Draws from the normal distribution with the images' mean and covariance."""
    flat = pixels.reshape(len(pixels), -1) / 1.0
    variances, axes = np.linalg.eigh(np.cov(flat.T))
    draws = random.standard_normal((count, len(variances))) * np.sqrt(np.maximum(variances, 0)) @ axes.T
    return noisy(flat.mean(axis=0), draws).reshape(count, *pixels.shape[1:])


def blurred(pixels: Pixels, deviation: float) -> Pixels:
    """Images under a Gaussian of this standard deviation, pixels."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), deviation).reshape(image.shape) for image in pixels])


if __name__ == "__main__":
    main()
