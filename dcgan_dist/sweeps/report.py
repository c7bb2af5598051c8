"""The report of a sweep: its page, its table as CSV, and both in Weights & Biases."""

import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcgan_dist.config import LogConfig
from dcgan_dist.files import write_whole
from dcgan_dist.pages import PAGE_BYTES
from dcgan_dist.pages.sweep_page import sweep_page
from dcgan_dist.results.comparison import verdict
from dcgan_dist.results.sweep_summary import Summary, SweepMeasure, summarise
from dcgan_dist.results.trials import Setting
from dcgan_dist.sweeps.file import Sweep
from dcgan_dist.wandb_sink import bounded_settings, check_wandb_mode, wanted_mode

COLUMNS = (
    "metric",
    "better",
    "step",
    "n",
    "mean",
    "low",
    "high",
    "deviation",
    "floor",
    "is_best",
    "is_baseline",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "test",
    "verdict",
)
"""Of the CSV, after those of the parameters."""

Row = dict[str, Any]


def write_sweep_report(
    sweep: Sweep,
    runs: Path,
    *,
    out: Path | None = None,
    baseline: str | None = None,
    step: int | None = None,
    images: int | None = None,
    wandb: bool = False,
) -> list[str]:
    """Write the page and, beside it, the CSV; sentences on what was written.

    Args:
        sweep: the checked file.
        runs: directory of the sweep's directory.
        out: the page; default ``runs``/SWEEP/report.html.
        baseline: as for ``summarise``, as are ``step`` and ``images``.
        step: compare after so many steps.
        images: compare after so many real images.
        wandb: whether to log both as a run of W&B too.

    Raises:
        ValueError: when there is nothing to compare; then nothing is written.
        OSError: when a file cannot be written.
    """
    if wandb:
        check_wandb_mode()
    summary = summarise(sweep, runs, baseline=baseline, step=step, images=images)
    path = out or runs / sweep.name / "report.html"
    table = path.with_suffix(".csv")
    if table == path:
        raise ValueError(f"--out must not end in .csv, which the table beside the page does, got {path}")
    page = sweep_page(summary).encode(errors="replace")
    if len(page) >= PAGE_BYTES:
        raise ValueError(f"the curves of {len(summary.trials)} runs do not fit into one page")
    write_whole(table, table_csv(summary).encode())
    write_whole(path, page)
    told = [f"{path}: {len(page) / 1e6:.1f} MB; open it in a browser", f"{table}: a row for each setting and metric"]
    if wandb:
        told.append(f"W&B: {_log(summary, path, directory=runs / sweep.name)}")
    return told


def table_csv(summary: Summary) -> str:
    """A row for each metric and setting, in the order of the page and the file; what there is not is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*summary.parameters, *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(summary))
    return text.getvalue()


def _rows(summary: Summary) -> Iterator[Row]:
    for measure in summary.measures:
        for setting in summary.settings:
            yield _row(summary, measure, setting)


def _row(summary: Summary, measure: SweepMeasure, setting: Setting) -> Row:
    cell = measure.cells[setting.place]
    row: Row = {
        **setting.values,
        "metric": measure.name,
        "better": measure.better,
        "n": cell.estimate.n if cell else 0,
        "is_best": setting.place in measure.best,
        "is_baseline": setting is summary.baseline,
    }
    if cell is None:
        return row
    found = cell.estimate
    row |= {"step": cell.step, "mean": found.mean, "low": found.low, "high": found.high}
    row |= {"deviation": found.deviation, "floor": cell.floor}
    if (comparison := cell.comparison) is not None:
        row |= {
            "difference": comparison.difference,
            "difference_low": comparison.low,
            "difference_high": comparison.high,
            "p": comparison.p,
            "p_holm": comparison.p_holm,
            "test": comparison.test,
            "verdict": verdict(comparison, measure.better),
        }
    return row


def _log(summary: Summary, page: Path, *, directory: Path) -> str:
    """Log the table, the numbers of each seed and the page as one run of W&B; where it is.

    Offline without a key, and when the server does not take all of it.
    """
    import wandb

    try:
        return _logged(summary, page, directory=directory, mode=wanted_mode())
    except Exception as error:  # W&B's errors have no common base
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"warning: W&B: {reason}; going on offline", file=sys.stderr)
        wandb.teardown()  # else the half-started run still owns its id
    return _logged(summary, page, directory=directory, mode="offline")


def _logged(summary: Summary, page: Path, *, directory: Path, mode: str) -> str:
    import wandb

    if mode != "online":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else a DNS look-up, even offline
    configs = [trial.run.config for trial in summary.trials if trial.run and trial.run.config]
    run = wandb.init(
        project=configs[0].log.project if configs else LogConfig().project,
        name=f"{summary.sweep.name} report",
        group=summary.sweep.name,
        job_type="report",
        dir=str(directory),
        mode=mode,  # type: ignore[arg-type]
        settings=bounded_settings(),
    )
    columns = [*summary.parameters, *COLUMNS]
    seeds = ["setting", "seed", "metric", "value"]
    values = [
        [setting.name, seed, measure.name, value]
        for measure in summary.measures
        for setting in summary.settings
        if (cell := measure.cells[setting.place])
        for seed, value in cell.values.items()
    ]
    rows = [[_plain(row.get(column)) for column in columns] for row in _rows(summary)]
    run.log(
        {
            "summary": wandb.Table(columns=columns, data=rows, allow_mixed_types=True),
            "seeds": wandb.Table(columns=seeds, data=values),
            "report": wandb.Html(page, inject=False),
        }
    )
    run.finish()
    if mode == "online":
        return str(run.url)
    return mode if mode != "offline" else f"offline; upload later with: wandb sync {Path(run.dir).parent}"


def _plain(value: Any) -> Any:
    """What a table of W&B can hold: a list becomes text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)
