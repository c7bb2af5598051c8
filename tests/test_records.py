"""Rows that can be read, and how many of them are shown."""

import itertools
from pathlib import Path

import pytest

from dcgan_dist.records import curves, evenly, extremes, read_rows


def test_rows_are_read_as_far_as_they_can_be(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(
        b'{"step": 20, "a": 2}\n\n{"step": 10, "a": 1}\n[1]\n{"a": 3}\n\xff\n{"step": true}\n{"step": 1e3}\n{"step": 1'
        + b"0" * 15
        + b"1}\n"
        + deep
        + b'\n{"st'
    )
    assert read_rows(path) == ([{"step": 10, "a": 1}, {"step": 20, "a": 2}], 8)
    assert read_rows(tmp_path / "nothing") == ([], 0)


def test_curves_hold_finite_numbers_alone() -> None:
    rows: list[dict[str, object]] = [
        {"step": 1, "a": 1, "b": "text", "c": float("nan"), "d": 10**400, "f": -1.1e300},
        {"step": 2, "b": True, "c": 0.5, "e": [1]},
        {"step": 2, "a": 7.0},
        {"step": 2, "a": 8.0},
    ]
    assert curves(rows) == {"a": ([1, 2], [1.0, 8.0]), "c": ([2], [0.5])}


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (1, 5), (5, 5), (6, 5), (100, 7), (9, 1)])
def test_evenly(count: int, limit: int) -> None:
    chosen = evenly(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen == sorted(set(chosen))
    assert not count or chosen[-1] == count - 1
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_thinning_keeps_ends_and_extremes() -> None:
    values = [float(number % 7) for number in range(10_000)]
    values[1234], values[8765] = 99.0, -99.0
    kept, means = extremes(values, 100)
    assert len(kept) == len(means) <= 100
    assert kept == sorted(set(kept))
    assert {0, 1234, 8765, 9999} <= set(kept)
    # 49 buckets of 204 or 205 values whose mean is about 3
    assert means[kept.index(0)] == pytest.approx(3, abs=0.05)
    bucket = range(6 * 10_000 // 49, 7 * 10_000 // 49)
    assert 1234 in bucket
    assert means[kept.index(1234)] == pytest.approx(sum(values[i] for i in bucket) / len(bucket))


def test_few_values_are_all_kept() -> None:
    assert extremes([3.0, 1.0, 2.0], 4) == ([0, 1, 2], [3.0, 1.0, 2.0])
    kept, _ = extremes([1.0] * 5, 4)
    assert kept == [0, 4]
