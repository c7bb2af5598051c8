"""What dcgan-doctor does, in which order, and the report it prints."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.diagnosis import probe, trial
from dcgan_dist.diagnosis.probe import Facts
from dcgan_dist.diagnosis.trial import Outcome
from dcgan_dist.diagnosis.verdicts import (
    Check,
    judge_comparison,
    judge_digests,
    judge_facts,
    judge_network,
    judge_pace,
    verdict,
)
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.failure import PeerError, attended, last_words
from dcgan_dist.distributed.launcher import (
    check_world_size,
    end_with_launcher,
    launched_processes,
    launcher_disagreements,
)
from dcgan_dist.distributed.runtime import Runtime, start
from dcgan_dist.loop import DivergenceError
from dcgan_dist.terminal import is_first_process
from dcgan_dist.words import counted

STEPS = 20
SECONDS = 15.0
"""For the steps on one process, when the user does not say how many."""
SAME_RUN = 1e-9
"""Relative difference up to which N processes gave the run of one, in float64 after a few dozen steps."""


def examine(config: TrainConfig, *, steps: int | None, directory: Path, as_json: bool) -> bool:
    """Whether all is well, the same on every rank; one process prints what was found."""
    say = Console(stderr=True, quiet=not is_first_process(), soft_wrap=True, highlight=False, markup=False).print
    processes = launched_processes()
    shared = changed(config, {"batch_size": shareable(config.images.batch_size, processes)})
    reference: Outcome | Check | None = None
    try:
        end_with_launcher()
        check_world_size(processes)
        if is_first_process():  # the others wait for it in start
            say("some steps on one process ...")
            reference = _on_one_process(shared, steps=steps)
        runtime = start(config.compute)
    except (ValueError, RuntimeError) as error:
        if is_first_process():
            _print_report([Check("launcher", str(error), "WRONG")], ranks=[], as_json=as_json)
        elif isinstance(error, RuntimeError):
            raise
        if dist.is_initialized():
            dist.destroy_process_group()
        return False

    try:
        with attended(), last_words():
            say("machines and disks ...")
            ranks = collectives.gathered(probe.facts(runtime, directory))
            rows = [Check("launcher", sentence, "note") for sentence in launcher_disagreements(config.compute)]
            rows += judge_facts(ranks)
            if runtime.world_size > 1:
                say("network ...")
                rows += judge_network(probe.network(runtime.device), ranks=ranks)
            say(f"the same steps on {counted(runtime.world_size, 'process')} ...")
            rows += _on_all(shared, runtime, reference=reference, own_batch_size=config.images.batch_size)
            fit = collectives.from_main(lambda: _print_report(rows, ranks=ranks, as_json=as_json))
    except PeerError as error:
        if error.is_teller:
            _print_report([Check("processes", str(error), "WRONG")], ranks=[], as_json=as_json)
        return False
    runtime.end()
    return fit


def _on_one_process(config: TrainConfig, *, steps: int | None) -> Outcome | Check:
    """What comes of the steps on one process, or why nothing does."""
    most, seconds = (STEPS, SECONDS) if steps is None else (steps, math.inf)
    try:
        return trial.on_one_process(config, steps=most, seconds=seconds)
    except trial.ReferenceRunError as error:
        return Check("losses", str(error), "WRONG")


def _on_all(
    config: TrainConfig, runtime: Runtime, *, reference: Outcome | Check | None, own_batch_size: int
) -> list[Check]:
    """Verdicts on the same steps on all processes; only the main one need know the ``reference``."""
    reference = collectives.from_main(lambda: reference)
    if not isinstance(reference, trial.Outcome):
        return [reference] if reference else []
    images = collectives.from_main(lambda: trial.draw_images(config.network))  # other machines might round them
    steps = len(reference.losses)
    rows = [_judge_batch(config, steps=steps, own=own_batch_size, processes=runtime.world_size)]
    try:
        outcome = trial.outcome(config, runtime, images=images, steps=steps)
    except DivergenceError as error:
        return [*rows, Check("losses", str(error), "WRONG")]
    repeats = runtime.world_size == 1 and (runtime.device.type == "cpu" or config.compute.deterministic)
    return [
        *rows,
        *judge_comparison(trial.compared(outcome, reference), limit=0.0 if repeats else SAME_RUN),
        *judge_digests(collectives.gathered(outcome.digest)),
        judge_pace(outcome),
    ]


def shareable(batch_size: int, processes: int) -> int:
    """The next batch size that the processes can share evenly."""
    return math.ceil(batch_size / processes) * processes


def _judge_batch(config: TrainConfig, *, steps: int, own: int, processes: int) -> Check:
    batch_size = config.images.batch_size
    found = f"{config.recipe}: {config.network.model}, {counted(steps, 'step')} of {batch_size} images in float64"
    values = {"steps": steps, "batch_size": batch_size}
    if config.fine_tuning.init_from:
        found += ", from random weights instead of init_from's"
    if batch_size == own:
        return Check("run", found, values=values)
    return Check("run", f"{found}; {counted(processes, 'process')} cannot share its own {own}", "note", values)


# The report


def _print_report(checks: Sequence[Check], *, ranks: Sequence[Facts], as_json: bool) -> bool:
    """Whether all is well, after printing it. Main process only."""
    fit = all(check.verdict != "WRONG" for check in checks)
    sentence = verdict(checks, processes=len(ranks))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if as_json:
        report = {
            "fit": fit,
            "verdict": sentence,
            "checks": [asdict(check) for check in checks],
            "ranks": [asdict(rank) for rank in ranks],
        }
        console.out(json.dumps(report, indent=1, default=sorted))
        return fit
    table = Table("check", "found", "verdict")
    for check in checks:
        style = {"ok": "green", "note": "yellow", "WRONG": "bold red"}[check.verdict]
        table.add_row(check.name, _first_line(check.found), Text(check.verdict, style=style))
    console.print(table, soft_wrap=False)
    console.print(sentence)
    return fit


def _first_line(text: str) -> str:
    line, *more = text.splitlines()
    return f"{line} ..." if more else line
