"""The benchmarks compare like with like: the textbook's program and ours train the same networks in the same way."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as all_benchmarks
from benchmarks import processes, steps


@pytest.fixture
def _default_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_default_dtype")
@pytest.mark.parametrize(("name", "batch_size"), [("dcgan64", 2), ("flowers_arch1", 4)])
def test_the_textbook_has_our_losses(name: str, batch_size: int) -> None:
    case = replace(steps.CASES[name], batch_size=batch_size)
    ours, theirs = steps.losses_of(case, dtype="float64", threads=1)
    assert ours.shape == (steps.CHECKED_STEPS, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_without_a_record_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(all_benchmarks, "RECORD", tmp_path / "results.json")
    assert all_benchmarks.quick() == 2
    assert capsys.readouterr().err.startswith("error: nothing to compare with")


@pytest.mark.parametrize(("batch_size", "cores", "expected"), [(16, 2, 2), (16, 12, 8), (64, 24, 16), (64, 200, 64)])
def test_as_many_processes_as_can_share_the_batch(batch_size: int, cores: int, expected: int) -> None:
    assert processes.most_processes(batch_size, cores=cores) == expected


@pytest.mark.parametrize(
    ("buckets", "travelled", "hidden"),
    [
        ([(1.0, 3.0)], 2.0, 0.0),  # one alone leaves when the pass has nothing left to compute
        ([(1.0, 2.0), (5.0, 6.0)], 2.0, 1.0),
        ([(1.0, 4.0), (3.0, 6.0)], 5.0, 2.0),  # together from 1 to 6, the last left at 3
        ([(1.0, 9.0), (2.0, 3.0), (4.0, 5.0)], 8.0, 3.0),
    ],
)
def test_reductions_behind_the_pass(buckets: list[tuple[float, float]], travelled: float, hidden: float) -> None:
    assert processes.behind(buckets) == (travelled, hidden)
