"""What the discriminator makes of reals, fakes and held-out reals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan_dist.config import TrainConfig
from dcgan_dist.data.order import Order
from dcgan_dist.data.resident import ResidentLoader
from dcgan_dist.evaluation.score_histograms import BINS, ScoreCounter, ScoreHistograms, _histogram
from dcgan_dist.images import to_images
from dcgan_dist.loop import Training
from tests import tiny
from tests.distributed.ranks import run_ranks

CONFIG = tiny.narrow("flowers17-arch1", dropout=0.2, dtype="float64", batch_size=8)


def with_held_out(config: TrainConfig = CONFIG) -> Training:
    """A run on the first 12 of 20 images, with the last 8 held out."""
    training = tiny.training(config, tiny.runtime())
    held_out = np.arange(12, 20)
    order = Order([7, 6, 7], seed=0, shuffle_window=16, subset=np.arange(12))
    rows = training.runtime.rows(config.images.batch_size)
    training.loader = ResidentLoader(
        tiny.pixels(config), order, batch_size=config.images.batch_size, rows=rows, digest="", held_out=held_out
    )
    return training


def counted(training: Training) -> ScoreHistograms:
    rows = training.runtime.rows(training.gan.config.images.batch_size)
    return ScoreCounter(training.gan, training.loader, rows=rows).count()


def test_scores_fall_into_twenty_bins() -> None:
    scores = torch.tensor([0.01, 0.049, 0.051, 0.5, 0.99, 1.0], dtype=torch.float64)
    expected = np.zeros(BINS, int)
    expected[[0, 1, 10, 19]] = 2, 1, 1, 2
    assert _histogram(scores.logit()).tolist() == expected.tolist()


def test_each_kind_is_counted_in_batches_of_its_own() -> None:
    training = with_held_out()
    for _ in range(3):
        training.update()
    before = tiny.tensors(training.gan)
    found = counted(training)
    assert {kind: sum(counts) for kind, counts in found.counts.items()} == {"fake": 256, "real": 8, "held_out": 8}
    assert found.edges == tuple(round(0.05 * edge, 6) for edge in range(21))
    after = tiny.tensors(training.gan)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # the eight held-out images as one batch, by D's own forward pass
    gan = training.gan
    draws = tiny.step_draws(CONFIG, 0)
    images = to_images(tiny.pixels(CONFIG)[12:], CONFIG.network.value_range, dtype=torch.float64)
    with torch.no_grad():
        logits = gan.discriminate(images, draws=draws, dropout="dropout_judge")
    expected, _ = np.histogram(logits.sigmoid().numpy(), bins=BINS, range=(0, 1))
    assert found.counts["held_out"] == expected.tolist()


def test_a_run_without_held_out_images_has_no_histogram_of_them() -> None:
    assert counted(tiny.training(CONFIG, tiny.runtime())).counts.keys() == {"fake", "real"}


def counts_here() -> dict[str, list[int]]:
    training = with_held_out()
    for _ in range(3):
        training.update()
    return counted(training).counts


def test_ranks_count_what_one_process_counts() -> None:
    (one,) = run_ranks(counts_here, 1)
    for two in run_ranks(counts_here, 2):
        assert two == one


def test_counting_does_not_change_the_run() -> None:
    one, other = with_held_out(), with_held_out()
    for _ in range(2):
        one.update()
        other.update()
        counted(other)
    expected = tiny.tensors(one.gan)
    assert all(torch.equal(expected[name], value) for name, value in tiny.tensors(other.gan).items())


class Rows:
    """A tracker that keeps the rows it is given."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, **values})


@pytest.mark.parametrize("recipe", ["flowers17-arch1", "flowers17-arch2"])
def test_a_row_says_how_the_game_stands(recipe: str) -> None:
    config = tiny.narrow(recipe, base_channels=2, dtype="float64")
    training, tracker = tiny.training(config, tiny.runtime()), Rows()
    training.tracker = tracker  # type: ignore[assignment]
    training.update()
    training.log()
    (row,) = tracker.rows
    assert row["loss/ratio"] == pytest.approx(row["loss/d"] / row["loss/g"], rel=1e-12)
    for name, player in (("d", training.gan.discriminator), ("g", training.gan.generator)):
        squares = sum(float((p.grad**2).sum()) for p in player.parameters if p.grad is not None)
        assert row[f"gradient_norm/{name}"] == pytest.approx(math.sqrt(squares), rel=1e-12)
    # D was asked again about the fakes of its own update, before and after it
    gan = tiny.training(config, tiny.runtime()).gan
    draws = tiny.step_draws(config, 0)
    with torch.no_grad():
        fakes = gan.generate(gan.latent(draws, "z"), draws=draws)
        before, after = (
            each.judge(fakes, draws=draws, dropout="dropout_fake").sigmoid().mean() for each in (gan, training.gan)
        )
    assert row["score/fake"] == pytest.approx(before.item(), rel=1e-9)
    assert row["score/fake_after"] == pytest.approx(after.item(), rel=1e-9)
    assert row["score/fake_after"] != row["score/fake"]


@pytest.mark.parametrize(
    ("log_every", "expected"),
    [(1, [50, 100, 150, 200]), (30, [60, 120, 150, 210]), (50, [50, 100, 150, 200]), (100, [100, 200])],
)
def test_rows_with_what_takes_long_are_50_steps_apart_and_the_same_after_a_resume(
    log_every: int, expected: list[int]
) -> None:
    training = tiny.training(tiny.narrow("mnist28", base_channels=2, log_every=log_every), tiny.runtime())
    found = []
    for step in range(log_every, 211, log_every):
        training.step = step
        if training._game_is_due():
            found.append(step)
    assert found == expected
    training.total_steps = training.step = 7
    assert training._game_is_due()  # the last row of a short run


def test_held_out_images_are_never_trained_on(flower_shards: Path) -> None:
    from tests.data.test_loader import opened

    loader = opened(flower_shards, size=32, held_out=12)
    assert loader.held_out.tolist() == list(range(36, 48))
    assert loader.image_count == 36
    seen = {number for step in range(9) for number in loader.positions(step).tolist()}
    assert seen == set(range(36))
    whole = opened(flower_shards, size=32)
    np.testing.assert_array_equal(loader.read(loader.held_out), whole.read(np.arange(36, 48)))
