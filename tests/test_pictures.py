"""losses.png and progress.gif from a run's own files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dcgan_dist.images import write_png
from dcgan_dist.pictures import plot_histograms, plot_losses, write_comparison, write_progress
from dcgan_dist.run_directory import RunDirectory


def run_with_losses(path: Path, losses: list[float]) -> RunDirectory:
    run = RunDirectory(path)
    rows = [
        {"step": 10 * number, "loss/d": loss, "loss/g": 2.0, "score/real": 0.7, "score/fake": 0.3, "time/step": 1.0}
        for number, loss in enumerate(losses, start=1)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def picture(run: RunDirectory) -> np.ndarray:
    plot_losses(run)
    with Image.open(run.losses) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Where something that is not grey was drawn, (H, W) bool."""
    return np.asarray(np.ptp(pixels, axis=2) > 60)


def test_losses_are_drawn(tmp_path: Path) -> None:
    pixels = picture(run_with_losses(tmp_path, [1.0, 3.0, 0.5, 2.5]))
    assert pixels.shape == (660, 990, 3)  # 9 x 6 inches at 110 dots
    drawn = coloured(pixels)
    assert 0.002 < drawn.mean() < 0.1
    top, bottom = drawn[:330], drawn[330:]
    assert top.sum() > 1000  # two curves in each of two diagrams
    assert bottom.sum() > 1000
    columns = np.flatnonzero(drawn.any(axis=0))
    assert columns[-1] - columns[0] > 700  # over the whole width
    assert (pixels == 255).all(axis=2).mean() > 0.7


def test_other_losses_give_another_picture(tmp_path: Path) -> None:
    one = picture(run_with_losses(tmp_path, [1.0, 3.0, 0.5, 2.5]))
    other = picture(run_with_losses(tmp_path, [1.0, 0.5, 3.0, 2.5]))
    changed = (one != other).any(axis=2)
    assert changed[:330].any()
    assert not changed[380:].any()  # the scores are the same


def test_the_ratio_of_losses_does_not_flatten_them(tmp_path: Path) -> None:
    run = run_with_losses(tmp_path, [1.0, 3.0, 0.5, 2.5])
    without = picture(run)
    run.metrics.write_text(run.metrics.read_text().replace('"loss/g": 2.0', '"loss/g": 2.0, "loss/ratio": 99.0'))
    assert (picture(run) == without).all()


def test_a_run_of_one_row_has_a_picture(tmp_path: Path) -> None:
    assert coloured(picture(run_with_losses(tmp_path, [1.0]))).any()


def run_with_grids(path: Path, count: int) -> RunDirectory:
    """Grids of 20 x 120 pixels, each of one grey that says its place."""
    run = RunDirectory(path)
    run.samples.mkdir()
    for number in range(count):
        run.write_sample(number * 500, np.full((20, 120, 3), 2 * number, np.uint8))
    return run


def frames(run: RunDirectory) -> tuple[list[int], list[int]]:
    """The grey of each frame's grid and its milliseconds."""
    write_progress(run)
    with Image.open(run.progress) as image:
        assert image.format == "GIF"
        assert image.size == (120, 44)  # 24 for the step above
        assert image.info["loop"] == 0
        greys, durations = [], []
        for frame in ImageSequence.Iterator(image):
            durations.append(frame.info["duration"])
            below = np.asarray(frame.convert("RGB"))[24:]
            greys.append(round(float(below.mean())))
            assert np.ptp(below) <= 2
    return greys, durations


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_progress_has_each_grid_and_rests_on_the_last(count: int, tmp_path: Path) -> None:
    greys, durations = frames(run_with_grids(tmp_path, count))
    assert greys == pytest.approx([2 * number for number in range(count)], abs=1)
    assert durations == [200] * (count - 1) + [3000]


@pytest.mark.parametrize("count", [61, 100, 120])
def test_a_long_run_is_thinned_evenly(count: int, tmp_path: Path) -> None:
    greys, durations = frames(run_with_grids(tmp_path, count))
    numbers = [round(grey / 2) for grey in greys]
    assert len(numbers) == 60
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    gaps = np.diff(numbers)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert durations == [200] * 59 + [3000]


def test_equal_grids_keep_their_frames(tmp_path: Path) -> None:
    run = run_with_grids(tmp_path, 3)
    for _, path in run.sample_grids()[1:]:
        write_png(path, np.zeros((20, 120, 3), np.uint8))
    assert frames(run) == ([0, 0, 0], [200, 200, 3000])


def test_a_caption_tells_the_step(tmp_path: Path) -> None:
    run = run_with_grids(tmp_path, 2)
    write_progress(run)
    with Image.open(run.progress) as image:
        above = [np.asarray(frame.convert("L"))[:24] for frame in ImageSequence.Iterator(image)]
    assert len(above) == 2
    for caption in above:
        assert caption.max() > 250
        assert caption.min() < 50
    assert (above[0] != above[1]).any()


def test_no_grids_no_progress(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write_progress(run)
    assert not run.progress.exists()


def test_progress_is_a_webp_too(tmp_path: Path) -> None:
    run = run_with_grids(tmp_path, 5)
    for number, (_, path) in enumerate(run.sample_grids()):
        write_png(path, np.full((20, 120, 3), 50 * number, np.uint8))
    write_progress(run)
    with Image.open(run.progress_webp) as image:
        assert image.format == "WEBP"
        assert image.size == (120, 44)
        greys, durations = [], []
        for frame in ImageSequence.Iterator(image):
            greys.append(np.asarray(frame.convert("L"))[30:].mean())
            durations.append(frame.info["duration"])
    assert greys == pytest.approx([0, 50, 100, 150, 200], abs=3)
    assert durations == [200] * 4 + [3000]


def test_rows_that_lack_keys_are_drawn(tmp_path: Path) -> None:
    run = run_with_losses(tmp_path, [1.0, 3.0])
    with run.metrics.open("a") as file:
        file.write('{"step": 30, "eval/fid_x_n9": 3.0}\n{"step": 40, "loss/d": 2.0}\n{"step": 5')
    assert coloured(picture(run)).any()


def test_gradient_norms_have_a_panel_of_their_own(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    rows = [{"step": step, "loss/d": 1.0, "gradient_norm/d": 10.0**-step, "gradient_norm/g": 1.0} for step in range(5)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pixels = picture(run)
    assert pixels.shape == (660, 990, 3)  # losses and norms; no scores
    assert coloured(pixels)[330:].sum() > 1000


def test_odd_numbers_are_drawn(tmp_path: Path) -> None:
    losses = [1e300, -1e300, 5e-324, float("nan"), float("inf"), 0.0]
    assert coloured(picture(run_with_losses(tmp_path, losses))).any()


def test_no_rows_no_losses(tmp_path: Path) -> None:
    plot_losses(RunDirectory(tmp_path))
    assert not list(tmp_path.iterdir())


def test_histograms_are_drawn_at_a_few_steps(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    plot_histograms(run)
    assert not run.histogram_picture.exists()
    rows = [
        {"step": step, "edges": [0, 0.5, 1], "real": [step, 5], "fake": [5, 1], "held_out": [1, 1]}
        for step in range(0, 1000, 100)
    ]
    run.histograms.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plot_histograms(run)
    with Image.open(run.histogram_picture) as image:
        assert image.size == (990, 1045)  # six of ten steps, 1.5 inches each
        assert coloured(np.asarray(image.convert("RGB")).astype(int)).mean() > 0.1


def test_reals_stand_beside_the_last_fakes(tmp_path: Path) -> None:
    run = run_with_grids(tmp_path, 3)
    write_comparison(run)
    assert not run.comparison.exists()  # no reals
    write_png(run.reals, np.full((30, 50, 3), 200, np.uint8))
    write_comparison(run)
    with Image.open(run.comparison) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (54, 170)
    assert (pixels[24:, :50] == 200).all()
    assert (pixels[24:44, 50:] == 4).all()  # the last grid
    assert pixels[:24, :50].min() < 50  # text above both
    assert pixels[:24, 50:].min() < 50
