"""The model card of an exported generator: one page of Markdown, from what its run recorded alone."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcgan_dist.checkpoint import Checkpoint, config_of
from dcgan_dist.collapse.score import ALARM
from dcgan_dist.config import TrainConfig, leaves
from dcgan_dist.data.loader import digest_of, training_images
from dcgan_dist.data.shards import Index, read_index
from dcgan_dist.exporting.formats import FORMATS, TOLERANCE, Written
from dcgan_dist.models import MODELS
from dcgan_dist.results.gather import Run, gather
from dcgan_dist.results.measures import beside, better, group_of, is_beside, is_collapse_score, meaning
from dcgan_dist.trained import TrainedGenerator
from dcgan_dist.words import counted

MOST_CLASSES = 20
"""So many are named."""


def model_card(
    found: Checkpoint, generator: TrainedGenerator, *, run: Path, files: Mapping[str, Written], samples: str
) -> str:
    """The page.

    Args:
        found: the checkpoint that was exported.
        generator: of the checkpoint.
        run: directory of the run.
        files: what was written, by format.
        samples: file name of the picture of samples.

    Raises:
        ValueError: ``run`` is no run's directory.
    """
    (facts,) = gather([run])
    config, network = config_of(found), generator.config
    index = _index(config, found)
    colour = "RGB" if network.channels == 3 else "grey"
    blocks = [
        f"# Generator {config.recipe}, step {found.step:,}",
        f"Draws {network.image_size}x{network.image_size} {colour} images from noise. A DCGAN trained by dcgan_dist; "
        "this page was written from the run's own files.",
        f"![Samples]({samples})",
        "The first images of seed 0, in their order.",
        _table(["", ""], _generator_rows(generator)),
        "## Training",
        _table(["", ""], _training_rows(found, config, run=facts, index=index)),
        "## Data",
        _data(config, index),
        "## Results",
        _results(found, facts),
        "## Use and limits",
        _limits(config),
        "## Load it",
        *_usage(generator, files),
    ]
    return "\n\n".join(blocks) + "\n"


def _generator_rows(generator: TrainedGenerator) -> list[tuple[str, str]]:
    config, origin = generator.config, generator.origin
    model = MODELS[config.model]
    kind = type(generator.network)
    low, high = config.value_range
    reach = [f"{end:g}" for end in model.output_range]
    beyond = "" if config.value_range == model.output_range else f"; the network reaches {' to '.join(reach)}, clamp it"
    trained = sum(parameter.numel() for parameter in generator.parameters())
    shape = f"(N, {config.channels}, {config.image_size}, {config.image_size})"
    prior = "N(0, 1)" if config.prior == "normal" else "U(-1, 1)"
    return [
        ("network", f"`{config.model}`, base_channels {config.base_channels}: {counted(trained, 'parameter')}"),
        ("source", _first_paragraph(sys.modules[kind.__module__].__doc__)),
        ("input", f"z, (N, {config.latent_dim}), independent draws from {prior}"),
        ("output", f"{shape}, {low:g} is black, {high:g} white{beyond}"),
        ("weights", f"{'moving average' if origin.weights == 'average' else 'those'} after step {origin.step:,}"),
    ]


def _first_paragraph(docstring: str | None) -> str:
    return " ".join((docstring or "").partition("\n\n")[0].split())


def _training_rows(found: Checkpoint, config: TrainConfig, *, run: Run, index: Index | None) -> list[tuple[str, str]]:
    batch_size = config.images.batch_size
    seen = found.step * batch_size
    passes = f", {seen / _count(config, index):,.1f} passes over the data" if index else ""
    world_size = found.state["world_size"]
    compute = config.compute
    versions = [f"{name} {run.environment[name]}" for name in ("dcgan_dist", "torch") if name in run.environment]
    mixed = f", {compute.precision} mixed precision" if compute.precision != "no" else ""
    return [
        *_beginning_rows(found, config),
        ("length", f"{found.step:,} steps of {batch_size} images: {seen:,} images{passes}"),
        ("recipe", f"`{config.recipe}`: {_settings(config)}"),
        ("seed", str(config.seed)),
        ("computed", f"{counted(world_size, 'process')} on {_device(run)}, {compute.dtype}{mixed}"),
        ("versions", ", ".join(versions) or "not recorded"),
    ]


def _beginning_rows(found: Checkpoint, config: TrainConfig) -> list[tuple[str, str]]:
    """Of a run that began with another run's networks: whose, and which blocks of them it trained."""
    origin = found.state.get("origin")
    if not origin:
        return []
    place = "/".join(Path(origin["init_from_checkpoint"]).parts[-3:])  # without where it was on that machine
    of_g, of_d = (
        f"the last {count}" if count else "all"
        for count in (config.fine_tuning.train_only_g, config.fine_tuning.train_only_d)
    )
    sha256 = origin["init_from_generator_sha256"]
    return [
        ("begun with", f"the networks of `{place}`, whose generator.safetensors has sha256 {sha256}"),
        ("trained blocks", f"of the generator {of_g}, of the discriminator {of_d}"),
    ]


def _device(run: Run) -> str:
    device = run.environment.get("device", "a device that was not recorded")
    return run.environment.get("processor", device) if device == "cpu" else device


def _settings(config: TrainConfig) -> str:
    """What the networks minimise and how, as far as it is not the default."""
    default = TrainConfig()
    groups = ((config.losses, default.losses), (config.optim, default.optim))
    pairs = [pair for group, plain in groups for pair in zip(leaves(group), leaves(plain), strict=True)]
    always = ("loss", "update", "optimizer", "lr")
    told = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for (name, value), (_, plain) in pairs
        if name in always or value != plain
    ]
    return ", ".join(told)


def _index(config: TrainConfig, found: Checkpoint) -> Index | None:
    """The index of the images that the run was trained on; None where they are not, or are others now."""
    try:
        index = read_index(Path(config.images.data))
    except (ValueError, OSError):
        return None
    return index if digest_of(index) == found.state["data_digest"] else None


def _count(config: TrainConfig, index: Index) -> int:
    """Images that the run trained on."""
    chosen, _ = training_images(index, config.images)
    return index.contents.images if chosen is None else len(chosen)


def _data(config: TrainConfig, index: Index | None) -> str:
    licence = "Their licence is not known to the run: ask where they were published."
    if index is None:
        name = config.images.data.rstrip("/").rpartition("/")[2]
        return f"Shards named `{name}`, which were not at hand when this page was written. {licence}"
    settings = index.contents.settings
    target = settings.target
    files = ", ".join(f"`{file.name}`" for file in settings.source_files)
    made = f"crop {target.crop}, resize {target.resize}"
    count, whole = _count(config, index), index.contents.images
    part = "" if count == whole else f" of {whole:,}"
    lines = [
        f"`{settings.name}`: {counted(count, 'image')}{part}, made from source "
        f"`{settings.source}`{f' ({files})' if files else ''} with {made}."
    ]
    classes = settings.classes
    if len(classes) > 1:
        named = ", ".join(classes[:MOST_CLASSES]) + (", ..." if len(classes) > MOST_CLASSES else "")
        lines.append(f"{counted(len(classes), 'class')}, which the networks are not told: {named}.")
    if config.images.classes:
        lines.append(f"Trained on these alone: {config.images.classes}.")
    return " ".join([*lines, licence])


def _results(found: Checkpoint, run: Run) -> str:
    """The run's measures at this step, each beside its floor."""
    at = {name: dict(zip(*curve, strict=True)).get(found.step) for name, curve in run.curves.items()}
    here = {name: value for name, value in at.items() if value is not None}
    rows = []
    for name, value in here.items():
        if group_of(name) not in ("eval", "collapse") or is_beside(name):
            continue
        deviation, floor = (here.get(beside(name, kind, among=list(here)) or "") for kind in ("std", "floor"))
        measured = f"{value:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")
        rows.append((f"`{name}`", meaning(name), measured, "" if floor is None else f"{floor:.4g}", better(name)))
    if not rows:
        return f"Not measured at step {found.step:,}; `dcgan-eval` does it."
    said = "Measured at this step. The floor is the same measure between two parts of the data."
    for score in (value for name, value in here.items() if is_collapse_score(name)):
        verdict = "**the samples have collapsed**" if score >= ALARM else "the samples have not collapsed"
        said += f" By a collapse score of {score:.2f}, {verdict}: {ALARM} is the limit."
    return said + "\n\n" + _table(["name: measure, extractor, images", "meaning", "generator", "floor", "better"], rows)


def _limits(config: TrainConfig) -> str:
    network = config.network
    return (
        "Intended to study how GANs train: to compare runs, recipes and measures. "
        f"It draws images like its training data, {network.image_size} pixels wide, and nothing else: no class, text "
        "or picture can be asked for. Whether samples copy training images was looked at only if a row above says so. "
        "The run says nothing about any other use; judge its samples before you rely on them."
    )


def _usage(generator: TrainedGenerator, files: Mapping[str, Written]) -> list[str]:
    blocks = []
    for name, kind in FORMATS.items():
        if (written := files.get(name)) is None:
            continue
        sizes = " and ".join(map(str, written.batch_sizes))
        blocks.append(
            f"**{written.file}**, {written.bytes / 1e6:.2f} MB, needs {kind.needs}. Largest difference from the "
            f"PyTorch generator, in batches of {sizes}: {written.largest_difference:.1e} (at most {TOLERANCE:g})."
        )
        blocks.append(f"```python\n{kind.usage(generator.config)}```")
    return blocks


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
