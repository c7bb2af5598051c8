"""What dcgan-export does, in which order; the formats and the model card have a file each."""

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dcgan_dist import checkpoint, trained
from dcgan_dist.checkpoint import Checkpoint
from dcgan_dist.exporting.card import model_card
from dcgan_dist.exporting.formats import FORMATS, Written, write_checked
from dcgan_dist.files import write_whole
from dcgan_dist.images import grid, write_png
from dcgan_dist.sampling import sample_pixels
from dcgan_dist.typed_json import from_json

RECORD = "export.json"
CARD = "README.md"
SAMPLES = "samples.png"
SAMPLE_COUNT = 64


@dataclass(frozen=True)
class _Record:
    """What a directory of exported files holds."""

    weights_sha256: str
    """Of the checkpoint's file that all of them come from."""
    files: dict[str, Written]
    """By format."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was done."""

    directory: Path
    card: Path
    written: Written
    checkpoint: Path
    """That was exported."""
    facts: dict[str, Any]
    """The contents of export.json."""


def export(path: Path, *, name: str, out: Path | None) -> Exported:
    """Write the generator at ``path`` in format ``name`` to ``out``, check it, and write what goes with it.

    Args:
        path: A run directory or a checkpoint in one.
        name: A row of FORMATS.
        out: Directory; by default export/step-N of the run.

    Raises:
        ValueError: No checkpoint, a run that cannot be read, a directory that holds something else.
        UnequalError: The file gives other images; nothing is left.
        OSError: Something cannot be written; names the file.
    """
    found = checkpoint.find(path)
    run = Path(os.path.normpath(found.path / "../.."))  # the path may be ".", which has no parents
    if not (run / "config.yaml").exists():
        raise ValueError(f"{found.path}: is in no run directory, whose files the model card is made from")
    generator = trained.of_checkpoint(found)
    directory = out or run / "export" / f"step-{found.step:08d}"
    before = _recorded(directory, found)

    made = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        written = write_checked(generator, name, directory)
    except BaseException:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()
        raise

    record = _Record(_weights_sha256(found), before | {name: written})
    facts = generator.origin.facts() | dataclasses.asdict(record)
    write_whole(directory / RECORD, (json.dumps(facts, indent=1) + "\n").encode())
    generator.to(memory_format=torch.channels_last)  # as dcgan-sample draws: the same bytes
    samples = sample_pixels(generator, range(SAMPLE_COUNT), seed=0, network=generator.config)
    write_png(directory / SAMPLES, grid(samples))
    text = model_card(found, generator, run=run, files=record.files, samples=SAMPLES)
    write_whole(directory / CARD, text.encode())
    return Exported(directory=directory, card=directory / CARD, written=written, checkpoint=found.path, facts=facts)


def _recorded(directory: Path, found: Checkpoint) -> dict[str, Written]:
    """The files that earlier exports of the same weights have left in ``directory``.

    Raises:
        ValueError: It holds something else.
    """
    path = directory / RECORD
    if not directory.exists() or (directory.is_dir() and _is_empty(directory)):
        return {}
    if not path.is_file():
        raise ValueError(f"out {directory}: exists and is no directory of dcgan-export: name another with --out")
    try:
        record = from_json(_Record, json.loads(path.read_bytes()), str(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read: remove {directory} or name another with --out: {error}") from None
    if record.weights_sha256 != _weights_sha256(found):
        raise ValueError(f"out {directory}: has files of another generator: remove it or name another with --out")
    there = [name for name, kind in FORMATS.items() if (directory / kind.file).exists()]
    return {name: file for name, file in record.files.items() if name in there}


def _is_empty(directory: Path) -> bool:
    """Whether it has nothing but what a kill left of files that were being written."""
    return all(path.name.startswith(".") and path.suffix == ".tmp" for path in directory.iterdir())


def _weights_sha256(found: Checkpoint) -> str:
    """Of the checkpoint's file that is exported."""
    return str(found.state["sha256"][trained.weights_file(found)])
