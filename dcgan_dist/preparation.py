"""From a config to a run that can start: all that the user could have got wrong is checked, on all ranks."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from dcgan_dist import checkpoint
from dcgan_dist.auto_settings import chosen
from dcgan_dist.cli import read_yaml
from dcgan_dist.config import LENGTHS, TrainConfig, candidates, changed, plain, without_effect
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.launcher import launcher_disagreements
from dcgan_dist.distributed.runtime import Runtime
from dcgan_dist.evaluation.judging import UNMEASURED, Judge, default_extractor
from dcgan_dist.evaluation.progress import progress
from dcgan_dist.fine_tuning import facts_of, find_origin, load_origin
from dcgan_dist.gan import Gan, build_gan
from dcgan_dist.metrics.extractors import kind_of
from dcgan_dist.profiling import WARM_UP
from dcgan_dist.run_directory import RunDirectory, check_free, open_run
from dcgan_dist.run_lock import training_alone
from dcgan_dist.tracking import RunConsole
from dcgan_dist.wandb_sink import check_wandb_mode


@dataclass(kw_only=True)
class Job:
    """A run that can start: everything that the user could have got wrong has been checked, on all ranks."""

    config: TrainConfig
    """With everything that was left to be chosen."""
    runtime: Runtime
    console: RunConsole
    """For results and warnings; silent on all ranks but the main one."""
    chatter: Console
    """For what else there is to say; silent with --quiet too."""
    gan: Gan
    loader: Loader
    judge: Judge | None
    run: RunDirectory
    resumed: checkpoint.Checkpoint | None
    origin: Mapping[str, str]
    """What is noted of the checkpoint that the run began with, however often it was resumed since."""
    total_steps: int


def prepared(config: TrainConfig, runtime: Runtime, held: contextlib.ExitStack) -> Job:
    """Build and check everything that ``config`` names; ``held`` gets the lock of the run directory.

    Raises:
        ValueError: the user's mistake, the same on all ranks.
        OSError: a file that cannot be read or written, the same on all ranks.
    """
    console = RunConsole(runtime.stop, quiet=not runtime.is_main)
    chatter = Console(quiet=True) if config.run.quiet else console
    if all(getattr(config, name) is None for name in LENGTHS):
        raise ValueError(f"give exactly one of {', '.join(LENGTHS)}; recipes have theirs, see --help")
    if config.log.tracker == "wandb":
        collectives.from_main(check_wandb_mode)
    settings = checkpoint.config_dict(config).items()
    collectives.check_equal({name: str(value) for name, value in settings if name != "data"})
    rows = runtime.rows(config.images.batch_size)
    if not config.run.dry_run:  # before anything that takes long
        collectives.from_main(partial(check_free, config.run.run_dir, resume=config.run.resume))
    for sentence in (*without_effect(config), *launcher_disagreements(config.compute)):
        console.print(f"warning: {sentence}")
    config = changed(config, {"loader": collectives.from_main(partial(_chosen_loader, config))})
    config = changed(config, {"extractor": _chosen_extractor(config, console)})
    config = changed(config, collectives.from_main(partial(_kept_choices, config)))
    gan = collectives.on_all(partial(build_gan, plain(config), runtime))
    origin = _origin(config)
    for sentence in _begin(gan, origin):
        chatter.print(sentence)
    noted = facts_of(origin) if origin else {}
    loader = open_loader(config.images, config.network, seed=config.seed, rows=rows, device=runtime.device)
    total_steps = config.steps(loader.image_count)
    if left := candidates(config):
        chatter.print(f"auto: steps are timed for {' and '.join(left)} ...")
    config, choice = chosen(config, loader, runtime)
    if choice:
        chatter.print(choice)
        gan = collectives.on_all(partial(build_gan, config, runtime))
        _begin(gan, origin)  # the same checkpoint, though its run may have gone on
    judge = None
    if 0 < config.evaluation.eval_every <= total_steps and not config.run.dry_run:
        with progress(runtime, quiet=config.run.quiet) as report:
            judge = Judge(config, device=runtime.device, report=report)
        for sentence in judge.told:
            console.print(sentence)
    _check_first_batch(gan, loader)

    resumed = None
    if config.run.dry_run:
        run = RunDirectory(Path())
    else:
        run, told = collectives.from_main(partial(_opened, config, held))
        console.print(*told, sep="\n", end="\n" if told else "")
        if runtime.is_main:
            run.requeue.unlink(missing_ok=True)  # a start that fails must not be queued again
    if config.run.resume:
        resumed, told = collectives.from_main(partial(checkpoint.newest, run.checkpoints, run.best))
        told = told if resumed else [f"resume: no checkpoint in {run.path}, starting at step 0"]
        console.print(*told, sep="\n", end="\n" if told else "")
    if resumed:
        collectives.on_all(partial(checkpoint.check_resumable, resumed, config, data_digest=loader.digest))
        collectives.on_all(partial(checkpoint.load, resumed, gan))
        checkpoint.check_loaded(gan)
        noted = resumed.state.get("origin", {})
        if resumed.step > total_steps:
            raise ValueError(f"resume: {run.path} has done {resumed.step} steps already, {total_steps} are asked for")
        if not config.compute.threads and resumed.state["world_size"] == runtime.world_size:
            torch.set_num_threads(resumed.state["threads"])  # the same bits as without the interruption
    needed = WARM_UP + config.run.profile
    if config.run.profile and total_steps - (resumed.step if resumed else 0) < needed:
        raise ValueError(f"profile {config.run.profile} needs {needed} steps: {WARM_UP} come before the trace")
    if resumed:
        collectives.from_main(partial(checkpoint.tidy, run.checkpoints, keep=config.log.keep_checkpoints))
        collectives.from_main(partial(run.forget_samples, after=resumed.step))
        collectives.from_main(partial(checkpoint.tidy, run.best, keep=1))
    return Job(
        config=changed(config, {**loader.settings, "threads": torch.get_num_threads()}),
        runtime=runtime,
        console=console,
        chatter=chatter,
        gan=gan,
        loader=loader,
        judge=judge,
        run=run,
        resumed=resumed,
        origin=noted,
        total_steps=total_steps,
    )


def _origin(config: TrainConfig) -> checkpoint.Checkpoint | None:
    """The checkpoint that the run begins with; None for random weights, or when it has one of its own to go on from.

    Raises:
        ValueError: on every rank; ``init_from`` has none.
    """
    init_from, run = config.fine_tuning.init_from, RunDirectory(Path(config.run.run_dir))
    begun = config.run.resume and collectives.from_main(partial(checkpoint.exist, run.checkpoints, run.best))
    return collectives.from_main(partial(find_origin, init_from)) if init_from and not begun else None


def _begin(gan: Gan, origin: checkpoint.Checkpoint | None) -> list[str]:
    """Put the networks of ``origin``, where there is one, into ``gan``; a sentence on each setting that is another now.

    Raises:
        ValueError: on every rank; they do not fit.
    """
    if origin is None:
        return []
    told = collectives.on_all(partial(load_origin, origin, gan))
    checkpoint.check_loaded(gan)
    return told


def _opened(config: TrainConfig, held: contextlib.ExitStack) -> tuple[RunDirectory, list[str]]:
    """The run's directory, locked, and what there is to say about that. Main process only."""
    run = open_run(config.run.run_dir, recipe=config.recipe, resume=config.run.resume)
    told = held.enter_context(training_alone(run.path))
    run.forget_unfinished()
    return run, told


def _chosen_extractor(config: TrainConfig, console: Console) -> str:
    """The setting ``extractor``; auto is what the run that goes on has, else, to evaluate, efflite0 where installed."""
    chosen = collectives.from_main(partial(_of_the_run, config, "extractor", config.evaluation.extractor))
    if chosen == "auto" and config.evaluation.eval_every:
        chosen = default_extractor()
        if chosen == "none":
            console.print(UNMEASURED)
    if chosen not in ("auto", "none"):
        kind_of(chosen)  # whether there is one, also in a dry run and where nothing is evaluated
    return chosen


def _chosen_loader(config: TrainConfig) -> str:
    """The setting ``loader``; a run that goes on keeps what ``auto`` chose when it began."""
    return _of_the_run(config, "loader", config.images.loader)


def _kept_choices(config: TrainConfig) -> dict[str, str]:
    """What precision and memory_format auto became when the run that goes on began; auto when no run does."""
    return {name: _of_the_run(config, name, "auto") for name in candidates(config)}


def _of_the_run(config: TrainConfig, name: str, value: str) -> str:
    """The setting ``name``, which is ``value``; auto becomes what stands in the config.yaml of a run that goes on."""
    written = RunDirectory(Path(config.run.run_dir)).config
    if value == "auto" and config.run.resume and written.exists():
        return str(read_yaml(written).get(name, "auto"))
    return value


def _check_first_batch(gan: Gan, loader: Loader) -> None:
    """Compare what the ranks are about to train on: images, and the z and positions of the first batch.

    Raises:
        ValueError: on every rank, naming the first thing that differs and the ranks.
    """
    draws = gan.draws(0, rows=(0, gan.config.images.batch_size))
    first = {"z": gan.latent(draws, "z"), "positions": torch.from_numpy(loader.positions(0))}
    told = {f"{name} of the first batch": collectives.digest({name: values}) for name, values in first.items()}
    collectives.check_equal({"the images": loader.digest, **told})
