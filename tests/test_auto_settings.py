"""precision and memory_format auto: chosen once, by time, alike on all ranks, and kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dcgan_dist import auto_settings, train
from dcgan_dist.config import TrainConfig, changed, plain
from dcgan_dist.distributed import collectives
from tests import jobs, tiny
from tests.distributed.ranks import run_ranks
from tests.jobs import rows

AUTO = {"precision": "auto", "memory_format": "auto"}
NAMES = ("precision", "memory_format")


def paces(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Give each candidate a pace by its settings, joined by "_"; one that is not named has 1 s."""

    def timed(configs: Sequence[TrainConfig], **_: Any) -> list[float]:
        return [seconds.get("_".join(values(config)), 1.0) for config in configs]

    monkeypatch.setattr(auto_settings, "timed", timed)


def values(config: TrainConfig) -> list[str]:
    return [getattr(config.compute, name) for name in NAMES]


def flags(shards: Path, run_dir: Path, **settings: object) -> list[str]:
    return jobs.flags(shards, run_dir, **({"max_steps": 2, "sample_every": 100, "ema_decay": 0} | settings))


def written(run_dir: Path) -> list[str]:
    """The settings as config.yaml has them."""
    settings = yaml.load((run_dir / "config.yaml").read_text(), Loader=yaml.BaseLoader)  # no is text there
    return [settings[name] for name in NAMES]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 0.94], 1),
        ([1.0, 0.96], 0),  # not enough to be sure
        ([1.0, 2.0], 0),
        ([1.0, 0.9, 0.8, 0.85], 2),
        ([1.0], 0),
    ],
)
def test_the_default_stays_unless_another_is_clearly_faster(seconds: list[float], expected: int) -> None:
    assert auto_settings.fastest(seconds) == expected


@pytest.mark.parametrize(
    ("settings", "faster", "expected"),
    [
        (AUTO, {"bf16_contiguous": 0.5}, ["bf16", "contiguous"]),
        (AUTO, {"no_contiguous": 0.5, "bf16_channels_last": 0.6}, ["no", "contiguous"]),
        (AUTO, {"no_channels_last": 0.5}, ["no", "channels_last"]),
        ({"precision": "auto"}, {"bf16_channels_last": 0.5, "bf16_contiguous": 0.1}, ["bf16", "channels_last"]),
        ({"precision": "bf16", "memory_format": "auto"}, {"bf16_contiguous": 0.5}, ["bf16", "contiguous"]),
    ],
)
def test_the_fastest_is_chosen(
    settings: dict[str, str], faster: dict[str, float], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paces(monkeypatch, **faster)
    config = tiny.narrow("flowers17-arch1", dtype="float32", **settings)
    loader = tiny.training(plain(config), tiny.runtime()).loader
    config, told = auto_settings.chosen(config, loader, tiny.runtime())
    assert values(config) == expected
    names = [name for name in NAMES if settings.get(name) == "auto"]
    chosen = " ".join(f"{name} {getattr(config.compute, name)}" for name in names)
    assert told.startswith(f"auto: {chosen}; a step took ")
    assert told.count(" ms") == 2 ** len(names)


def test_nothing_is_timed_without_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_settings, "timed", None)
    config = tiny.narrow("flowers17-arch1", dtype="float32", precision="bf16")
    assert auto_settings.chosen(config, tiny.training(config, tiny.runtime()).loader, tiny.runtime()) == (config, "")


def test_a_gpu_without_bf16_stays_with_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not auto_settings._computes_bf16(torch.device("cuda"))
    assert auto_settings._computes_bf16(torch.device("cpu"))
    monkeypatch.setattr(auto_settings, "_computes_bf16", lambda device: False)
    monkeypatch.setattr(auto_settings, "timed", None)
    config = tiny.narrow("flowers17-arch1", dtype="float32", precision="auto")
    config, told = auto_settings.chosen(config, tiny.training(plain(config), tiny.runtime()).loader, tiny.runtime())
    assert (values(config), told) == (["no", "channels_last"], "auto: precision no; there is no bf16 here")


def test_a_resumed_run_keeps_what_was_chosen_and_never_times_again(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    paces(monkeypatch, bf16_contiguous=0.5)
    train.main(flags(flower_shards, run_dir, **AUTO))
    told = "auto: precision bf16 memory_format contiguous; a step took "
    assert capsys.readouterr().out.count(told) == 1
    assert written(run_dir) == ["bf16", "contiguous"]
    paces(monkeypatch, no_channels_last=0.1)  # the machine has changed its mind
    train.main([*flags(flower_shards, run_dir, max_steps=4, **AUTO), "--resume"])
    assert "auto:" not in capsys.readouterr().out
    assert written(run_dir) == ["bf16", "contiguous"]
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4]


def test_choosing_leaves_no_trace_in_the_run(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is stubbed: four candidates train, and then the run is the one that had the outcome in its file."""
    train.main(flags(flower_shards, tmp_path / "auto", **AUTO))
    train.main(["--config", str(tmp_path / "auto" / "config.yaml"), "--run_dir", str(tmp_path / "again")])
    assert capsys.readouterr().out.count("a step took precision no memory_format channels_last") == 1
    names = ("loss/d", "loss/g", "score/real", "score/fake")
    found, expected = ([[row[name] for name in names] for row in rows(tmp_path / name)] for name in ("auto", "again"))
    assert found == expected


def test_a_dry_run_shows_what_would_be_chosen(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paces(monkeypatch, no_contiguous=0.5)
    train.main([*flags(flower_shards, tmp_path / "run", **AUTO), "--dry_run"])
    text = capsys.readouterr().out
    assert "\nmemory_format: contiguous\n" in text
    assert text.count("auto: steps are timed for precision and memory_format ...\n") == 1  # it may take a minute
    assert "a step took precision no memory_format channels_last 1000.0 ms" in text


def test_float64_is_refused_as_with_any_precision() -> None:
    with pytest.raises(ValueError, match="precision must be no with dtype float64, got auto"):
        changed(TrainConfig(), {"dtype": "float64", "precision": "auto"})


def agreed() -> list[str]:
    """What a rank chooses when each has other times; every rank trains every candidate."""
    real = auto_settings.timed

    def timed(configs: Sequence[TrainConfig], **how: Any) -> list[float]:
        assert min(real(configs, **how)) > 0
        return [[1.0, 0.5], [1.0, 2.0]][collectives.rank()]

    auto_settings.timed = timed
    where = tiny.runtime()
    config = tiny.narrow("flowers17-arch1", dtype="float32", memory_format="auto")
    chosen, _ = auto_settings.chosen(config, tiny.training(plain(config), where).loader, where)
    return values(chosen)


def test_processes_agree_and_the_slowest_counts() -> None:
    assert run_ranks(agreed, 2) == [["no", "channels_last"]] * 2
