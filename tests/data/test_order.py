"""Which images make up a step: pure arithmetic."""

import collections
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from dcgan_dist.data.order import Order, training_subset

COUNTS = [5, 3, 8, 1, 6, 7]  # 30 images
BOUNDS = np.cumsum([0, *COUNTS])


def order(*, seed: int = 1, window: int = 2, counts: list[int] | None = None) -> Order:
    return Order(counts or COUNTS, seed=seed, shuffle_window=window)


def shard_of(image: int) -> int:
    return int(np.searchsorted(BOUNDS, image, side="right")) - 1


def epoch_of(given: Order, epoch: int) -> NDArray[np.int64]:
    """(length,) image numbers of one epoch."""
    return given.images(epoch * given.length, (epoch + 1) * given.length)


def test_known_orders() -> None:
    """Whoever changes these numbers changes every run that was ever made."""
    first, second = [7, 6, 5, 3, 8, 4, 2, 1, 0], [3, 8, 6, 7, 4, 5, 0, 1, 2]
    assert order(counts=[3, 2, 4]).images(0, 18).tolist() == first + second


@pytest.mark.parametrize("window", [1, 2, 4, 6, 100])
def test_each_epoch_has_each_image_once(window: int) -> None:
    for epoch in range(5):
        assert sorted(epoch_of(order(window=window), epoch)) == list(range(30))


def test_positions_are_the_epochs_one_after_another() -> None:
    given = order()
    endless = np.concatenate([epoch_of(order(), epoch) for epoch in range(6)])
    for start, stop in [(0, 30), (0, 8), (24, 40), (29, 31), (30, 60), (25, 175), (61, 62), (3, 5)]:
        np.testing.assert_array_equal(given.images(start, stop), endless[start:stop])


@pytest.mark.parametrize("batch_size", [7, 45])
def test_every_image_is_used_equally(batch_size: int) -> None:
    given = order()
    batches = [given.images(step * batch_size, (step + 1) * batch_size) for step in range(30)]
    assert {len(batch) for batch in batches} == {batch_size}
    assert set(collections.Counter(np.concatenate(batches).tolist()).values()) == {batch_size}  # 30 batches, 30 images


@pytest.mark.parametrize("world_size", [2, 5])
def test_ranks_have_the_parts_of_the_whole_batch(world_size: int) -> None:
    given, local = order(), 10 // world_size
    for step in range(7):
        parts = [order().images(step * 10 + rank * local, step * 10 + (rank + 1) * local) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), given.images(step * 10, step * 10 + 10))


@pytest.mark.parametrize("window", [1, 2, 4])
def test_images_of_a_window_come_from_few_shards_and_stay_together(window: int) -> None:
    for epoch in range(4):
        shards = [shard_of(image) for image in epoch_of(order(window=window), epoch)]
        assert len(shards) == 30
        groups, start = [], 0
        while start < 30:
            # the window's shards: as many, in the order in which they begin, as make whole ones
            seen = list(dict.fromkeys(shards[start:]))[:window]
            length = sum(COUNTS[shard] for shard in seen)
            assert set(shards[start : start + length]) == set(seen)
            groups.append(seen)
            start += length
        assert sorted(itertools.chain(*groups)) == [0, 1, 2, 3, 4, 5]
        assert [len(group) for group in groups] == [window] * (6 // window) + [6 % window] * bool(6 % window)


def test_images_are_mixed_inside_a_window() -> None:
    shards = [shard_of(image) for image in epoch_of(order(window=6), 0)]
    changes = sum(one != other for one, other in itertools.pairwise(shards))
    assert changes > 15  # 5 if the shards stayed whole; 24 expected by chance


def test_epochs_and_seeds_have_their_own_orders() -> None:
    orders = {tuple(epoch_of(order(seed=seed), epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    first_shards = {shard_of(epoch_of(order(window=1), epoch)[0]) for epoch in range(30)}
    assert first_shards == {0, 1, 2, 3, 4, 5}


def test_the_past_does_not_matter() -> None:
    used, fresh = order(), order()
    for epoch in (5, 0, 3, 4, 1):
        epoch_of(used, epoch)
    np.testing.assert_array_equal(used.images(40, 130), fresh.images(40, 130))


def test_shards_may_be_empty_but_not_all() -> None:
    assert sorted(epoch_of(order(counts=[0, 2, 0, 1]), 0)) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one image, got 0"):
        order(counts=[0, 0])


SUBSET = np.array([0, 3, 4, 8, 9, 10, 15, 23, 29])  # of shards 0, 2, 5 and more; nothing of shards 1 and 4


def test_a_subset_has_its_images_once_an_epoch() -> None:
    for epoch in range(4):
        given = Order(COUNTS, seed=1, shuffle_window=2, subset=SUBSET)
        assert sorted(epoch_of(given, epoch)) == SUBSET.tolist()
        assert given.length == 9


def test_the_order_of_a_subset_is_that_of_a_set_of_nothing_else() -> None:
    per_shard = [int(np.sum((bounds[0] <= SUBSET) & (bounds[1] > SUBSET))) for bounds in itertools.pairwise(BOUNDS)]
    alone = Order([count for count in per_shard if count], seed=1, shuffle_window=2)
    subset = Order(COUNTS, seed=1, shuffle_window=2, subset=SUBSET)
    np.testing.assert_array_equal(subset.images(0, 40), SUBSET[alone.images(0, 40)])


def test_a_subset_of_all_is_no_subset() -> None:
    whole = Order(COUNTS, seed=1, shuffle_window=2, subset=np.arange(30))
    np.testing.assert_array_equal(whole.images(0, 70), order().images(0, 70))


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0])


@pytest.mark.parametrize(
    ("classes", "size", "held_out", "kept", "back"),
    [
        ("", 0, 0, [0, 1, 2, 3, 4, 5, 6, 7], []),
        ("", 3, 0, [0, 1, 2], []),
        ("iris, rose", 0, 0, [0, 2, 3, 5, 6, 7], []),
        ("rose,iris", 4, 0, [0, 2, 3, 5], []),
        ("lily", 2, 0, [1, 4], []),
        ("", 0, 3, [0, 1, 2, 3, 4], [5, 6, 7]),
        ("rose", 2, 1, [0, 3], [7]),
    ],
)
def test_training_subsets(classes: str, size: int, held_out: int, kept: list[int], back: list[int]) -> None:
    names = ("rose", "lily", "iris")
    found = training_subset(LABELS, names, classes=classes, size=size, held_out=held_out)
    assert [images.tolist() for images in found] == [kept, back]


def test_held_out_images_leave_some() -> None:
    with pytest.raises(ValueError, match=r"^held_out must leave images to train on of the classes lily, of 2, got 2$"):
        training_subset(LABELS, ("rose", "lily", "iris"), classes="lily", size=0, held_out=2)
    with pytest.raises(ValueError, match=r"of images that are not held out, 6, got 7$"):
        training_subset(LABELS, ("rose", "lily", "iris"), classes="", size=7, held_out=2)


@pytest.mark.parametrize(
    ("classes", "size", "message"),
    [
        ("", 9, "subset_size must be at most the number of images, 8, got 9"),
        ("lily", 3, "subset_size must be at most the number of images of the classes lily, 2, got 3"),
        ("tulip", 0, "classes: must be names of classes, got 'tulip'; there are rose, lily, iris, empty"),
        ("empty", 0, "classes: the data must have images of them, there is none of empty"),
    ],
)
def test_subsets_that_cannot_be_are_named(classes: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        training_subset(LABELS, ("rose", "lily", "iris", "empty"), classes=classes, size=size)
