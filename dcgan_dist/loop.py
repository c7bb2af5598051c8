"""The training loop: the order of a step, and what happens every so many steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from dcgan_dist import checkpoint
from dcgan_dist.clock import Clock
from dcgan_dist.data.loader import Loader
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.runtime import Runtime
from dcgan_dist.evaluation.judging import Judge, Judgement
from dcgan_dist.evaluation.score_histograms import ScoreCounter
from dcgan_dist.gan import Gan
from dcgan_dist.images import grid, to_images
from dcgan_dist.profiling import named
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.sampling import sample_pixels
from dcgan_dist.steps import STEPS, StepResult
from dcgan_dist.tracking import Tracker

NEVER = 2**62
"""A time that does not come."""
GAME_EVERY = 50
"""Steps between rows that say more of the game than the step itself has found: what that takes is 6% of one step."""


class DivergenceError(Exception):
    """A network's loss or weights are not numbers any more: which network's, and since which step."""


@dataclass(frozen=True)
class Verdict:
    """What an evaluation in a run has found."""

    judgement: Judgement
    alarm: bool
    """Whether the samples have collapsed since the last evaluation."""
    share: float
    """The part of the run's time that evaluations have taken, 0 to 1."""

    def scalars(self) -> dict[str, float]:
        """As they are logged."""
        return self.judgement.scalars() | {"collapse/alarm": float(self.alarm), "time/eval_share": self.share}


@dataclass(kw_only=True)
class Training:
    """One run in progress: everything that ``train`` needs."""

    gan: Gan
    loader: Loader
    runtime: Runtime
    run: RunDirectory
    tracker: Tracker
    total_steps: int
    step: int = 0
    """Steps done."""
    rollbacks: int = 0
    """How often the run has diverged or collapsed and gone back."""
    judge: Judge | None = None
    """None when nothing is measured."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """What is noted of the checkpoint that the run began with; nothing when it began with random weights."""
    best: tuple[bool, float] | None = None
    """Of the checkpoint in ``best``: whether its samples have collapsed, and what it was chosen by; lower is better."""
    may_collapse: bool = False
    """Whether the samples have been varied since the last alarm: random weights begin with a generator of one image."""

    def __post_init__(self) -> None:
        device = self.runtime.device
        several = self.runtime.world_size > 1
        self.clock = Clock(
            processes=self.runtime.world_size,
            measures_communication=not (several and device.type == "cuda"),  # the host only queues it there
        )
        self._rows = self.runtime.rows(self.gan.config.images.batch_size)
        self._first_bad = torch.full((2,), NEVER, dtype=torch.int64, device=device)  # of D and G
        self._traffic = collectives.Traffic()  # of the last step
        self._saver = checkpoint.Saver()

    @cached_property
    def _scores(self) -> ScoreCounter:
        return ScoreCounter(self.gan, self.loader, rows=self._rows)

    def update(self) -> dict[str, Tensor]:
        """One update of each network; scalars over this process's rows."""
        with self.clock.measured("compute"), collectives.counted() as self._traffic:
            self._result = self._update()
        self.clock.waited(self._traffic.seconds)
        self.clock.trained(self.gan.config.images.batch_size)
        return self._result.scalars

    def _update(self) -> StepResult:
        gan, config = self.gan, self.gan.config
        draws = gan.draws(self.step, rows=self._rows)
        with self.clock.measured("data"), named("data"):
            pixels = self.loader.batch(self.step)
        real = to_images(pixels, config.network.value_range, dtype=gan.dtype)
        if config.images.flip:
            real = torch.where(draws.coins("flip")[:, None, None, None], real.flip(-1), real)
        if config.compute.memory_format == "channels_last":
            real = real.contiguous(memory_format=torch.channels_last)
        for player in (gan.generator, gan.discriminator):
            player.schedule(self.step)
        if config.compute.compile:
            # what the graphs of the last step have given may be overwritten
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        result = STEPS[config.optim.update](gan, real, draws=draws)
        if gan.average is not None:
            gan.average.update(gan.generator.plain)
        self.step += 1

        finite = {name: value.isfinite() for name, value in result.scalars.items()}
        spoilt_by_fakes = finite["score/real"] & ~finite["score/fake"]  # G's fault, not D's
        self._note_bad(torch.stack([finite["loss/d"] | spoilt_by_fakes, finite["loss/g"]]), when=2 * self.step)
        return result

    def _note_bad(self, finite: Tensor, *, when: int) -> None:
        """Remember when D or G (in this order) was first not finite: 2 k in step k's losses, 2 k + 1 in its weights."""
        self._first_bad = torch.where(finite, self._first_bad, self._first_bad.clamp(max=when))

    def check(self, *, weights: bool = True) -> None:
        """Stop on all ranks if a loss of any rank is not a number, or a weight: those always before they reach disk.

        Raises:
            DivergenceError: naming network and step.
        """
        if weights:
            finite = torch.stack([self.gan.discriminator.is_finite(), self.gan.generator.is_finite()])
            self._note_bad(finite, when=2 * self.step + 1)
        first = collectives.all_reduce(self._first_bad.clone(), torch.distributed.ReduceOp.MIN).tolist()
        if min(first) < NEVER:
            name = "discriminator" if first[0] <= first[1] else "generator"
            raise DivergenceError(f"the {name} is not finite since step {min(first) // 2}; a lower lr may help")

    def is_sound(self, *, weights: bool = True) -> bool:
        """True when ``check`` finds nothing; False after a rollback to the last checkpoint, when the config wants it.

        Raises:
            DivergenceError: when the config wants no rollback, or no more of them.
        """
        optim = self.gan.config.optim
        try:
            with self.clock.measured("compute"):  # waits for the device
                self.check(weights=weights)
        except DivergenceError as error:
            if optim.on_divergence == "stop":
                raise
            if self.rollbacks == optim.max_rollbacks:
                raise DivergenceError(
                    f"{error} ({self.rollbacks} rollbacks, as many as max_rollbacks allows, have not)"
                ) from None
            self._roll_back(str(error), to=(self.run.checkpoints, self.run.best))
            return False
        return True

    def go_on_from(self, found: checkpoint.Checkpoint) -> None:
        """Take over how far the run had come at a checkpoint; its networks have been loaded."""
        self.step, state = found.step, found.state
        self.rollbacks = state["rollbacks"]
        self.best = state["best"] and tuple(state["best"])
        self.may_collapse = state["may_collapse"]

    def _roll_back(self, why: str, *, to: Sequence[Path]) -> None:
        """Go back to the newest checkpoint of these directories, with lower learning rates.

        Raises:
            DivergenceError: when none is whole.
        """
        self.wait_for_checkpoint()
        try:
            found, told = collectives.from_main(partial(checkpoint.newest_of_some, *to))
            collectives.on_all(partial(checkpoint.load, found, self.gan))
            checkpoint.check_loaded(self.gan)
        except ValueError as lost:
            raise DivergenceError(f"{why}, and there is nothing to go back to: {lost}") from None
        rollbacks = self.rollbacks + 1
        self.go_on_from(found)
        self.rollbacks = rollbacks
        self.runtime.stop.rewound()
        optim = self.gan.config.optim
        factor = optim.rollback_lr_factor**self.rollbacks  # the same rate would diverge again: runs repeat
        for player in (self.gan.generator, self.gan.discriminator):
            player.lr_factor = factor
        self._first_bad.fill_(NEVER)
        self.tracker.rewind(found.state["metrics_bytes"])
        collectives.from_main(partial(self.run.forget_samples, after=self.step))
        self.clock.start(self.step)
        for sentence in told:
            self.tracker.say(sentence)
        back = (
            f"{why}: back to step {self.step} with the learning rates times {factor:g}, "
            f"rollback {self.rollbacks} of {optim.max_rollbacks}"
        )
        self.tracker.alert("rollback", back)

    def judge_samples(self) -> Verdict:
        """Measure the generator that samples are drawn from, and give the alarm when its images have collapsed."""
        assert self.judge is not None
        with self.clock.measured("evaluation"):
            found = self.judge.judge(self.gan.sampled)
            if found.colours:
                self.run.write_colours(self.step, found.colours)
        alarm = found.is_collapsed and self.may_collapse
        self.may_collapse = not found.is_collapsed
        if alarm:
            self.tracker.alert("collapse", f"the samples of step {self.step} have collapsed: {found.sentence()}")
        else:
            self.tracker.say(f"step {self.step}: {found.sentence()}")
        return Verdict(found, alarm, share=self.judge.share)

    def act_on(self, verdict: Verdict) -> bool:
        """Keep the best checkpoint; True after a rollback to it, when there was an alarm and the config wants that.

        A generator whose samples have collapsed is the best as long as all have, so that a rollback leaves a collapse.

        Raises:
            DivergenceError: when there is nothing to go back to.
        """
        found, config = verdict.judgement, self.gan.config
        if found.best is not None and (self.best is None or (found.is_collapsed, found.best) < self.best):
            self.best = (found.is_collapsed, found.best)
            self._save(self.run.best, keep=1)
        may_go_back = config.evaluation.on_collapse == "rollback" and self.rollbacks < config.optim.max_rollbacks
        if not verdict.alarm or not may_go_back:
            return False
        self._roll_back(f"the samples of step {self.step} have collapsed", to=[self.run.best])
        collectives.from_main(partial(checkpoint.forget, self.run.checkpoints, after=self.step - 1))
        self.save()  # with the lower rates
        return True

    def log(self, verdict: Verdict | None = None) -> None:
        """Read the last step's scalars, means over the global batch, and hand them to the tracker, with a verdict's."""
        self._saver.check()
        with self.clock.measured("logging"):
            scalars = dict(self._result.scalars)
            if self._game_is_due():
                scalars |= self._game()
            stacked = torch.stack(list(scalars.values())).double()
            means = (collectives.all_reduce(stacked) / self.runtime.world_size).tolist()
            batch_size = self.gan.config.images.batch_size
            times = self.clock.read(self.step)
            row = dict(zip(scalars, means, strict=True))
            if row["loss/g"]:
                row["loss/ratio"] = row["loss/d"] / row["loss/g"]
            row |= {"images_seen": self.step * batch_size, **times}
            row["time/images_per_second"] = batch_size / times["time/step"]
            row |= {"comm/calls": self._traffic.calls, "comm/bytes": self._traffic.bytes}
            if self.rollbacks:
                row["rollbacks"] = self.rollbacks
            self.tracker.scalars(self.step, row | (verdict.scalars() if verdict else {}))

    def _game_is_due(self) -> bool:
        """Whether this row is the first since a multiple of GAME_EVERY steps, or the last of the run."""
        every = self.gan.config.log.log_every
        return self.step == self.total_steps or self.step // GAME_EVERY > (self.step - every) // GAME_EVERY

    def _game(self) -> dict[str, Tensor]:
        """D's score on the fakes of its update after it, with the same dropout, and the norms of both gradients."""
        gan, result = self.gan, self._result
        with torch.no_grad():
            after = gan.judge(result.fakes, draws=result.draws, dropout="dropout_fake")
        return {
            "score/fake_after": after.sigmoid().mean(),
            "gradient_norm/d": gan.discriminator.gradient_norm(),
            "gradient_norm/g": gan.generator.gradient_norm(),
        }

    def sample(self) -> None:
        """Write the grid of the fixed z, and histograms of D's scores."""
        config = self.gan.config
        with self.clock.measured("samples"):
            indices = range(config.log.sample_count)
            pixels = sample_pixels(self.gan.sampled, indices, seed=config.seed, network=config.network)
            path = self.run.write_sample(self.step, grid(pixels))
            self.tracker.picture(self.step, "samples", path=path)
            scores = self._scores.count()
            self.run.write_histograms(self.step, scores.edges, scores.counts)
            for kind, counts in scores.counts.items():
                self.tracker.histogram(self.step, f"scores/{kind}", counts=counts, edges=scores.edges)

    def save(self) -> None:
        """Begin to write a checkpoint; training may go on meanwhile."""
        self._save(self.run.checkpoints, keep=self.gan.config.log.keep_checkpoints)

    def _save(self, directory: Path, *, keep: int) -> None:
        state = {
            "world_size": self.runtime.world_size,
            "threads": torch.get_num_threads(),
            "data_digest": self.loader.digest,
            "metrics_bytes": self.tracker.metrics_bytes(),
            "rollbacks": self.rollbacks,
            "best": self.best,
            "may_collapse": self.may_collapse,
            "origin": dict(self.origin),
            "account": self.clock.account().as_json(),
        }
        with self.clock.measured("checkpoints"):
            self._saver.save(directory, self.gan, step=self.step, state=state, keep=keep)

    def wait_for_checkpoint(self) -> None:
        """Return when the last checkpoint is on disk.

        Raises:
            OSError: when it could not be written.
        """
        with self.clock.measured("checkpoints", times=0):
            self._saver.wait()


def train(training: Training, *, after_step: Callable[[], None] = lambda: None) -> bool:
    """Train to the last step or until a signal asks to stop; True when all steps are done.

    Leaves sample grids, checkpoints and metrics in the run directory. ``after_step`` is called after each step.

    Raises:
        DivergenceError: when a loss is not finite and there is no rollback; nothing of it has reached disk.
    """
    log, evaluation = training.gan.config.log, training.gan.config.evaluation
    stop = training.runtime.stop
    training.clock.begin()
    if training.step == 0:
        training.sample()
        if training.gan.config.optim.on_divergence == "rollback":
            training.save()  # something to go back to
    training.clock.start(training.step)
    saved = training.step
    while training.step < training.total_steps and not stop.agreed(training.step):
        training.update()
        training.tracker.advance(training.step)
        after_step()

        last = training.step == training.total_steps
        logs, samples, saves = (
            last or training.step % every == 0 for every in (log.log_every, log.sample_every, log.checkpoint_every)
        )
        evaluates = training.judge is not None and (last or training.step % evaluation.eval_every == 0)
        leaves = samples or saves or evaluates
        if (logs or leaves) and not training.is_sound(weights=leaves):
            saved = training.step
            continue
        verdict = training.judge_samples() if evaluates else None
        if logs or verdict:
            training.log(verdict)
        if samples:
            training.sample()
        if verdict and training.act_on(verdict):
            saved = training.step
            continue
        if saves:
            training.save()
            saved = training.step

    if training.step > saved and training.is_sound():
        training.save()
    training.wait_for_checkpoint()
    return training.step == training.total_steps
