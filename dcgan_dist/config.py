"""The settings of a run as frozen dataclasses, and the rules between them. Standard library only.

Every leaf's name is unique in the whole tree, so that a YAML file and the command line are flat: ``lr: 2e-4`` in a
recipe and ``--lr 2e-4`` are the same thing. A field's docstring is its ``--help`` text; its default lives here alone.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

LENGTHS = ("max_steps", "max_epochs", "max_images")
"""The three ways to say how long a run is."""
MOST_PROFILED = 100
"""Steps in one trace; each takes about a megabyte."""

MAY_DIFFER = frozenset(
    {
        *LENGTHS,
        *("log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "tracker", "project"),
        *("data", "loader", "workers", "cache_dir", "cache_gigabytes", "threads", "timeout"),
        *("eval_every", "extractor_weights"),
    }
)
"""Settings that a resumed run may change. ``data`` is a path; the images themselves are compared by their index."""


def _positive(name: str, value: float) -> None:
    if not value > 0 or not math.isfinite(value):
        raise ValueError(f"{name} must be positive, got {value}")


def _not_negative(name: str, value: float) -> None:
    if not value >= 0 or not math.isfinite(value):
        raise ValueError(f"{name} must be zero or more, got {value}")


def _fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The two networks."""

    model: str = "dcgan64"
    """Networks: dcgan64, flowers_arch1, flowers_arch2, mnist28 or pooled; docs/extending.md adds one."""
    image_size: int = 64
    """Height and width of an image, pixels. The shards must have the same."""
    channels: int = 3
    """3 for RGB, 1 for grey. Colour shards are turned grey on load for 1."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Values that black and white pixels become, for example -1 1."""
    base_channels: int = 64
    """The width all others are multiples of, channels."""
    latent_dim: int = 100
    """Length of the noise vector z."""
    prior: Literal["normal", "uniform"] = "normal"
    """Distribution of z: normal N(0, 1) or uniform U(-1, 1)."""
    generator_slope: float = 0.0
    """Negative slope of the generator's activations: 0 is ReLU, 0.2 LeakyReLU 0.2."""
    batch_norm_momentum: float = 0.1
    """Share of each new batch in batch norm's running statistics (1 - Keras's momentum)."""
    dropout: float = 0.0
    """Probability of dropping a feature, in the models that have dropout."""
    upsampling: Literal["nearest", "strided"] = "nearest"
    """How flowers_arch2's generator doubles its maps: nearest copies pixels before a convolution, as its author does;
    strided is a transposed convolution of stride 2."""
    batch_deviation: float = 0.0
    """Weight of the batch deviation channels of flowers_arch1, whose author has 1, and flowers_arch2, without any; 0 is
    none."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        ends = self.value_range
        if not (len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] < ends[1]):
            raise ValueError(f"value_range must be two rising numbers, got {' '.join(map(str, ends))}")
        for name in ("image_size", "base_channels", "latent_dim"):
            _positive(name, getattr(self, name))
        _not_negative("generator_slope", self.generator_slope)
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(f"batch_norm_momentum must be above 0 and at most 1, got {self.batch_norm_momentum}")
        _fraction("dropout", self.dropout)
        _not_negative("batch_deviation", self.batch_deviation)


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """Beginning with the networks of an earlier run. Optimizers, schedules and the count of steps begin anew."""

    init_from: str = ""
    """Run directory (its newest checkpoint; RUN/best for its best) or one checkpoint, whose weights and running
    statistics this run begins with; empty for random weights. A run that is resumed no longer needs it."""
    train_only_g: int = 0
    """Train the generator's last so many blocks, as --summary counts them, and freeze those before; 0 trains all. In
    a frozen block nothing changes: its batch norm is in evaluation mode, by the running statistics of init_from."""
    train_only_d: int = 0
    """Train the discriminator's last so many blocks, likewise."""

    def __post_init__(self) -> None:
        for name in ("train_only_g", "train_only_d"):
            value = getattr(self, name)
            _not_negative(name, value)
            if value and not self.init_from:
                raise ValueError(f"{name} needs init_from, else frozen blocks keep random weights, got {name} {value}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the networks minimise."""

    loss: str = "bce"
    """Losses: bce (binary cross-entropy on logits); docs/extending.md adds one."""
    smooth_fake: float = 0.0
    """Weight of the answer "fake" in the discriminator's loss on reals (one-sided smoothing)."""
    smooth_real: float = 1.0
    """Weight of the answer "real" in the discriminator's loss on reals."""
    instance_noise: float = 0.0
    """Standard deviation of Gaussian noise added to images before step 1, in value_range units; 0 is none."""
    instance_noise_decay: float = 1.0
    """Factor on the instance noise at each step."""
    instance_noise_on: Literal["reals", "fakes"] = "reals"
    """Which images the discriminator's instance noise is added to."""

    def __post_init__(self) -> None:
        _not_negative("smooth_fake", self.smooth_fake)
        _positive("smooth_real", self.smooth_real)
        _not_negative("instance_noise", self.instance_noise)
        if not 0 < self.instance_noise_decay <= 1:
            raise ValueError(f"instance_noise_decay must be above 0 and at most 1, got {self.instance_noise_decay}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the networks are updated."""

    update: Literal["simultaneous", "alternating"] = "alternating"
    """simultaneous: both gradients at the same weights; alternating: D steps first, then G against the new D."""
    fresh_z: bool = False
    """Alternating only: new noise for the generator's update instead of the noise whose fakes D saw."""
    optimizer: Literal["adam", "rmsprop", "sgd"] = "adam"
    """Optimizer of both networks."""
    lr: float = 2e-4
    """Generator learning rate."""
    lr_ratio: float = 1.0
    """Discriminator learning rate divided by the generator's."""
    lr_decay_g: float = 0.0
    """Decay of the generator's learning rate: lr / (1 + lr_decay_g * step), steps from 0."""
    lr_decay_d: float = 0.0
    """Decay of the discriminator's learning rate, likewise."""
    beta1: float = 0.5
    """Adam: memory of the mean gradient."""
    beta2: float = 0.999
    """Adam: memory of the mean squared gradient."""
    rho: float = 0.9
    """RMSprop: memory of the mean squared gradient."""
    epsilon: float = 1e-8
    """Adam and RMSprop: added to the root of the mean squared gradient."""
    ema_decay: float = 0.0
    """Memory of the exponential moving average of the generator, which is then sampled; 0 is off."""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """When a loss or weight is not a number: stop, or go back to the newest checkpoint with a lower learning rate."""
    rollback_lr_factor: float = 0.5
    """Factor on both networks' learning rates at each rollback."""
    max_rollbacks: int = 3
    """Rollbacks, of divergence and collapse together, after which a divergence stops the run and a collapse is told."""

    def __post_init__(self) -> None:
        _positive("lr", self.lr)
        _positive("lr_ratio", self.lr_ratio)
        _positive("epsilon", self.epsilon)
        for name in ("lr_decay_g", "lr_decay_d"):
            _not_negative(name, getattr(self, name))
        for name in ("beta1", "beta2", "rho", "ema_decay"):
            _fraction(name, getattr(self, name))
        if not 0 < self.rollback_lr_factor < 1:
            raise ValueError(f"rollback_lr_factor must be above 0 and below 1, got {self.rollback_lr_factor}")
        _positive("max_rollbacks", self.max_rollbacks)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images and the order they come in."""

    data: str = ""
    """Directory of shards written by dcgan-shard, or its https://, http://, s3:// or file:// URL."""
    batch_size: int = 128
    """Real images a step, over all processes together."""
    shuffle_window: int = 16
    """Shards whose images are mixed with each other; each epoch shuffles the shards as well."""
    classes: str = ""
    """Train on these classes alone: names as dcgan-shard info lists them, a comma between them; empty for all."""
    subset_size: int = 0
    """Train on this many images alone: the first in the shards, of the chosen classes, whatever the seed; 0 for all."""
    held_out: int = 0
    """Never train on this many images, the last in the shards, of the chosen classes: D's scores on them, beside those
    of images it was trained on, show what it knows by heart. 0 for none, else at least batch_size."""
    flip: bool = False
    """Mirror half of the real images, chosen anew each time they are seen."""
    loader: Literal["auto", "resident", "indexed"] = "auto"
    """resident: all images decoded once, in memory that a machine's processes share, or on each GPU. indexed: read and
    decoded as they are needed, for sets larger than memory; the same run. auto: resident when that takes no more than
    half of the free memory, divided by the machine's processes (on GPUs: half of a GPU's)."""
    workers: int | None = None
    """Loader indexed: processes that decode, for each training process; 0 is none, it decodes itself. Default: one
    for each of its cores but one, at most 4."""
    cache_dir: str = ""
    """Data behind https, http or s3: directory for copies of shards, on a disk of each machine; $NAMES of environment
    variables are filled in there. Default: $TMPDIR/dcgan_dist-UID, or ~/.cache/dcgan_dist where TMPDIR is not set."""
    cache_gigabytes: float = 20.0
    """Largest size of cache_dir, 10^9 bytes; the shards used longest ago are removed first."""

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, because of batch statistics, got {self.batch_size}")
        _positive("shuffle_window", self.shuffle_window)
        _not_negative("subset_size", self.subset_size)
        if self.held_out and self.held_out < self.batch_size:
            raise ValueError(f"held_out must be 0 or at least batch_size, {self.batch_size}, got {self.held_out}")
        _not_negative("workers", self.workers or 0)
        _positive("cache_gigabytes", self.cache_gigabytes)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the same mathematics is computed."""

    dtype: Literal["float32", "float64"] = "float32"
    """Type of weights, statistics and optimizers. float64 shows that the number of processes does not matter."""
    precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    """Mixed precision of the networks' forward and backward passes. auto: no or bf16, as a few steps before the first
    show which is faster here; what it became stands in config.yaml and is kept on resume."""
    memory_format: Literal["contiguous", "channels_last", "auto"] = "channels_last"
    """Layout of image tensors in memory; channels_last is the faster one, by what most kernels are written for. auto:
    the faster one here, found as precision's."""
    threads: int = 0
    """CPU threads a process; 0 shares the machine's cores among its processes. Part of bit equality."""
    timeout: int = 600
    """Seconds a process waits for the others in one exchange; then the job ends and names those that hang."""
    compile: bool = False
    """Compile the networks' training passes with torch.compile, on one GPU with CUDA graphs (needs a C++ compiler, on a
    GPU a C compiler)."""
    deterministic: bool = False
    """Deterministic CUDA kernels without TF32: slower, and then runs repeat to the bit. The CPU always repeats."""

    def __post_init__(self) -> None:
        _not_negative("threads", self.threads)
        _positive("timeout", self.timeout)
        if self.dtype == "float64" and self.precision != "no":
            raise ValueError(f"precision must be no with dtype float64, got {self.precision}")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run reports and keeps. Nothing here changes what is trained."""

    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    sample_every: int = 500
    """Steps between sample grids of one fixed z."""
    sample_count: int = 64
    """Images in a sample grid."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints are kept."""
    tracker: Literal["wandb", "none"] = "wandb"
    """wandb: Weights & Biases too, offline when there is no key. none: only the files of the run directory."""
    project: str = "dcgan_dist"
    """Project name in Weights & Biases."""

    def __post_init__(self) -> None:
        for name in ("log_every", "sample_every", "sample_count", "checkpoint_every", "keep_checkpoints"):
            _positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a generator's images are measured."""

    eval_every: int = 0
    """Steps between evaluations of quality and variety; the last step has one too, unless the run is shorter than
    this. 0 is none. A signal to stop waits for the one in progress."""
    extractor: str = "auto"
    """Network whose features quality is measured with: efflite0, inception or pixels; docs/metrics.md. none: variety
    alone is measured, which needs no network. auto: efflite0 where the extra eval is installed, else none."""
    eval_count: int = 2048
    """Generated images that are measured, and real ones they are compared with, if there are so many."""
    eval_resize: int = 0
    """Pixels a side that images are resized to for the extractor; 0 for its own number."""
    extractor_weights: str = ""
    """File of the weights of extractor inception; default: $DCGAN_INCEPTION_WEIGHTS, or where torch keeps downloads."""
    best_metric: str = "auto"
    """What best/ is chosen by, among generators whose samples have not collapsed once there is one: fid, kid, is,
    precision, recall, density, coverage or collapse. auto: kid when quality is measured, else the score of collapse."""
    on_collapse: Literal["warn", "rollback"] = "warn"
    """What an alarm of collapse does besides saying so. rollback: go back to best/ with a lower learning rate, as
    on_divergence does."""

    def __post_init__(self) -> None:
        _not_negative("eval_every", self.eval_every)
        _positive("eval_count", self.eval_count)
        _not_negative("eval_resize", self.eval_resize)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """This one run. Not part of config.yaml, so that a run's file can be run again."""

    config: str = ""
    """Name of a recipe, a YAML file, or the config.yaml of an earlier run to repeat it. Flags override it."""
    run_dir: str = ""
    """Directory the run writes; default runs/RECIPE-NNN, the next free number."""
    resume: bool = False
    """Go on from the newest checkpoint of run_dir, or start it when there is none."""
    quiet: bool = False
    """Print only what came of the run, warnings and errors; metrics.jsonl has the rest."""
    summary: bool = False
    """Print both networks as tables and stop."""
    dry_run: bool = False
    """Print the resolved config, and the time and memory of the run from a few real steps, and stop."""
    profile: int = 0
    """Write a torch.profiler trace of this many steps, at most 100, after 10 for warming up, to run_dir/trace.json, and
    print what each part of a step took; 0 is none."""

    def __post_init__(self) -> None:
        if not 0 <= self.profile <= MOST_PROFILED:
            raise ValueError(f"profile must be from 0 to {MOST_PROFILED}, because traces are large, got {self.profile}")
        if self.resume and not self.run_dir:
            raise ValueError("resume needs run_dir: which run is to go on?")
        if self.resume and self.dry_run:
            raise ValueError("dry_run is of a new run; leave out resume")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: its recipe's name, its seed and its length. Everything else is in sections."""

    recipe: str = "custom"
    """Name of the recipe; names the run directory."""
    seed: int = 0
    """The run is a function of its config, this number and its data."""
    max_steps: int | None = None
    """Length in steps (one update of each network). Give exactly one of the three lengths."""
    max_epochs: float | None = None
    """Length in passes over the data."""
    max_images: int | None = None
    """Length in real images seen."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    images: DataConfig = field(default_factory=DataConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be at least 0 and below 2**31, got {self.seed}")
        if not self.recipe or not all(c.isalnum() or c in "-_." for c in self.recipe) or self.recipe.startswith("."):
            raise ValueError(f"recipe must be letters, digits, '-', '_' and '.', got {self.recipe!r}")
        given = {name: getattr(self, name) for name in LENGTHS if getattr(self, name) is not None}
        if len(given) > 1:
            raise ValueError(f"give exactly one of {', '.join(LENGTHS)}, got {given}")
        for name, value in given.items():
            _positive(name, value)

    def steps(self, image_count: int) -> int:
        """Steps of the whole run on a data set of ``image_count`` images: ceil(images / batch_size)."""
        if self.max_steps is not None:
            return self.max_steps
        if self.max_images is not None:
            return math.ceil(self.max_images / self.images.batch_size)
        if self.max_epochs is not None:
            return math.ceil(self.max_epochs * image_count / self.images.batch_size)
        raise ValueError(f"give exactly one of {', '.join(LENGTHS)}")


def leaves(config: Any) -> Iterator[tuple[str, Any]]:
    """Pairs (name, value) of every setting below a dataclass instance, in the order they are written."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value)
        else:
            yield item.name, value


def changed(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """A copy of ``config`` with some leaves replaced, by their names, wherever in the tree they are."""

    def replaced(node: Any) -> Any:
        updates: dict[str, Any] = {}
        for item in dataclasses.fields(node):
            value = getattr(node, item.name)
            if dataclasses.is_dataclass(value):
                updates[item.name] = replaced(value)
            elif item.name in values:
                updates[item.name] = values[item.name]
        return dataclasses.replace(node, **updates)

    unknown = set(values) - {name for name, _ in leaves(config)}
    assert not unknown, unknown
    return replaced(config)  # type: ignore[no-any-return]


def candidates(config: TrainConfig) -> dict[str, tuple[str, ...]]:
    """What precision and memory_format may become, for those that are auto; the first is the default."""
    found = {"precision": ("no", "bf16"), "memory_format": ("channels_last", "contiguous")}
    return {name: values for name, values in found.items() if getattr(config.compute, name) == "auto"}


def plain(config: TrainConfig) -> TrainConfig:
    """``config`` with the default precision and memory_format in place of auto."""
    return changed(config, {name: values[0] for name, values in candidates(config).items()})


def without_effect(config: TrainConfig) -> list[str]:
    """Sentences on settings that were changed from their default and that this run does not use."""
    optim, losses, found = config.optim, config.losses, []
    unused = {"adam": ("rho",), "rmsprop": ("beta1", "beta2"), "sgd": ("beta1", "beta2", "rho", "epsilon")}
    for name in unused[optim.optimizer]:
        if getattr(optim, name) != getattr(OptimConfig(), name):
            found.append(f"{name} {getattr(optim, name)} has no effect with optimizer {optim.optimizer}")
    for name in ("rollback_lr_factor", "max_rollbacks"):
        never = optim.on_divergence == "stop" and config.evaluation.on_collapse == "warn"
        if never and getattr(optim, name) != getattr(OptimConfig(), name):
            found.append(f"{name} has no effect with on_divergence stop and on_collapse warn")
    if optim.fresh_z and optim.update == "simultaneous":
        found.append("fresh_z has no effect with update simultaneous, which has one z")
    for name in ("instance_noise_decay", "instance_noise_on"):
        if losses.instance_noise == 0 and getattr(losses, name) != getattr(LossConfig(), name):
            found.append(f"{name} has no effect with instance_noise 0")
    images = config.images
    if images.loader == "resident" and images.workers is not None:
        found.append("workers has no effect with loader resident")
    for name in ("cache_dir", "cache_gigabytes"):
        local = not images.data.startswith(("https:", "http:", "s3:"))
        if local and getattr(images, name) != getattr(DataConfig(), name):
            found.append(f"{name} has no effect with data on this machine")
    for name, value in leaves(config.evaluation):
        if not config.evaluation.eval_every and value != getattr(EvaluationConfig(), name):
            found.append(f"{name} has no effect with eval_every 0")
    if config.log.tracker == "none" and config.log.project != LogConfig().project:
        found.append("project has no effect with tracker none")
    return found
