"""One training run: ``accelerate launch -m dcgan_dist.train --config configs/RECIPE.yaml --data SHARDS``."""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from dcgan_dist import checkpoint
from dcgan_dist.cli import fail, parse, to_yaml
from dcgan_dist.config import LENGTHS, TrainConfig, without_effect
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.runtime import Runtime, start
from dcgan_dist.files import write_whole
from dcgan_dist.gan import Gan, build_gan
from dcgan_dist.images import grid, write_png
from dcgan_dist.loop import DivergenceError, Training, train
from dcgan_dist.models import build_networks
from dcgan_dist.pictures import plot_losses, write_progress
from dcgan_dist.run_directory import RunDirectory, new_run_id, open_run
from dcgan_dist.summary import summary
from dcgan_dist.tracking import ConsoleSink, JsonLines, Sink, Tracker, WandbSink

TRIAL_STEPS = 5
"""Steps that --dry_run times, after one to warm up."""
PROFILE_WARMUP = 10
"""Steps before --profile begins to record."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train one run; see ``--help`` for every setting."""
    config = parse(argv)
    try:
        if config.run.summary:
            print_summary(config)
            return
        runtime = start(config.compute)
        _run(config, runtime)
    except ValueError as error:
        fail(str(error))
    except DivergenceError as error:
        fail(str(error), code=1)


def print_summary(config: TrainConfig) -> None:
    """Both networks as tables."""
    generator, discriminator = build_networks(config.network, seed=config.seed)
    network = config.network
    console = Console()
    console.print(summary(generator, torch.zeros(1, network.latent_dim), title="generator"))
    image = torch.zeros(1, network.channels, network.image_size, network.image_size)
    console.print(summary(discriminator, image, title="discriminator"))


def _run(config: TrainConfig, runtime: Runtime) -> None:
    """Everything from processes that know each other to the files of a finished run."""
    console = Console(quiet=not runtime.is_main, soft_wrap=True, highlight=False, markup=False)
    if all(getattr(config, name) is None for name in LENGTHS):
        raise ValueError(f"give exactly one of {', '.join(LENGTHS)}; recipes have theirs, see configs/")
    rows = runtime.rows(config.images.batch_size)
    for sentence in without_effect(config):
        console.print(f"warning: {sentence}")
    gan = build_gan(config, runtime)
    loader = open_loader(config.images, config.network, seed=config.seed, rows=rows, device=runtime.device)
    total_steps = config.steps(loader.image_count)
    if config.run.dry_run:
        _dry_run(gan, loader, runtime, total_steps=total_steps, console=console)
        runtime.end()
        return

    open_this = partial(open_run, config.run.run_dir, recipe=config.recipe, resume=config.run.resume)
    run = collectives.from_main(open_this)
    resumed = _resume(gan, loader, run, runtime, console) if config.run.resume else None
    with _status(run, runtime) as finished:
        run_id = resumed.state["run_id"] if resumed else collectives.from_main(new_run_id)
        step = resumed.step if resumed else 0
        if runtime.is_main:
            _write_first_files(config, run, loader, runtime)
        console.print(_headline(config, runtime, loader, total_steps=total_steps))
        console.print(f"run directory {run.path}")
        sinks: list[Sink] = []
        if runtime.is_main:
            sinks.append(JsonLines(run.metrics, keep_bytes=resumed.state["metrics_bytes"] if resumed else 0))
            if config.log.tracker == "wandb":
                wandb = WandbSink(config, checkpoint.config_dict(config), run_dir=run.path, run_id=run_id)
                console.print(f"W&B {wandb.description}")
                sinks.append(wandb)
            sinks.append(ConsoleSink(console, total_steps=total_steps, first_step=step))
        with Tracker(sinks) as tracker:
            training = Training(gan, loader, runtime, run, tracker, total_steps, run_id, step=step)
            runtime.stop.listen()
            begin = time.monotonic()
            with _profiled(config, run, runtime) as after_step:
                done = train(training, after_step=after_step)
            seconds = time.monotonic() - begin
            if runtime.is_main:
                _write_last_pictures(run, tracker, step=training.step)
        finished("" if done else f"{runtime.stop.received or 'a signal'} at step {training.step}")
        if runtime.is_main:
            _say_goodbye(console, run, training, steps=training.step - step, seconds=seconds)
    runtime.stop.ignore()
    runtime.end()


def _resume(
    gan: Gan, loader: Loader, run: RunDirectory, runtime: Runtime, console: Console
) -> checkpoint.Checkpoint | None:
    """Put the newest whole checkpoint of ``run`` into ``gan``; None, and nothing done, when there is none."""
    resumed, told = collectives.from_main(partial(checkpoint.newest, run.checkpoints))
    for sentence in told:
        console.print(sentence)
    if resumed is None:
        console.print(f"resume: no checkpoint in {run.path}, starting at step 0")
        return None
    checkpoint.check_resumable(resumed, gan.config, data_digest=loader.digest)
    checkpoint.load(resumed, gan)
    if resumed.state["world_size"] == runtime.world_size:
        torch.set_num_threads(resumed.state["threads"])  # the same bits as without the interruption
    return resumed


@contextmanager
def _status(run: RunDirectory, runtime: Runtime) -> Iterator[Callable[[str], None]]:
    """Keep status.json true. The block calls what it is given with "" when done, or with why it stopped."""
    reasons: list[str] = []
    if runtime.is_main:
        run.requeue.unlink(missing_ok=True)
        run.set_status("running")
    try:
        yield reasons.append
    except BaseException as error:
        if runtime.is_main:
            run.set_status("failed", f"{type(error).__name__}: {error}")
        raise
    if runtime.is_main:
        if reasons[0]:
            write_whole(run.requeue, b"")
        run.set_status("stopped" if reasons[0] else "done", reasons[0])


def _write_first_files(config: TrainConfig, run: RunDirectory, loader: Loader, runtime: Runtime) -> None:
    resolved = dataclasses.replace(config, images=dataclasses.replace(config.images, loader="resident"))
    write_whole(run.config, to_yaml(resolved).encode())
    run.write_environment(runtime)
    write_png(run.reals, grid(loader.first(config.log.sample_count)))


def _write_last_pictures(run: RunDirectory, tracker: Tracker, *, step: int) -> None:
    if run.metrics.stat().st_size:
        plot_losses(run)
        tracker.picture(step, "losses", run.losses)
    write_progress(run)


@contextmanager
def _profiled(config: TrainConfig, run: RunDirectory, runtime: Runtime) -> Iterator[Callable[[], None]]:
    """What to call after each step; with --profile it drives torch.profiler on the main process."""
    if not config.run.profile or not runtime.is_main:
        yield lambda: None
        return
    schedule = torch.profiler.schedule(wait=0, warmup=PROFILE_WARMUP, active=config.run.profile, repeat=1)
    with torch.profiler.profile(
        schedule=schedule, on_trace_ready=lambda profile: profile.export_chrome_trace(str(run.trace))
    ) as profile:
        yield profile.step


def _headline(config: TrainConfig, runtime: Runtime, loader: Loader, *, total_steps: int) -> str:
    def counted(number: int, thing: str) -> str:
        return f"{number:,} {thing}" + ("" if number == 1 else "es" if thing.endswith("s") else "s")

    fast = runtime.device.type == "cuda" and not config.compute.deterministic
    batches = f"{counted(total_steps, 'step')} of {config.images.batch_size} images"
    return (
        f"{config.recipe}: {config.network.model}, {batches}; "
        f"{loader.image_count:,} images {loader.description}; {counted(runtime.world_size, 'process')} on "
        f"{runtime.device.type}, {counted(torch.get_num_threads(), 'thread')} each, "
        f"{'fast (TF32, autotuned)' if fast else 'deterministic'} kernels"
    )


def _say_goodbye(console: Console, run: RunDirectory, training: Training, *, steps: int, seconds: float) -> None:
    """How far the run came and where to look. Main process only."""
    took = timedelta(seconds=round(seconds))
    pace = f", {seconds / steps * 1000:.1f} ms a step with all pauses" if steps else ""
    if training.step == training.total_steps:
        console.print(f"done: {steps:,} steps in {took}{pace}")
    else:
        console.print(f"stopped at step {training.step}, saved; go on with --run_dir {run.path} --resume")
    grids = run.sample_grids()
    console.print(f"look at {grids[-1][1]} beside {run.reals}, {run.losses} and {run.progress}")
    console.print(f"more images: dcgan-sample {run.path} --count 64 --seed 1 --out grid.png")


def _dry_run(gan: Gan, loader: Loader, runtime: Runtime, *, total_steps: int, console: Console) -> None:
    """Print the resolved config, and time a few steps on weights that are then thrown away."""
    console.print(to_yaml(gan.config))
    training = Training(gan, loader, runtime, RunDirectory(Path()), Tracker([]), total_steps, run_id="")
    seconds = []
    for _ in range(1 + TRIAL_STEPS):
        begin = time.perf_counter()
        scalars = training.update()
        scalars["loss/g"].item()  # wait for the device
        seconds.append(time.perf_counter() - begin)
    pace = statistics.median(seconds[1:])
    whole = timedelta(seconds=round(pace * total_steps))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    console.print(_headline(gan.config, runtime, loader, total_steps=total_steps))
    console.print(f"about {pace * 1000:.1f} ms a step, {whole} in all without pauses; {memory:.1f} GiB a process")
    if runtime.device.type == "cuda":
        console.print(f"{torch.cuda.max_memory_allocated(runtime.device) / 2**30:.1f} GiB of GPU memory a process")


if __name__ == "__main__":
    main()
