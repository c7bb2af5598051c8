"""One training run: ``accelerate launch -m dcgan_dist.train --config configs/RECIPE.yaml --data SHARDS``."""

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console

from dcgan_dist import checkpoint
from dcgan_dist.cli import fail, is_first_process, parse, read_yaml, tell, to_yaml
from dcgan_dist.collapse.pixels import Pixels
from dcgan_dist.config import LENGTHS, TrainConfig, changed, without_effect
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.draws import StepDraws, run_key
from dcgan_dist.distributed.failure import PeerError, attended, last_words
from dcgan_dist.distributed.launcher import launcher_disagreements
from dcgan_dist.distributed.runtime import Runtime, start, wait_for
from dcgan_dist.files import write_whole
from dcgan_dist.fine_tuning import facts_of, find_origin, load_origin, told_of, trained_parameters
from dcgan_dist.gan import Gan, build_gan
from dcgan_dist.images import grid, write_png
from dcgan_dist.judging import UNMEASURED, Judge, default_extractor
from dcgan_dist.loop import DivergenceError, Training, train
from dcgan_dist.models import build_networks
from dcgan_dist.models.blocks import freeze
from dcgan_dist.pages import write_report
from dcgan_dist.pictures import plot_histograms, plot_losses, write_comparison, write_progress
from dcgan_dist.progress import progress
from dcgan_dist.run_directory import RunDirectory, environment, open_run
from dcgan_dist.run_lock import training_alone
from dcgan_dist.summary import summary
from dcgan_dist.tracking import ConsoleSink, JsonLines, Tracker
from dcgan_dist.wandb_facts import flat_config, refer_to_checkpoints, refer_to_data
from dcgan_dist.wandb_sink import WandbSink, agents_run_directory, check_wandb_mode
from dcgan_dist.words import counted

TRIAL_STEPS = 5
"""Steps that --dry_run times, after one to warm up."""
PROFILE_WARMUP = 10
"""Steps before --profile begins to record."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train one run; see ``--help`` for every setting."""
    config = _placed(parse(argv))
    try:
        if config.run.summary:
            if is_first_process():
                print_summary(config)
            return
        runtime = start(config.compute)
    except ValueError as error:
        fail(str(error))
    with attended():
        _whole_job(config, runtime)


def _placed(config: TrainConfig) -> TrainConfig:
    """A point that W&B's agent runs has the directory of its id, where it goes on when the sweep hands it out again."""
    place = agents_run_directory()
    if place is None or config.run.run_dir or config.run.dry_run:
        return config
    return changed(config, {"run_dir": str(place), "resume": True})


def _whole_job(config: TrainConfig, runtime: Runtime) -> None:
    """The whole job; whatever ends it early becomes one message and an exit code."""
    runtime.stop.listen()
    try:
        with contextlib.ExitStack() as held:
            _prepare_and_run(config, runtime, held)
    except BaseException:
        if runtime.stop.at_once:
            fail("stopped at once by a second Ctrl-C; --resume goes on from the newest checkpoint", code=1)
        raise
    finally:
        runtime.stop.unlisten()


def _prepare_and_run(config: TrainConfig, runtime: Runtime, held: contextlib.ExitStack) -> None:
    try:
        with last_words():
            job = _prepared(config, runtime, held)
    except ValueError as error:
        fail(str(error))
    except OSError as error:  # the same on all ranks
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), code=1)
    except PeerError as error:
        _fail_here(error)
    try:
        with contextlib.closing(job.loader), last_words():
            if config.run.dry_run:
                _dry_run(job)
            else:
                _run(job)
            runtime.end()
    except DivergenceError as error:
        fail(str(error), code=1)
    except (OSError, PeerError) as error:
        _fail_here(error)


def _fail_here(error: OSError | PeerError) -> NoReturn:
    """End the process with exit code 1; the message comes from the rank that met the error, or one of those left."""
    if isinstance(error, PeerError):
        if error.is_teller:
            tell(str(error))
    else:
        tell(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    raise SystemExit(1)


def print_summary(config: TrainConfig) -> None:
    """Both networks as tables."""
    generator, discriminator = build_networks(config.network, seed=config.seed)
    freeze(generator, discriminator, config.fine_tuning)
    network = config.network
    console = Console()
    console.print(summary(generator, torch.zeros(1, network.latent_dim), title="generator"))
    image = torch.zeros(1, network.channels, network.image_size, network.image_size)
    console.print(summary(discriminator, image, title="discriminator"))


@dataclass(kw_only=True)
class _Job:
    """A run that can start: everything that the user could have got wrong has been checked, on all ranks."""

    config: TrainConfig
    """With everything that was left to be chosen."""
    runtime: Runtime
    console: Console
    """Silent on all ranks but the main one."""
    gan: Gan
    loader: Loader
    judge: Judge | None
    run: RunDirectory
    resumed: checkpoint.Checkpoint | None
    origin: Mapping[str, str]
    """What is noted of the checkpoint that the run began with, however often it was resumed since."""
    total_steps: int


def _prepared(config: TrainConfig, runtime: Runtime, held: contextlib.ExitStack) -> _Job:
    """Build and check everything that ``config`` names; ``held`` gets the lock of the run directory.

    Raises:
        ValueError: the user's mistake, the same on all ranks.
        OSError: a file that cannot be read or written, the same on all ranks.
    """
    console = Console(quiet=not runtime.is_main, soft_wrap=True, highlight=False, markup=False)
    if all(getattr(config, name) is None for name in LENGTHS):
        raise ValueError(f"give exactly one of {', '.join(LENGTHS)}; recipes have theirs, see configs/")
    if config.log.tracker == "wandb":
        collectives.from_main(check_wandb_mode)
    settings = checkpoint.config_dict(config).items()
    collectives.check_equal({name: str(value) for name, value in settings if name != "data"})
    rows = runtime.rows(config.images.batch_size)
    for sentence in (*without_effect(config), *launcher_disagreements(config.compute)):
        console.print(f"warning: {sentence}")
    config = changed(config, {"loader": collectives.from_main(partial(_chosen_loader, config))})
    config = changed(config, {"extractor": _chosen_extractor(config, console)})
    gan = collectives.on_all(partial(build_gan, config, runtime))
    origin = _load_initial_networks(config, gan, console)
    loader = open_loader(config.images, config.network, seed=config.seed, rows=rows, device=runtime.device)
    total_steps = config.steps(loader.image_count)
    judge = None
    if 0 < config.evaluation.eval_every <= total_steps and not config.run.dry_run:
        with progress(runtime) as report:
            judge = Judge(config, device=runtime.device, report=report)
        for sentence in judge.told:
            console.print(sentence)
    _check_first_batch(config, gan, loader, device=runtime.device)

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
        origin = resumed.state.get("origin", {})
        if resumed.step > total_steps:
            raise ValueError(f"resume: {run.path} has done {resumed.step} steps already, {total_steps} are asked for")
        if not config.compute.threads and resumed.state["world_size"] == runtime.world_size:
            torch.set_num_threads(resumed.state["threads"])  # the same bits as without the interruption
    needed = PROFILE_WARMUP + config.run.profile
    if config.run.profile and total_steps - (resumed.step if resumed else 0) < needed:
        raise ValueError(f"profile {config.run.profile} needs {needed} steps: {PROFILE_WARMUP} come before the trace")
    if resumed:
        collectives.from_main(partial(checkpoint.tidy, run.checkpoints, keep=config.log.keep_checkpoints))
        collectives.from_main(partial(run.forget_samples, after=resumed.step))
        collectives.from_main(partial(checkpoint.tidy, run.best, keep=1))
    return _Job(
        config=changed(config, {**loader.settings, "threads": torch.get_num_threads()}),
        runtime=runtime,
        console=console,
        gan=gan,
        loader=loader,
        judge=judge,
        run=run,
        resumed=resumed,
        origin=origin,
        total_steps=total_steps,
    )


def _load_initial_networks(config: TrainConfig, gan: Gan, console: Console) -> dict[str, str]:
    """Put those of ``init_from`` into ``gan``, unless the run has a checkpoint to go on from; what is noted of them.

    Raises:
        ValueError: on every rank; there is no checkpoint, or its networks do not fit.
    """
    init_from, run = config.fine_tuning.init_from, RunDirectory(Path(config.run.run_dir))
    begun = config.run.resume and collectives.from_main(partial(checkpoint.exist, run.checkpoints, run.best))
    if not init_from or begun:
        return {}
    origin = collectives.from_main(partial(find_origin, init_from))
    for sentence in collectives.on_all(partial(load_origin, origin, gan)):
        console.print(sentence)
    checkpoint.check_loaded(gan)
    return facts_of(origin)


def _opened(config: TrainConfig, held: contextlib.ExitStack) -> tuple[RunDirectory, list[str]]:
    """The run's directory, locked, and what there is to say about that. Main process only."""
    run = open_run(config.run.run_dir, recipe=config.recipe, resume=config.run.resume)
    return run, held.enter_context(training_alone(run.path))


def _chosen_extractor(config: TrainConfig, console: Console) -> str:
    """The setting ``extractor``; auto is what the run that goes on has, else, to evaluate, efflite0 where installed."""
    chosen = collectives.from_main(partial(_of_the_run, config, "extractor", config.evaluation.extractor))
    if chosen == "auto" and config.evaluation.eval_every:
        chosen = default_extractor()
        if chosen == "none":
            console.print(UNMEASURED)
    return chosen


def _chosen_loader(config: TrainConfig) -> str:
    """The setting ``loader``; a run that goes on keeps what ``auto`` chose when it began."""
    return _of_the_run(config, "loader", config.images.loader)


def _of_the_run(config: TrainConfig, name: str, value: str) -> str:
    """The setting ``name``, which is ``value``; auto becomes what stands in the config.yaml of a run that goes on."""
    written = RunDirectory(Path(config.run.run_dir)).config
    if value == "auto" and config.run.resume and written.exists():
        return str(read_yaml(written).get(name, "auto"))
    return value


def _check_first_batch(config: TrainConfig, gan: Gan, loader: Loader, *, device: torch.device) -> None:
    """Compare what the ranks are about to train on: images, and the z and positions of the first batch.

    Raises:
        ValueError: on every rank, naming the first thing that differs and the ranks.
    """
    batch_size = config.images.batch_size
    draws = StepDraws(
        key=run_key(config.seed, device), step=0, batch_size=batch_size, start=0, stop=batch_size, dtype=gan.dtype
    )
    first = {"z": gan.latent(draws, "z"), "positions": torch.from_numpy(loader.positions(0))}
    told = {f"{name} of the first batch": collectives.digest({name: values}) for name, values in first.items()}
    collectives.check_equal({"the images": loader.digest, **told})


def _run(job: _Job) -> None:
    """Train, and leave a run directory."""
    runtime, console, run, resumed = job.runtime, job.console, job.run, job.resumed
    with _status(job):
        first_step = resumed.step if resumed else 0
        facts = environment(runtime) | dict(job.origin) | trained_parameters(job.gan)
        if runtime.is_main:
            _write_first_files(job, facts)
        console.print(_headline(job))
        console.print(f"run directory {run.path}")
        with _tracker(job, facts, first_step=first_step) as tracker:
            training = Training(
                gan=job.gan,
                loader=job.loader,
                runtime=runtime,
                run=run,
                tracker=tracker,
                total_steps=job.total_steps,
                judge=job.judge,
                origin=job.origin,
                may_collapse=bool(job.origin),
            )
            if resumed:
                training.go_on_from(resumed)
                if resumed.path.parent == run.best:
                    training.save()  # the run was killed before it could, or in the middle of a rollback
            begin = time.monotonic()
            try:
                with last_words(), _profiled(job) as after_step:
                    done = train(training, after_step=after_step)
            except BaseException as error:
                _note_failure(job, error)  # before W&B takes its time to finish
                if isinstance(error, DivergenceError):  # on all ranks
                    collectives.from_main(partial(_leave_pictures, job, tracker, step=training.step))
                    collectives.from_main(partial(_leave_report, job))
                raise
            seconds = time.monotonic() - begin
            stopped = "" if done else f"{runtime.stop.received or 'a signal to another rank'} at step {training.step}"
            if stopped:
                tracker.stopped(stopped)
            nearest = _nearest(job) if done else None
            if runtime.is_main:
                if nearest is not None:
                    write_png(run.nearest, nearest)
                _leave_pictures(job, tracker, step=training.step)
                _note_end(job, stopped)  # before W&B takes its time to finish
                _leave_report(job)  # once status.json says how the run ended
                if tracker.wandb is not None:
                    refer_to_checkpoints(tracker.wandb, run, data_digest=job.loader.digest)
    if runtime.is_main:
        _say_goodbye(job, step=training.step, steps=training.step - first_step, seconds=seconds)


def _tracker(job: _Job, facts: Mapping[str, Any], *, first_step: int) -> Tracker:
    """The run's tracker: with sinks on the main process, without on the others."""
    if not job.runtime.is_main:
        return Tracker()
    config, run, resumed = job.config, job.run, job.resumed
    wandb = None
    if config.log.tracker == "wandb":
        shown = flat_config(config, facts, run=run, loader=job.loader, total_steps=job.total_steps)
        wandb = WandbSink(shown, project=config.log.project, run_dir=run.path, run_id=run.identity())
        job.console.print(f"W&B {wandb.description}")
        refer_to_data(wandb, config.images.data, loader=job.loader)
    return Tracker(
        metrics=JsonLines(run.metrics, keep_bytes=resumed.state["metrics_bytes"] if resumed else 0),
        console=ConsoleSink(job.console, total_steps=job.total_steps, first_step=first_step),
        wandb=wandb,
    )


@contextlib.contextmanager
def _status(job: _Job) -> Iterator[None]:
    """Keep status.json true: running, and failed when the block raises; ``_note_end`` says the rest."""
    if job.runtime.is_main:
        job.run.set_status("running", total_steps=job.total_steps)
    try:
        yield
    except BaseException as error:
        _note_failure(job, error)
        raise


def _note_end(job: _Job, stopped: str) -> None:
    """Say in status.json, and to batch scripts, that the run is done, or why it stopped. Main process only."""
    if stopped:
        write_whole(job.run.requeue, b"")
    job.run.set_status("stopped" if stopped else "done", stopped, total_steps=job.total_steps)


def _note_failure(job: _Job, error: BaseException) -> None:
    """Say in status.json why the run failed: the main process does, or who is the first to know of another's end."""
    if job.runtime.is_main or (isinstance(error, PeerError) and error.is_teller):
        reason = str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # a full disk, perhaps
            job.run.set_status("failed", reason, total_steps=job.total_steps)


def _write_first_files(job: _Job, facts: Mapping[str, Any]) -> None:
    job.run.nearest.unlink(missing_ok=True)  # of when the run had been done before
    write_whole(job.run.config, to_yaml(job.config).encode())
    job.run.write_environment(facts)
    write_png(job.run.reals, grid(job.loader.first(job.config.log.sample_count)))


def _nearest(job: _Job) -> Pixels | None:
    """The picture of samples beside their nearest real images, if it can be made. Every rank calls it."""
    try:
        return job.judge.nearest(job.gan.sampled) if job.judge else None
    except (ValueError, OSError) as error:  # the same on all ranks; the data have gone, but the run is done
        job.console.print(f"warning: no {job.run.nearest}: {error}")
        return None


def _leave_pictures(job: _Job, tracker: Tracker, *, step: int) -> None:
    """Plots, animations, reals beside fakes."""
    run = job.run
    if run.metrics.stat().st_size:
        plot_losses(run)
    plot_histograms(run)
    write_comparison(run)
    write_progress(run)
    for path in (run.losses, run.histogram_picture, run.comparison, run.nearest, run.progress):
        if path.exists():
            tracker.picture(step, path.stem, path=path)


def _leave_report(job: _Job) -> None:
    """The run's page, if it can be made: whatever it lacks, the run has ended as it has."""
    try:
        told = write_report([job.run.path], job.run.report)
    except (ValueError, OSError) as error:
        told = [f"warning: no {job.run.report}: {error}"]
    for sentence in told:
        job.console.print(sentence)


@contextlib.contextmanager
def _profiled(job: _Job) -> Iterator[Callable[[], None]]:
    """What to call after each step; with --profile it drives torch.profiler on the main process."""
    if not job.config.run.profile or not job.runtime.is_main:
        yield lambda: None
        return
    schedule = torch.profiler.schedule(wait=0, warmup=PROFILE_WARMUP, active=job.config.run.profile, repeat=1)
    with torch.profiler.profile(
        schedule=schedule, on_trace_ready=lambda profile: profile.export_chrome_trace(str(job.run.trace))
    ) as profile:
        yield profile.step


def _headline(job: _Job) -> str:
    config, runtime, loader = job.config, job.runtime, job.loader
    fast = runtime.device.type == "cuda" and not config.compute.deterministic
    batches = f"{counted(job.total_steps, 'step')} of {config.images.batch_size} images"
    return (
        f"{config.recipe}: {config.network.model}, {batches}; "
        f"{loader.image_count:,} images {loader.description}; {counted(runtime.world_size, 'process')} on "
        f"{runtime.device.type}, {counted(torch.get_num_threads(), 'thread')} each, "
        f"{'fast (TF32, autotuned)' if fast else 'deterministic'} kernels"
        + (f"\n{told_of(job.origin, gan=job.gan)}" if job.origin else "")
    )


def _say_goodbye(job: _Job, *, step: int, steps: int, seconds: float) -> None:
    """How far the run came and where to look. Main process only."""
    run, say = job.run, job.console.print
    pace = f", {seconds / steps * 1000:.1f} ms a step with all pauses" if steps else ""
    if job.judge:
        say(f"evaluations took {job.judge.share:.1%} of the time")
    if step == job.total_steps:
        say(f"done: {steps:,} steps in {timedelta(seconds=round(seconds))}{pace}")
    else:
        say(f"stopped at step {step}, saved; go on with --run_dir {run.path} --resume")
    grids = [path for _, path in run.sample_grids()[-1:]]
    pictures = [
        str(path)
        for path in (*grids, run.comparison, run.nearest, run.losses, run.progress, run.report)
        if path.exists()
    ]
    say(f"look at {', '.join(pictures)}")
    say(f"more images: dcgan-sample {run.path} --count 64 --seed 1 --out grid.png")


def _dry_run(job: _Job) -> None:
    """Print the resolved config, and time a few steps on weights that are then thrown away."""
    say = job.console.print
    say(to_yaml(job.config))
    training = Training(
        gan=job.gan,
        loader=job.loader,
        runtime=job.runtime,
        run=job.run,
        tracker=Tracker(),
        total_steps=job.total_steps,
    )
    seconds = []
    for _ in range(1 + TRIAL_STEPS):
        begin = time.perf_counter()
        training.update()
        wait_for(job.runtime.device)
        seconds.append(time.perf_counter() - begin)
    pace = statistics.median(seconds[1:])
    whole = timedelta(seconds=round(pace * job.total_steps))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    say(_headline(job))
    say(f"about {pace * 1000:.1f} ms a step, {whole} in all without pauses; {memory:.1f} GiB a process")
    if job.runtime.device.type == "cuda":
        say(f"{torch.cuda.max_memory_allocated(job.runtime.device) / 2**30:.1f} GiB of GPU memory a process")


if __name__ == "__main__":
    main()
