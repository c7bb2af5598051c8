"""The report of a sweep on run directories written by hand: its numbers, its page, its table, its messages."""

import csv
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from dcgan_dist import sweep
from dcgan_dist.pages import PAGE_BYTES
from dcgan_dist.pages.sweep_page import sweep_page
from dcgan_dist.pages.sweep_plots import heat_map, mean_curves, parameter_plots
from dcgan_dist.pages.sweep_tables import measures_table
from dcgan_dist.results.sweep_summary import Cell, Summary, summarise
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.sweeps.file import Point, read_sweep
from dcgan_dist.sweeps.report import table_csv, write_sweep_report
from tests.locks import end, hold
from tests.pages.test_pages import data_of
from tests.shared import REPOSITORY
from tests.sweeps.made import KID, TEXT, Rows, kid_rows, made_sweep


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # where the sweep's recipe is


def summary_of(path: Path, rows: Callable[[Point], Rows | None] = kid_rows, **options: Any) -> Summary:
    text = options.pop("text", TEXT)
    return summarise(made_sweep(path, rows=rows, text=text), path / "runs", **options)


def cell(summary: Summary, setting: str, *, name: str = KID) -> Cell:
    (measure,) = [measure for measure in summary.measures if measure.name == name]
    (place,) = [each.place for each in summary.settings if each.name == setting]
    found = measure.cells[place]
    assert found is not None
    return found


def run_of(path: Path, lr: float, batch_size: int, *, seed: int) -> RunDirectory:
    return RunDirectory(path / "runs" / "made" / f"lr={lr},batch_size={batch_size},seed={seed}")


def test_seeds_are_averaged_and_compared_with_the_recipe(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    assert [setting.name for setting in summary.settings] == [
        "lr=0.0003, batch_size=16",
        "lr=0.0003, batch_size=32",
        "lr=0.0001, batch_size=16",
        "lr=0.0001, batch_size=32",
    ]
    assert (summary.baseline.name, summary.baseline_reason) == ("lr=0.0001, batch_size=16", "the recipe's own values")
    assert summary.metric.name == KID
    assert (summary.metric.at, summary.metric.better, summary.metric.floor) == (200, "lower", 0.5)
    found = cell(summary, "lr=0.0003, batch_size=16")
    assert found.values == {"0": 1, "1": 2, "2": 3}
    assert (found.estimate.mean, found.estimate.n) == (2, 3)
    assert found.estimate.half_width == pytest.approx(4.303 / math.sqrt(3), abs=5e-4)
    assert found.comparison is not None
    assert (found.comparison.test, found.comparison.difference) == ("paired", -2)
    # Differences -1, -2, -3: t = 2 sqrt(3), 2 degrees; -1.1, -2.2, -3.3 have the same t; so Holm gives 3 p to both.
    p = 1 - math.sqrt(12 / 14)
    assert found.comparison.p == pytest.approx(p, rel=1e-6)
    assert found.comparison.p_holm == pytest.approx(3 * p, rel=1e-6)
    other = cell(summary, "lr=0.0003, batch_size=32").comparison
    assert other is not None
    assert other.p_holm == pytest.approx(3 * p, rel=1e-6)
    assert summary.metric.best == {1}
    assert cell(summary, "lr=0.0001, batch_size=16").comparison is None


def test_losses_have_no_best_and_cost_is_of_whole_runs(tmp_path: Path) -> None:
    summary = summarise(made_sweep(tmp_path, rows=kid_rows, world_size=2), tmp_path / "runs")
    by_name = {measure.name: measure for measure in summary.measures}
    assert list(by_name) == [
        KID, "loss/d", "loss/g", "cost/images_per_second", "cost/seconds", "cost/device_hours"
    ]  # fmt: skip
    assert (by_name["loss/d"].better, by_name["loss/d"].best) == ("", frozenset())
    assert cell(summary, "lr=0.0001, batch_size=32", name="loss/d").estimate.mean == 2
    assert cell(summary, "lr=0.0001, batch_size=32", name="cost/seconds").estimate.mean == 400  # 200 steps of 2 s
    assert cell(summary, "lr=0.0001, batch_size=32", name="cost/device_hours").estimate.mean == pytest.approx(2 / 9)
    assert cell(summary, "lr=0.0001, batch_size=32", name="cost/images_per_second").estimate.mean == 16
    assert by_name["cost/images_per_second"].best == {1, 3}


def test_the_goal_of_the_file_counts_for_its_metric_alone(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, text=TEXT.replace("minimize", "maximize"))
    assert summary.metric.better == "higher"
    assert summary.metric.best == {3}  # 12.5 / 3, the baseline has 4


def test_equal_steps_are_the_last_that_all_runs_have(tmp_path: Path) -> None:
    def rows(point: Point) -> Rows:
        found = list(kid_rows(point))
        return found[:-1] if point.index == 4 else found  # one has no evaluation at 200

    summary = summary_of(tmp_path, rows)
    assert summary.metric.at == 100
    assert cell(summary, "lr=0.0003, batch_size=16").estimate.mean == 4
    assert next(measure.at for measure in summary.measures if measure.name == "loss/g") == 200


def test_images_are_compared_at_their_own_steps(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, images=3200)
    small, large = (cell(summary, f"lr=0.0003, batch_size={size}") for size in (16, 32))
    assert (small.step, large.step) == (200, 100)
    assert [small.estimate.mean, large.estimate.mean] == pytest.approx([2, 3.6])
    with pytest.raises(ValueError, match=r"no run has eval/kid_e_n9 at --images 1000; all runs have it at 3200$"):
        summarise(summary.sweep, tmp_path / "runs", images=1000)


def test_a_step_that_is_asked_for_takes_runs_that_have_come_so_far(tmp_path: Path) -> None:
    made_sweep(tmp_path, rows=kid_rows)
    run_of(tmp_path, 0.0003, 16, seed=0).set_status("stopped")
    sweep_file = read_sweep(tmp_path / "made.yaml")
    done = summarise(sweep_file, tmp_path / "runs")
    assert cell(done, "lr=0.0003, batch_size=16").estimate.n == 2
    assert ">Cost of a whole run<" in measures_table(done)
    at_100 = summarise(sweep_file, tmp_path / "runs", step=100)
    assert cell(at_100, "lr=0.0003, batch_size=16").estimate.n == 3
    assert ">Cost of a whole run, however long it went on<" in measures_table(at_100)
    with pytest.raises(ValueError, match=r"no run has eval/kid_e_n9 at --step 150; all runs have it at 100, 200"):
        summarise(sweep_file, tmp_path / "runs", step=150)
    with pytest.raises(ValueError, match=r"no run has come to --step 300 \(1 stopped, 11 done\)"):
        summarise(sweep_file, tmp_path / "runs", step=300)


def test_what_is_missing_is_left_out_and_told(tmp_path: Path) -> None:
    made_sweep(tmp_path, rows=lambda point: None if point.index == 11 else kid_rows(point))
    run_of(tmp_path, 0.0003, 32, seed=2).set_status("failed", "loss/d is nan at step 7")  # of the best
    run_of(tmp_path, 0.0003, 16, seed=1).config.unlink()
    with run_of(tmp_path, 0.0001, 16, seed=0).metrics.open("a") as file:
        file.write('{"step": 21')
    summary = summarise(read_sweep(tmp_path / "made.yaml"), tmp_path / "runs")
    states = [trial.state for trial in summary.trials]
    assert states == ["done", "unreadable", "done", "done", "done", "failed", *["done"] * 5, "not started"]
    assert [trial.is_counted for trial in summary.trials] == [state == "done" for state in states]
    assert summary.metric.best == frozenset()  # of the settings with all seeds there is one
    comparison = cell(summary, "lr=0.0003, batch_size=32").comparison
    assert comparison is not None
    assert (comparison.test, comparison.counts) == ("welch", (2, 3))
    text = sweep_page(summary)
    assert "4 of 12 runs are in no mean" not in text
    assert "3 of 12 runs are in no mean" in text
    assert "has no config.yaml" in text
    assert "metrics.jsonl: 1 line cannot be read" in text
    assert "loss/d is nan at step 7" in text


def test_a_setting_with_a_failed_run_is_never_best(tmp_path: Path) -> None:
    made_sweep(tmp_path, rows=kid_rows)
    for lr, batch_size in ((0.0003, 32), (0.0003, 16), (0.0001, 16), (0.0001, 32)):
        run_of(tmp_path, lr, batch_size, seed=0).set_status("stopped")  # so that all have two seeds
    run_of(tmp_path, 0.0003, 32, seed=0).set_status("failed")
    summary = summarise(read_sweep(tmp_path / "made.yaml"), tmp_path / "runs")
    assert summary.metric.best == {0}


def test_the_baseline_can_be_chosen(tmp_path: Path) -> None:
    made = made_sweep(tmp_path, rows=kid_rows)
    runs = tmp_path / "runs"
    assert summarise(made, runs, baseline="lr=3e-4,batch_size=32").baseline.name == "lr=0.0003, batch_size=32"
    no_recipe = replace(made, command=("python", "-m", "dcgan_dist.train", "--config", "none.yaml", "${args}"))
    summary = summarise(no_recipe, runs)
    assert (summary.baseline.name, summary.baseline_reason) == ("lr=0.0003, batch_size=16", "the first of the file")
    for baseline, message in {
        "lr=1": "--baseline lr=1: no setting of this sweep; lr takes 0.0003, 0.0001",
        "lr=0.0001": "--baseline lr=0.0001 fits 2 settings, as lr=0.0001, batch_size=16 and lr=0.0001, batch_size=32",
        "seed=1": "--baseline: seed is no parameter that varies in this sweep; these are: lr, batch_size",
        "lr": "--baseline must be NAME=VALUE,..., got 'lr'",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            summarise(made, runs, baseline=baseline)


def test_runs_of_an_edited_file_are_told(tmp_path: Path) -> None:
    made_sweep(tmp_path, rows=kid_rows)
    config = run_of(tmp_path, 0.0001, 16, seed=0).config
    config.write_text(config.read_text().replace("base_channels: 24", "base_channels: 8"))
    summary = summarise(read_sweep(tmp_path / "made.yaml"), tmp_path / "runs")
    assert any("The runs also differ in base_channels" in note for note in summary.notes)


def test_a_run_that_was_killed_is_not_running(tmp_path: Path) -> None:
    made = made_sweep(tmp_path, rows=kid_rows)
    for seed in (0, 1):
        run_of(tmp_path, 0.0003, 16, seed=seed).set_status("running")
    trainer = hold("run", run_of(tmp_path, 0.0003, 16, seed=1).path)
    try:
        summary = summarise(made, tmp_path / "runs")
    finally:
        end(trainer)
    assert [trial.state for trial in summary.trials[:3]] == ["stopped", "running", "done"]
    assert "<small>killed</small>" in sweep_page(summary)


SEVERAL_AT_ONCE = TEXT.replace("lr: {values: [0.0003, 0.0001]}", "set: {values: [smooth_fake=0.2, '', lr=3e-4]}")


def rows_of_set(point: Point) -> Rows:
    """Points of ``set`` with 32 images a step are twice as long."""
    long = point.parameters["batch_size"] == 32
    return [{"step": step, KID: point.index + 1.0} for step in ((100, 200) if long else (100,))]


def test_several_settings_as_one_parameter(tmp_path: Path) -> None:
    made = made_sweep(tmp_path, rows=rows_of_set, text=SEVERAL_AT_ONCE)
    summary = summarise(made, tmp_path / "runs")
    assert (summary.baseline.name, summary.baseline_reason) == ("set=, batch_size=16", "the recipe's own values")
    assert summary.notes == []  # that runs differ in smooth_fake and lr is as the sweep wants it
    page = unescape(sweep_page(summary))
    assert "Runs have 100 to 200 steps, and the metric is compared at step 100" in page
    for wanted, name in {
        "set=,batch_size=32": "set=, batch_size=32",
        "set=lr=0.0003,batch_size=16": "set=lr=3e-4, batch_size=16",
    }.items():
        assert summarise(made, tmp_path / "runs", baseline=wanted).baseline.name == name


def test_without_seeds_nothing_is_tested(tmp_path: Path) -> None:
    text = TEXT.replace("  seed: {values: [0, 1, 2]}\n", "").replace(f"metric: {{name: {KID}, goal: minimize}}\n", "")

    def rows(point: Point) -> Rows:
        return kid_rows(replace(point, parameters={**point.parameters, "seed": 0}))

    summary = summary_of(tmp_path, rows, text=text)
    found = cell(summary, "lr=0.0003, batch_size=16")
    assert (found.values, found.estimate.half_width) == ({"": 1}, None)
    assert f"The sweep names no metric; {KID} is taken." in summary.notes
    page = sweep_page(summary)
    assert "One seed says nothing of chance" in page
    assert "not tested: 1 seed" in page
    assert "1 seed, no interval" in page


def test_plots_know_where_each_setting_is(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    lr, batch_size = parameter_plots(summary)
    assert lr["ticks"] == [(0.0, "0.0001"), (1.0, "0.0003")]
    assert [(each["label"], each["points"]) for each in lr["series"]] == [
        ("batch_size=16", [[0, 2], [1, 0]]),
        ("batch_size=32", [[0, 3], [1, 1]]),
    ]
    assert [each["label"] for each in batch_size["series"]] == ["lr=0.0003", "lr=0.0001"]
    heat = heat_map(summary)
    assert heat is not None
    assert (heat["rows"], heat["columns"]) == (["0.0001", "0.0003"], ["16", "32"])
    assert heat["cells"] == [[2, 3], [0, 1]]


def test_drawn_values_have_a_scale_of_their_own(tmp_path: Path) -> None:
    text = TEXT.replace("method: grid", "method: random\nrun_cap: 20")
    text = text.replace(
        "lr: {values: [0.0003, 0.0001]}", "lr: {min: 0.00001, max: 0.01, distribution: log_uniform_values}"
    )
    summary = summary_of(tmp_path, lambda _: [{"step": 1, KID: 1.0}], text=text)
    plot = parameter_plots(summary)[0]
    assert heat_map(summary) is None
    for at, setting in plot["series"][0]["points"]:
        assert at == pytest.approx(math.log10(summary.settings[setting].values["lr"]))
    low, high = plot["range"]
    assert [float(label) for _, label in plot["ticks"]] == pytest.approx(
        [10 ** (low + (high - low) * i / 4) for i in range(5)], rel=0.01
    )


def test_curves_are_means_with_the_range_of_seeds(tmp_path: Path) -> None:
    charts, curves = mean_curves(summary_of(tmp_path))
    assert {chart.title.partition(":")[0] for chart in charts} == {KID, "loss/d", "loss/g", "time/step"}
    kid = curves[0][KID]
    assert (kid["x"], kid["y"], kid["low"], kid["high"]) == ([100, 200], [4, 2], [2, 1], [6, 3])


def test_the_page_holds_every_part(tmp_path: Path) -> None:
    made = made_sweep(tmp_path, rows=kid_rows, grid_steps=range(0, 1000, 100))
    write_sweep_report(made, tmp_path / "runs")
    path = tmp_path / "runs" / "made" / "report.html"
    text = path.read_text(encoding="utf-8")
    data = data_of(text)
    assert path.stat().st_size < PAGE_BYTES
    for title in ("Result", "Parameters", "Samples", "All measures", "Throughput and cost", "Runs"):
        assert f">{title}</h2>" in text
    shown = unescape(re.sub(r"<[^>]+>", " ", text))
    assert "lr=0.0001, batch_size=16 (the recipe's own values)" in shown
    assert "no difference shown with 3 seeds (p = 0.22 after Holm); one below 2.5 could not have been seen" in shown
    assert "batch_size varies: equal steps are not equal images seen" in shown
    assert "12 runs" not in text.partition("</header>")[0]  # nothing is left out
    assert [len(run["grids"]) for run in data["runs"]] == [0] * 4 + [6] * 12
    assert "72 of 120 sample grids are here" in text
    assert data["runs"][0]["curves"][KID]["y"] == [4, 2]
    assert data["measures"][0]["cells"][0]["values"] == [1, 2, 3]
    assert text.count('class="reals"') == 1
    assert len(data["pictures"]) == 7  # grids of the same colours are here once


def test_a_damaged_grid_is_told(tmp_path: Path) -> None:
    made = made_sweep(tmp_path, rows=kid_rows, grid_steps=[0, 100])
    run_of(tmp_path, 0.0001, 32, seed=1).sample_grids()[0][1].write_bytes(b"no picture")
    text = sweep_page(summarise(made, tmp_path / "runs"))
    assert "lr=0.0001,batch_size=32,seed=1: step-00000000.png cannot be read as a picture." in text
    assert sorted(len(run["grids"]) for run in data_of(text)["runs"]) == [0] * 4 + [1] + [2] * 11


def test_a_sweep_of_seeds_alone_has_one_setting(tmp_path: Path) -> None:
    text = TEXT.replace("values: [0.0003, 0.0001]", "value: 0.0003").replace("values: [16, 32]", "value: 16")
    summary = summary_of(tmp_path, text=text)
    assert [setting.name for setting in summary.settings] == ["all runs"]
    assert summary.metric.best == frozenset()
    assert cell(summary, "all runs").estimate.mean == 2
    page = sweep_page(summary)
    assert ">Parameters</h2>" not in page
    assert table_csv(summary).startswith("metric,better,")


def test_a_baseline_without_runs_is_told(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, lambda point: kid_rows(point) if point.parameters["lr"] > 0.0002 else None)
    assert summary.baseline.name == "lr=0.0001, batch_size=16"
    assert cell(summary, "lr=0.0003, batch_size=16").comparison is None
    assert "The baseline has no value of the metric" in sweep_page(summary)


def test_the_table_is_exact(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    text = table_csv(summary)
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(summary.measures) * 4
    assert text.splitlines()[0] == (
        "lr,batch_size,metric,better,step,n,mean,low,high,deviation,floor,is_best,is_baseline,"
        "difference,difference_low,difference_high,p,p_holm,test,verdict"
    )
    found = cell(summary, "lr=0.0003, batch_size=16")
    comparison = found.comparison
    assert comparison is not None
    first = rows[0]
    assert [first[name] for name in ("lr", "batch_size", "metric", "better", "step", "n")] == [
        "0.0003", "16", KID, "lower", "200", "3",
    ]  # fmt: skip
    assert [float(first[name]) for name in ("mean", "low", "high", "deviation", "floor")] == [
        2.0, found.estimate.low, found.estimate.high, 1.0, 0.5,
    ]  # fmt: skip
    assert float(first["p"]) == comparison.p
    assert float(first["difference_low"]) == comparison.low
    assert (first["is_best"], first["is_baseline"], first["test"]) == ("False", "False", "paired")
    base = rows[2]
    assert (base["is_baseline"], base["difference"], base["p"], base["verdict"]) == ("True", "", "", "")
    cost = rows[-1]
    assert (cost["metric"], cost["step"], cost["floor"]) == ("cost/device_hours", "", "")


def run_command(path: Path, *arguments: str) -> None:
    sweep.main(["report", str(path / "made.yaml"), "--runs", str(path / "runs"), *arguments])


def test_the_command_writes_a_page_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_sweep(tmp_path, rows=kid_rows)
    run_command(tmp_path, "--out", str(tmp_path / "page.html"), "--baseline", "lr=0.0003,batch_size=16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.yaml", "page.csv", "page.html", "runs"]
    assert "page.html: 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "state", "arguments", "message"),
    [
        (lambda _: None, "", (), "no run yet in"),
        (lambda _: [], "running", (), "none of its 12 runs is done (12 stopped); --step N compares"),
        (lambda _: [{"step": 1, "loss/d": 1.0}], "done", (), f"metric {KID}: no finished run has it; they have loss/d"),
        (kid_rows, "done", ("--out", "page.csv"), "--out must not end in .csv"),
        (kid_rows, "done", ("--step", "7"), "no run has eval/kid_e_n9 at --step 7"),
    ],
)
def test_mistakes_are_one_message_and_write_nothing(
    rows: Callable[[Point], Rows | None],
    state: str,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made_sweep(tmp_path, rows=rows)
    for directory in tmp_path.glob("runs/made/*"):
        RunDirectory(directory).set_status(state)
    with pytest.raises(SystemExit) as ended:
        run_command(tmp_path, *arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".csv")]


def test_help_needs_no_heavy_library() -> None:
    script = """
import sys
from dcgan_dist import sweep
try:
    sweep.main(["report", "--help"])
except SystemExit as ended:
    assert ended.code == 0
assert not {"torch", "matplotlib", "scipy"} & set(sys.modules)
"""
    job = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert job.returncode == 0, job.stderr
    assert "--baseline" in job.stdout


def test_wandb_gets_the_table_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = made_sweep(tmp_path, rows=kid_rows)
    told = write_sweep_report(made, tmp_path / "runs", wandb=True)
    assert "wandb sync" in told[-1]
    (run,) = (tmp_path / "runs" / "made" / "wandb").glob("offline-run-*")
    kept = sorted(path.name.partition("_")[0] for path in (run / "files" / "media").rglob("*") if path.is_file())
    assert kept == ["report", "seeds", "summary"]
    (page,) = (run / "files" / "media" / "html").glob("*.html")
    assert page.read_bytes() == (tmp_path / "runs" / "made" / "report.html").read_bytes()
    reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    read = subprocess.run(reader, capture_output=True, text=True, timeout=60, check=True)
    (began,) = [json.loads(line)["run"] for line in read.stdout.splitlines() if '"type":"run"' in line]
    assert (began["run_group"], began["job_type"]) == ("made", "report")
