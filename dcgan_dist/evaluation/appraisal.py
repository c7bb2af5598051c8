"""What dcgan-eval does, in which order, and what it prints."""

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dcgan_dist import checkpoint
from dcgan_dist.checkpoint import Checkpoint
from dcgan_dist.collapse.score import ALARM
from dcgan_dist.config import ComputeConfig, EvaluationConfig, TrainConfig, changed
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.failure import PeerError, attended, last_words
from dcgan_dist.distributed.runtime import Runtime, start
from dcgan_dist.evaluation.file_scores import read_files, score
from dcgan_dist.evaluation.judging import UNMEASURED, Judge, default_extractor
from dcgan_dist.evaluation.progress import progress
from dcgan_dist.evaluation.real_features import RealImages, open_real_images
from dcgan_dist.images import write_png
from dcgan_dist.metrics.extractors import download_inception
from dcgan_dist.metrics.quality import NUMBERS
from dcgan_dist.models import build_networks, dtype_of
from dcgan_dist.terminal import fail, in_words, tell
from dcgan_dist.trained import of_checkpoint, weights_file
from dcgan_dist.words import counted


@dataclass(frozen=True, kw_only=True)
class Task:
    """What was asked for."""

    run: Path
    """A run directory or a checkpoint."""
    data: str
    """Shards; "" for the run's."""
    settings: EvaluationConfig
    download: bool
    """Whether Inception's weights may be fetched."""
    nearest: Path | None
    """Where the picture of samples beside their nearest real images goes."""
    files: tuple[Path, ...]
    """To be scored; none: the generator is evaluated."""
    as_json: bool


def appraise(task: Task) -> None:
    """Do it on all processes that were started together, and print the outcome on the main one."""
    try:
        runtime = start(ComputeConfig())
    except ValueError as error:
        fail(str(error))
    try:
        with attended(), last_words():
            outcome = _scored(task, runtime) if task.files else _evaluated(task, runtime)
            if runtime.is_main:
                _print(outcome, task)
            runtime.end()
    except ValueError as error:
        fail(str(error))
    except OSError as error:  # the same on all ranks
        fail(in_words(error), code=1)
    except PeerError as error:
        if error.is_teller:
            tell(str(error))
        raise SystemExit(1) from None


def _evaluated(task: Task, runtime: Runtime) -> dict[str, Any]:
    """The numbers on the generator, as they are printed in JSON.

    Raises:
        ValueError: the user's mistake, the same on all ranks.
        OSError: a file that cannot be read or fetched, the same on all ranks.
    """
    found, config = _checkpoint(task)
    if task.download:
        download_inception()
    generator = collectives.on_all(partial(of_checkpoint, found)).to(runtime.device)
    generator.to(memory_format=torch.channels_last)  # as runs measure by default
    _check_alike(generator, weights_file(found))
    settings, told = task.settings, list[str]()
    if settings.extractor == "auto":
        settings = replace(settings, extractor=default_extractor())
        told = [UNMEASURED] if settings.extractor == "none" else []
    with progress(runtime, quiet=False) as report:
        judge = Judge(replace(config, evaluation=settings), device=runtime.device, report=report)
        judgement = judge.judge(generator, report=report)
        if task.nearest is not None:
            _write_nearest(judge, generator, task.nearest)
    outcome: dict[str, Any] = {
        **_of(found, judge.real_images),
        "generator": generator.origin.weights,
        "processes": runtime.world_size,
        "told": told + judge.told,
    }
    if (result := judgement.quality) and (real := judge.real_features):
        outcome |= {
            "extractor": result.extractor,
            "count": result.count,
            "images": result.images,
            "floor_images": result.floor_images,
            "features": real.told,
            "measures": result.measures,
            "floor": result.floor,
        }
    if judgement.collapse is not None:
        outcome |= {
            "collapse": judgement.collapse,
            "is_collapsed": judgement.is_collapsed,
            "colours": [asdict(mode) for mode in judgement.colours],
        }
    return outcome | {"metrics": judgement.scalars()}


def _write_nearest(judge: Judge, generator: nn.Module, path: Path) -> None:
    """The picture of samples beside their nearest real images. Every rank calls it.

    Raises:
        ValueError: on every rank; there is none.
        OSError: on every rank; it cannot be written.
    """
    picture = judge.nearest(generator)
    if picture is None:
        raise ValueError(f"nearest: {'; '.join(judge.told)}")
    collectives.from_main(lambda: write_png(path, picture))


def _scored(task: Task, runtime: Runtime) -> dict[str, Any]:
    """What the discriminator says of the files, as it is printed in JSON; computed on every rank.

    Raises:
        ValueError: as _evaluated.
        OSError: as _evaluated.
    """
    found, config = _checkpoint(task)
    discriminator = _discriminator(found, config, device=runtime.device)
    reals = open_real_images(config.images, config.network)
    target = reals.files.index.contents.settings.target

    pixels = collectives.on_all(partial(read_files, task.files, target, channels=config.network.channels))
    others = pixels[:0]
    if config.network.batch_deviation:
        others = collectives.on_all(lambda: reals.pixels(0, min(reals.count, config.images.batch_size - 1)))
    logits = score(discriminator, pixels, company=others, network=config.network)
    scores = [
        {"file": str(file), "logit": logit} | ({"probability": _sigmoid(logit)} if config.losses.loss == "bce" else {})
        for file, logit in zip(task.files, logits, strict=True)
    ]
    return {**_of(found, reals), "scores": scores}


def _checkpoint(task: Task) -> tuple[Checkpoint, TrainConfig]:
    """The checkpoint, and its config with the data that were asked for."""
    found = collectives.on_all(partial(checkpoint.find, task.run))
    config = collectives.on_all(partial(checkpoint.config_of, found))
    return found, changed(config, {"data": task.data or config.images.data})


def _discriminator(found: Checkpoint, config: TrainConfig, *, device: torch.device) -> nn.Module:
    """That of a checkpoint, in evaluation mode."""
    _, network = build_networks(config.network, seed=0)
    network = network.to(device, dtype_of(config.compute))
    name = "discriminator.safetensors"
    collectives.on_all(partial(checkpoint.load_network, found.path / name, network))
    _check_alike(network, name)
    return network.eval()


def _check_alike(network: nn.Module, name: str) -> None:
    """Compare what all ranks have loaded from the file ``name``."""
    tensors: dict[str, Tensor] = network.state_dict()
    collectives.check_equal({name: collectives.digest(tensors)})


def _of(found: Checkpoint, reals: RealImages) -> dict[str, Any]:
    """What was looked at."""
    return {
        "checkpoint": str(found.path),
        "step": found.step,
        "data": str(reals.files.index.directory),
        "trained_on": reals.digest == found.state["data_digest"],
    }


def _sigmoid(logit: float) -> float:
    return float(torch.tensor(logit, dtype=torch.float64).sigmoid())


def _print(outcome: dict[str, Any], task: Task) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if task.as_json:
        console.out(json.dumps(outcome, indent=1))
        return
    console.print(f"{outcome['checkpoint']} (step {outcome['step']}) and {outcome['data']}")
    if not outcome["trained_on"]:
        console.print("these are not the images that the run was trained on")
    if task.files:
        for row in outcome["scores"]:
            probability = f"  {row['probability']:.1%} real" if "probability" in row else ""
            console.print(f"{row['logit']:+8.3f}{probability}  {row['file']}")
        return
    for sentence in outcome["told"]:
        console.print(sentence)
    if "measures" in outcome:
        _print_quality(outcome, console)
    if "collapse" in outcome:
        _print_variety(outcome, console)
    seconds = outcome["metrics"]["time/eval"]
    kept = f"; features of the real images: {outcome['features']}" if "features" in outcome else ""
    console.print(f"{seconds:.1f} s{kept}")


def _print_quality(outcome: dict[str, Any], console: Console) -> None:
    count, images, floor_images = (outcome[name] for name in ("count", "images", "floor_images"))
    table = Table()
    table.add_column(outcome["extractor"])
    table.add_column(f"{count:,} fakes, {images:,} reals", justify="right")
    table.add_column(f"floor: {floor_images:,} reals, {floor_images:,} others", justify="right")
    table.add_column("better")
    for name, number in NUMBERS.items():
        if name in outcome["measures"]:
            table.add_row(
                name, *(_with_deviation(outcome[side], name) for side in ("measures", "floor")), number.better
            )
    console.print(table, soft_wrap=False)


def _print_variety(outcome: dict[str, Any], console: Console) -> None:
    metrics = outcome["metrics"]
    table = Table()
    for heading in ("collapse", "samples", "floor: held-out data"):
        table.add_column(heading, justify="left" if heading == "collapse" else "right")
    for name, value in metrics.items():
        if name.startswith("collapse/") and not name.endswith("_floor"):
            floor = metrics.get(f"{name}_floor")
            table.add_row(name.removeprefix("collapse/"), f"{value:.3f}", "" if floor is None else f"{floor:.3f}")
    console.print(table, soft_wrap=False)
    verdict = "collapsed" if outcome["is_collapsed"] else "no alarm"
    reached = sum(mode["reached"] for mode in outcome["colours"])
    console.print(
        f"score {outcome['collapse']:.2f}, alarm from {ALARM}: {verdict}; "
        f"{reached} of {counted(len(outcome['colours']), 'colour mode')} of the data reached"
    )


def _with_deviation(numbers: dict[str, float], name: str) -> str:
    value = numbers[name]
    digits = 2 if name in ("fid", "is") else 4
    deviation = numbers.get(f"{name}_std", math.nan)
    return f"{value:.{digits}f}" + (f" ± {deviation:.{digits}f}" if math.isfinite(deviation) else "")
