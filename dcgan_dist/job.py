"""One training run from its config to its last line, on all ranks, and what it leaves behind."""

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from dcgan_dist.cli import to_yaml
from dcgan_dist.clock import Account
from dcgan_dist.collapse.pixels import Pixels
from dcgan_dist.config import TrainConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.failure import PeerError, attended, last_words
from dcgan_dist.distributed.runtime import Runtime, start, wait_for
from dcgan_dist.files import write_whole
from dcgan_dist.fine_tuning import told_of, trained_parameters
from dcgan_dist.images import grid, write_png
from dcgan_dist.loop import DivergenceError, Training, train
from dcgan_dist.models import build_networks
from dcgan_dist.models.blocks import freeze
from dcgan_dist.pages import write_report
from dcgan_dist.pictures import plot_histograms, plot_losses, write_comparison, write_progress
from dcgan_dist.preparation import Job, prepared
from dcgan_dist.profiling import Trace
from dcgan_dist.run_directory import environment
from dcgan_dist.summary import summary
from dcgan_dist.terminal import fail, in_words, is_first_process, tell
from dcgan_dist.tracking import ConsoleSink, JsonLines, Tracker
from dcgan_dist.wandb_facts import flat_config, refer_to_checkpoints, refer_to_data
from dcgan_dist.wandb_sink import WandbSink
from dcgan_dist.words import counted

TIMED_STEPS = 5
"""Steps that --dry_run times, after one to warm up."""


class RefusedError(ValueError):
    """The run cannot start as it was asked for: the user's mistake, the same on all ranks."""


class StoppedAtOnce(KeyboardInterrupt):
    """A second Ctrl-C came before the state was saved."""


def run_training(config: TrainConfig) -> Path:
    """The run directory of one training run, all of it: what ``accelerate launch -m dcgan_dist.train`` does.

    A second call makes another run, or goes on with one when ``resume`` is set. Under a launcher every process calls
    this, and all of them train one run; without one, this process trains it alone. The main process prints how it goes,
    and status.json in the directory says how it ended: until this returns, the first Ctrl-C, SIGTERM, SIGHUP or SIGUSR2
    asks the run to save its state and stop. Call it from the main thread, which is where Python handles signals.

    Args:
        config: As ``read_config`` gives it; its length is in ``max_steps``, ``max_epochs`` (passes over the data) or
            ``max_images``.

    Raises:
        RefusedError: A ValueError. The config, its data or the run directory will not do; names field or file, the rule
            and the value, on all processes.
        DivergenceError: A loss or weight is not a number any more; names the step and the network.
        OSError: A file cannot be read or written.
        PeerError: Another process failed; names it and says why.
        StoppedAtOnce: A KeyboardInterrupt. Ctrl-C came twice.
    """
    if config.run.summary or config.run.dry_run:
        raise RefusedError("summary and dry_run belong on the command line")
    return _carried_out(config, _run)


def whole_job(config: TrainConfig) -> None:
    """Train one run, or print what was asked for instead; whatever ends it early is one message and an exit code."""
    try:
        if config.run.summary:
            if is_first_process():
                _print_summary(config)
        elif config.run.dry_run:
            _carried_out(config, _dry_run)
        else:
            run_training(config)
    except RefusedError as error:
        fail(str(error))
    except (DivergenceError, StoppedAtOnce) as error:
        fail(str(error), code=1)
    except (OSError, PeerError) as error:  # from the rank that met it, or one of those left
        if not isinstance(error, PeerError):
            tell(in_words(error))
        elif error.is_teller:
            tell(str(error))
        raise SystemExit(1) from None


T = TypeVar("T")


def _carried_out(config: TrainConfig, action: Callable[[Job], T]) -> T:
    """What ``action`` makes of the run that was prepared, on all ranks; signals ask it to stop.

    Raises:
        RefusedError: as run_training, and so on.
    """
    with _refusing():
        runtime = start(config.compute)
    with attended(), contextlib.ExitStack() as held:
        runtime.stop.listen()
        try:
            job = _prepared(config, runtime, held)
            with contextlib.closing(job.loader), last_words():
                outcome = action(job)
                runtime.end()
        except BaseException:
            if runtime.stop.at_once:
                message = "stopped at once by a second Ctrl-C; --resume goes on from the newest checkpoint"
                raise StoppedAtOnce(message) from None
            raise
        finally:
            runtime.stop.unlisten()
    return outcome


def _prepared(config: TrainConfig, runtime: Runtime, held: contextlib.ExitStack) -> Job:
    """The run that can start; whatever keeps it from that is the same on all ranks, and one of them tells it."""
    try:
        with _refusing(), last_words():
            return prepared(config, runtime, held)
    except OSError as error:
        if runtime.is_main:
            raise
        raise PeerError(f"rank 0: {error}", is_teller=False) from None


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn a ValueError, which here is the user's mistake and no fault of the program, into a RefusedError."""
    try:
        yield
    except ValueError as error:
        raise RefusedError(str(error)) from None


def _print_summary(config: TrainConfig) -> None:
    """Both networks as tables.

    Raises:
        RefusedError: There are none of such a config.
    """
    with _refusing():
        generator, discriminator = build_networks(config.network, seed=config.seed)
        freeze(generator, discriminator, config.fine_tuning)
    network = config.network
    console = Console()
    console.print(summary(generator, torch.zeros(1, network.latent_dim), title="generator"))
    image = torch.zeros(1, network.channels, network.image_size, network.image_size)
    console.print(summary(discriminator, image, title="discriminator"))


def _run(job: Job) -> Path:
    """Train, and leave a run directory: this one."""
    runtime, run, resumed = job.runtime, job.run, job.resumed
    with _status(job):
        first_step = resumed.step if resumed else 0
        facts = environment(runtime) | dict(job.origin) | trained_parameters(job.gan)
        if runtime.is_main:
            _write_first_files(job, facts)
        job.chatter.print(_headline(job))
        job.chatter.print(f"run directory {run.path}")
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
                if "account" in resumed.state:  # a checkpoint of before there was one has none
                    training.clock.go_on_from(Account.from_json(resumed.state["account"]))
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
            account = training.clock.account()
            stopped = "" if done else f"{runtime.stop.received or 'a signal to another rank'} at step {training.step}"
            tracker.summary(account.scalars())
            if stopped:
                tracker.stopped(stopped)
            nearest = _nearest(job) if done else None
            if runtime.is_main:
                if nearest is not None:
                    write_png(run.nearest, nearest)
                _leave_pictures(job, tracker, step=training.step)
                _note_end(job, stopped, account)  # before W&B takes its time to finish
                _leave_report(job)  # once status.json says how the run ended
                if tracker.wandb is not None:
                    refer_to_checkpoints(tracker.wandb, run, data_digest=job.loader.digest)
    if runtime.is_main:
        _say_goodbye(job, account, step=training.step, steps=training.step - first_step, seconds=seconds)
    return run.path


def _tracker(job: Job, facts: Mapping[str, Any], *, first_step: int) -> Tracker:
    """The run's tracker: with sinks on the main process, without on the others."""
    if not job.runtime.is_main:
        return Tracker()
    config, run, resumed = job.config, job.run, job.resumed
    wandb = None
    if config.log.tracker == "wandb":
        shown = flat_config(config, facts, run=run, loader=job.loader, total_steps=job.total_steps)
        wandb = WandbSink(shown, project=config.log.project, run_dir=run.path, run_id=run.identity())
        job.chatter.print(f"W&B {wandb.description}")
        refer_to_data(wandb, config.images.data, loader=job.loader)
    return Tracker(
        metrics=JsonLines(run.metrics, keep_bytes=resumed.state["metrics_bytes"] if resumed else 0),
        console=ConsoleSink(job.console, total_steps=job.total_steps, first_step=first_step, quiet=config.run.quiet),
        wandb=wandb,
    )


@contextlib.contextmanager
def _status(job: Job) -> Iterator[None]:
    """Keep status.json true: running, and failed when the block raises; ``_note_end`` says the rest."""
    if job.runtime.is_main:
        job.run.set_status("running", total_steps=job.total_steps)
    try:
        yield
    except BaseException as error:
        _note_failure(job, error)
        raise


def _note_end(job: Job, stopped: str, account: Account) -> None:
    """Say in status.json, and to batch scripts, that the run is done, or why it stopped. Main process only."""
    if stopped:
        write_whole(job.run.requeue, b"")
    job.run.set_status("stopped" if stopped else "done", stopped, total_steps=job.total_steps, account=account)


def _note_failure(job: Job, error: BaseException) -> None:
    """Say in status.json why the run failed: the main process does, or who is the first to know of another's end."""
    if job.runtime.is_main or (isinstance(error, PeerError) and error.is_teller):
        reason = str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # a full disk, perhaps
            job.run.set_status("failed", reason, total_steps=job.total_steps)


def _write_first_files(job: Job, facts: Mapping[str, Any]) -> None:
    job.run.nearest.unlink(missing_ok=True)  # of when the run had been done before
    write_whole(job.run.config, to_yaml(job.config).encode())
    job.run.write_environment(facts)
    write_png(job.run.reals, grid(job.loader.first(job.config.log.sample_count)))


def _nearest(job: Job) -> Pixels | None:
    """The picture of samples beside their nearest real images, if it can be made. Every rank calls it."""
    try:
        return job.judge.nearest(job.gan.sampled) if job.judge else None
    except (ValueError, OSError) as error:  # the same on all ranks; the data have gone, but the run is done
        job.console.print(f"warning: no {job.run.nearest}: {error}")
        return None


def _leave_pictures(job: Job, tracker: Tracker, *, step: int) -> None:
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


def _leave_report(job: Job) -> None:
    """The run's page, if it can be made: whatever it lacks, the run has ended as it has."""
    try:
        told = write_report([job.run.path], job.run.report)
    except (ValueError, OSError) as error:
        told = [f"warning: no {job.run.report}: {error}"]
    for sentence in told:
        job.console.print(sentence)


@contextlib.contextmanager
def _profiled(job: Job) -> Iterator[Callable[[], None]]:
    """What to call after each step; with --profile it drives torch.profiler on the main process."""
    steps, say = job.config.run.profile, job.console.print
    if not steps or not job.runtime.is_main:
        yield lambda: None
        return
    trace = Trace(job.run.trace, steps, job.runtime.device)
    with trace.recording() as after_step:
        yield after_step
    if not trace.milliseconds:
        say("no trace: the run stopped before it began")
        return
    say(trace.table())
    say(f"trace of {counted(steps, 'step')}: {trace.path}; open it at ui.perfetto.dev, which reads it in the browser")


def _headline(job: Job) -> str:
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


def _say_goodbye(job: Job, account: Account, *, step: int, steps: int, seconds: float) -> None:
    """How far the run came, where its time went and where to look. Main process only."""
    run, result, say = job.run, job.console.print, job.chatter.print
    pace = f", {seconds / steps * 1000:.1f} ms a step with all pauses" if steps else ""
    if step == job.total_steps:
        result(f"done: {steps:,} steps in {timedelta(seconds=round(seconds))}{pace}")
    else:
        result(f"stopped at step {step}, saved; go on with --run_dir {run.path} --resume")
    over = " over all starts" if job.resumed else ""
    if account.images:
        say(f"throughput{over}: {account.speed()}; time: {account.division()}")
    if pauses := account.pauses():
        say(f"pauses{over}: {pauses}")
    grids = [path for _, path in run.sample_grids()[-1:]]
    pictures = [
        str(path)
        for path in (*grids, run.comparison, run.nearest, run.losses, run.progress, run.report)
        if path.exists()
    ]
    result(f"look at {', '.join(pictures)}")
    say(f"more images: dcgan-sample {run.path} --count 64 --seed 1 --out grid.png")


def _dry_run(job: Job) -> None:
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
    for _ in range(1 + TIMED_STEPS):
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
