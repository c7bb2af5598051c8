"""``dcgan-sweep status`` and what it reads, from run directories made by hand."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcgan_dist import sweep
from dcgan_dist.sweeps.points import Progress, eta_seconds, last_row
from tests.locks import end, hold
from tests.runs import made_run
from tests.shared import REPOSITORY

SWEEP = """
method: grid
metric: {name: eval/kid}
parameters:
  config: {value: CONFIG}
  lr_ratio: {values: [1, 2]}
  seed: {values: [0, 1, 2]}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP.replace("CONFIG", str(REPOSITORY / "configs" / "flowers17-arch1.yaml")))
    return path


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        end(process)


def rows(*steps: int) -> list[dict[str, float]]:
    """Half a second a step, two seconds of pauses a row; the metric is 1 / step."""
    return [{"step": step, "time/step": 0.5, "time/pause": 2.0, "eval/kid": 1 / step} for step in steps]


def made_sweep(directory: Path, holders: list[subprocess.Popen[str]]) -> None:
    """Six points: done, done with another ratio, running, stopped, failed, begun by ``dcgan-sweep run``."""

    def path(ratio: int, seed: int) -> Path:
        return directory / f"lr_ratio={ratio},seed={seed}"

    def settings(ratio: int, seed: int) -> dict[str, Any]:
        return {"lr_ratio": float(ratio), "seed": seed, "max_steps": 100, "data": "elsewhere"}

    for ratio, seed, state, reason, steps in (
        (1, 0, "done", "", (50, 100)),
        (1, 1, "done", "", (50, 100)),
        (1, 2, "running", "", (25,)),
        (2, 0, "running", "", (50,)),
        (2, 1, "failed", "DivergenceError: the loss\nof D", (10,)),
    ):
        run = made_run(path(ratio, seed), settings=settings(ratio, 0 if seed == 1 else seed), rows=rows(*steps))
        run.set_status(state, reason, total_steps=100)
    run = made_run(path(2, 1) / "x", settings=settings(2, 1))
    run.config.rename(path(2, 1) / "config.yaml")
    holders.append(hold("run", path(1, 2)))
    holders.append(hold("log", directory / "lr_ratio=2,seed=2.log"))


def test_states_counts_and_eta(
    file: Path, holders: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    made_sweep(file.parent / "runs" / "mine", holders)
    before = {path: path.stat().st_mtime_ns for path in file.parent.rglob("*")}
    sweep.main(["status", str(file), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in file.parent.rglob("*")} == before  # nothing is written
    assert told["counts"] == {"done": 1, "running": 2, "stopped": 1, "failed": 1, "changed": 1, "left": 0}
    points = told["points"]
    assert [point["state"] for point in points] == ["done", "changed", "running", "stopped", "failed", "running"]
    assert [point["step"] for point in points] == [100, 100, 25, 50, 10, 0]
    assert [point["total_steps"] for point in points] == [100, 100, 100, 100, 100, None]
    assert [point["metric"] for point in points] == [0.01, 0.01, 0.04, 0.02, 0.1, None]
    assert points[1]["reason"] == "seed: was 0, now 1"
    assert points[2]["reason"].startswith(f"process {holders[0].pid} on ")
    assert [points[3]["reason"], points[5]["reason"]] == ["killed", "starting"]
    assert points[0]["seconds"] == 100 * 0.5 + 2 * 2.0
    assert points[0]["run_dir"] == "runs/mine/lr_ratio=1,seed=0"
    assert points[5]["parameters"]["seed"] == 2
    # 54 s a point; 0.75 + 0.5 + 1 points are left, two at a time; so 1.125 of them, which is more than any one alone
    assert told["eta_seconds"] == pytest.approx(54 * 1.125)
    sweep.main(["status", str(file)])
    table = capsys.readouterr().out
    assert "1 done, 2 running, 1 stopped, 1 failed, 1 changed\n" in table
    assert "ETA 0:01:01, 2 at a time" in table
    assert "50/100" in table
    assert "DivergenceError: the loss " in table
    holders[0].kill()
    holders[0].wait()
    sweep.main(["status", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["points"][2]["state"] == "stopped"


def test_a_sweep_that_nobody_has_begun(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main(["status", str(file), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["left"] == 6
    assert told["eta_seconds"] is None
    assert not (file.parent / "runs").exists()


def test_a_mistake_in_the_file_exits_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + "early_terminate: {type: hyperband}\n")
    for command in ("status", "run"):
        with pytest.raises(SystemExit) as ended:
            sweep.main([command, str(file)])
        assert ended.value.code == 2
        assert "early_terminate stops runs by what W&B's server knows" in capsys.readouterr().err


def test_damaged_files_are_no_states(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = file.parent / "runs" / "mine" / "lr_ratio=1,seed=0"
    for text in (b"", b"[]", b"\xff", b'{"state": 3}'):
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "status.json").write_bytes(text)
        (run_dir / "metrics.jsonl").write_bytes(b'{"step": 4}\n{"st')
        sweep.main(["status", str(file), "--json"])
        (point, *_) = json.loads(capsys.readouterr().out)["points"]
        assert (point["state"], point["step"]) == ("left", 4)
    assert last_row(run_dir) == {"step": 4}
    assert last_row(run_dir / "none") == {}


def test_eta() -> None:
    done = Progress(state="done", step=100, total_steps=100, seconds=60.0, pace=0.6)
    half = Progress(state="running", step=50, total_steps=100, seconds=40.0, pace=0.8)
    left, failed = Progress(state="left"), Progress(state="failed", step=1, total_steps=2)
    assert eta_seconds([done, done, half, failed], at_once=1) == 30.0
    assert eta_seconds([done, half, left, left], at_once=2) == 75.0  # 2.5 points of 60 s by two
    assert eta_seconds([done, left, left, left], at_once=8) == 60.0  # no quicker than one point
    assert eta_seconds([half, left], at_once=1) == 120.0  # 1.5 points of 80 s
    assert eta_seconds([left], at_once=1) is None
    assert eta_seconds([done, left], at_once=0) is None
    assert eta_seconds([done], at_once=1) == 0.0


def test_labels(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main(["args", str(file), "4", "--labels"])
    group, job_type, state, *arguments = capsys.readouterr().out.splitlines()
    assert (group, job_type, state) == ("mine,lr_ratio=2", "seed=1", "left")
    sweep.main(["args", str(file), "4"])
    assert capsys.readouterr().out.splitlines() == arguments


def test_commands_start_without_torch() -> None:
    script = "import sys, dcgan_dist.sweep; print(sorted({'torch', 'numpy', 'wandb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
