"""Networks as tables."""

import io

import pytest
import torch
from rich.console import Console
from rich.table import Table

from dcgan_dist.models import build_networks
from dcgan_dist.summary import summary
from tests.shared import recipe


def cells(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


@pytest.fixture(scope="module")
def tables() -> tuple[Table, Table]:
    """Of flowers17-arch1."""
    generator, discriminator = build_networks(recipe("flowers17-arch1").network, seed=0)
    return (
        summary(generator, torch.zeros(1, 100), title="generator"),
        summary(discriminator, torch.zeros(1, 3, 32, 32), title="discriminator"),
    )


def test_layers_of_the_generator_by_hand(tables: tuple[Table, Table]) -> None:
    rows = cells(tables[0])
    assert [row[1:] for row in rows[:3]] == [
        ("CoveringConvTranspose2d", "N x 192 x 4 x 4", "307,392"),  # 100 * 192 * 4 * 4 + 192
        ("BatchNorm2d", "N x 192 x 4 x 4", "384"),
        ("LeakyReLU", "N x 192 x 4 x 4", ""),
    ]
    assert rows[0][0] == "body.0.0"
    assert rows[-1] == ("head", "SameConvTranspose2d", "N x 3 x 32 x 32", "1,155")  # 24 * 3 * 4 * 4 + 3
    assert len(rows) == 4 * 3 + 1


def test_totals_of_arch1_by_hand(tables: tuple[Table, Table]) -> None:
    # G: 4x4 kernels 100-192-96-48-24 with biases 307,392 + 295,008 + 73,776 + 18,456, batch norm
    # 2 * (192 + 96 + 48 + 24) = 720 and the head's 1,155
    assert tables[0].caption == "696,507 parameters and 720 running statistics: 697,227"
    # D: 3 * 24 * 16 + 24 = 1,176; 25 * 48 * 16 + 48 = 19,248; 49 * 96 * 16 + 96 = 75,360;
    # 97 * 192 * 16 + 192 = 298,176; batch norm 2 * (48 + 96 + 192) = 672; head 193 * 4 + 1 = 773
    assert tables[1].caption == "395,405 parameters and 672 running statistics: 396,077"


def test_rows_add_up(tables: tuple[Table, Table]) -> None:
    for table in tables:
        total = sum(int(row[3].replace(",", "")) for row in cells(table) if row[3])
        assert str(table.caption).startswith(f"{total:,} parameters")


def test_batch_deviation_has_a_row_of_its_own(tables: tuple[Table, Table]) -> None:
    rows = [row for row in cells(tables[1]) if row[1] == "AppendBatchDeviation"]
    shapes = ["N x 25 x 16 x 16", "N x 49 x 8 x 8", "N x 97 x 4 x 4", "N x 193 x 2 x 2"]
    assert [row[2] for row in rows] == shapes


def test_summary_prints_and_leaves_no_hook() -> None:
    generator, _ = build_networks(recipe("mnist28").network, seed=0)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    for _ in range(2):
        console = Console(file=io.StringIO(), width=100)
        console.print(summary(generator, torch.zeros(1, 100), title="the title"))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert text.startswith("the title")
        assert text.count("stem.dense") == 1
        assert "N x 1 x 28 x 28" in text
    assert not any(module._forward_hooks for module in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
