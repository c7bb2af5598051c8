"""Two networks, two optimizers, a loss and an average, built from a config."""

from dataclasses import dataclass

import torch
import torch._functorch.config as functorch_config
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dcgan_dist.config import OptimConfig, TrainConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.batch_norm import note_torchs_collectives, synchronize
from dcgan_dist.distributed.collectives import digest, note_reduced, reduce_bucket
from dcgan_dist.distributed.draws import Dropout, StepDraws, key_dropout, run_key
from dcgan_dist.distributed.runtime import Runtime
from dcgan_dist.ema import Average
from dcgan_dist.losses import LOSSES, Loss
from dcgan_dist.models import build_networks, dtype_of
from dcgan_dist.models.blocks import freeze
from dcgan_dist.profiling import named
from dcgan_dist.words import did_you_mean


@dataclass
class Player:
    """One of the two networks with what trains it."""

    network: nn.Module
    """As it is trained: ``compiled``, wrapped in DistributedDataParallel when there are several processes."""
    compiled: nn.Module
    """The network, compiled when the config says so."""
    plain: nn.Module
    """The network itself."""
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    """Scales losses in fp16, and does nothing otherwise."""
    lr: float
    lr_decay: float
    lr_factor: float = 1.0
    """What rollbacks have left of the learning rate."""

    def __post_init__(self) -> None:
        self.parameters = [parameter for parameter in self.plain.parameters() if parameter.requires_grad]
        """Those that are trained."""
        self.name = type(self.plain).__name__
        """Generator or Discriminator: every model calls them so."""
        self._dropouts = [layer for layer in self.plain.modules() if isinstance(layer, Dropout)]
        self._stand_ins = {module: _stand_ins(module) for module in (self.plain, self.compiled)}
        norms = [layer for layer in self.plain.modules() if isinstance(layer, nn.SyncBatchNorm)]
        self._torchs_norms = [layer for layer in norms if layer.training]  # frozen ones tell other ranks nothing

    def key_dropout(self, draws: StepDraws, stream: str) -> None:
        """Choose the dropout masks of the pass that follows."""
        if self._dropouts:
            key_dropout(self._dropouts, draws, stream)

    def without_trace(self, inputs: Tensor) -> Tensor:
        """The output of a training pass whose parameters are constants and which leaves running statistics alone.

        Where no gradient is wanted it is not compiled: what only measures must not lengthen a step's CUDA graphs.
        """
        module = self.compiled if torch.is_grad_enabled() else self.plain
        output: Tensor = functional_call(module, self._stand_ins[module], (inputs,))
        return output

    def note_collectives(self, output: Tensor) -> None:
        """Count the collectives of the training pass that ended in ``output``, as far as they are not ours."""
        note_torchs_collectives(self._torchs_norms, output)

    def is_finite(self) -> Tensor:
        """Whether all parameters and running statistics are numbers, as a tensor nobody has waited for."""
        values = [value for value in self.plain.state_dict().values() if value.is_floating_point()]
        return torch.stack(torch._foreach_norm(values)).isfinite().all()

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the gradient of the last update, over what is trained and the global batch."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm: Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
        return norm

    def schedule(self, step: int) -> None:
        """Set the learning rate of a step, counted from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.lr_factor / (1 + self.lr_decay * step)

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Gradients of ``loss`` for this network alone, averaged over processes."""
        self.optimizer.zero_grad(set_to_none=True)
        with named(f"{self.name} backward"):
            self.scaler.scale(loss).backward(inputs=self.parameters, retain_graph=retain_graph)  # type: ignore[no-untyped-call]
        note_reduced()

    def step(self) -> None:
        """Update this network. Its gradients stay, without the scaler's factor, until the next ``backward``."""
        with named(f"{self.name} optimizer"):
            if self.scaler.is_enabled():
                self.scaler.unscale_(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()


@dataclass
class Gan:
    """All that is trained, and how images and scores are computed from it."""

    config: TrainConfig
    device: torch.device
    generator: Player
    discriminator: Player
    loss: Loss
    average: Average | None
    """Exponential moving average of the generator, when the config asks for one."""

    def __post_init__(self) -> None:
        self._key = run_key(self.config.seed, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights, noise and images."""
        return dtype_of(self.config.compute)

    @property
    def sampled(self) -> nn.Module:
        """The generator that samples are drawn from: the average when there is one."""
        return self.generator.plain if self.average is None else self.average.module

    def draws(self, step: int, *, rows: tuple[int, int]) -> StepDraws:
        """The randomness of a step, counted from 0, for ``rows`` (start and stop) of the global batch."""
        start, stop = rows
        batch_size = self.config.images.batch_size
        return StepDraws(key=self._key, step=step, batch_size=batch_size, start=start, stop=stop, dtype=self.dtype)

    def latent(self, draws: StepDraws, stream: str) -> Tensor:
        """(rows, latent_dim) noise z of one stream."""
        network = self.config.network
        return draws.latent(stream, network.latent_dim, prior=network.prior)

    def generate(self, z: Tensor, *, draws: StepDraws, dropout: str = "dropout_generator") -> Tensor:
        """Fakes (rows, channels, size, size) from z, in training mode."""
        self.generator.key_dropout(draws, dropout)
        with named("Generator forward"), self._autocast():
            fake: Tensor = self.generator.network(z).to(self.dtype)
        self.generator.note_collectives(fake)
        return fake

    def discriminate(self, images: Tensor, *, draws: StepDraws, dropout: str) -> Tensor:
        """Logits (rows,) of images, in training mode; running statistics are updated."""
        self.discriminator.key_dropout(draws, dropout)
        with named("Discriminator forward"), self._autocast():
            logits: Tensor = self.discriminator.network(images).to(self.dtype)
        self.discriminator.note_collectives(logits)
        return logits

    def judge(self, images: Tensor, *, draws: StepDraws, dropout: str = "dropout_judge") -> Tensor:
        """Logits of images in training mode: D's parameters are constants, its running statistics stay."""
        return self._unchanged(self.discriminator, images, draws=draws, dropout=dropout)

    def imagine(self, z: Tensor, *, draws: StepDraws) -> Tensor:
        """Fakes of z in training mode: G's parameters are constants, its running statistics stay."""
        return self._unchanged(self.generator, z, draws=draws, dropout="dropout_imagine")

    def _unchanged(self, player: Player, inputs: Tensor, *, draws: StepDraws, dropout: str) -> Tensor:
        """The output of a network in training mode that leaves no trace in it."""
        player.key_dropout(draws, dropout)
        with named(f"{player.name} forward"), self._autocast():
            output = player.without_trace(inputs).to(self.dtype)
        player.note_collectives(output)
        return output

    def add_instance_noise(self, images: Tensor, *, draws: StepDraws, on: str) -> Tensor:
        """Images with this step's Gaussian noise, if the config puts it on ``on`` ("reals" or "fakes")."""
        losses = self.config.losses
        if losses.instance_noise == 0 or losses.instance_noise_on != on:
            return images
        deviation = losses.instance_noise * losses.instance_noise_decay ** (draws.step + 1)
        return images + deviation * draws.gaussian("instance_noise", images.shape[1:])

    def discriminator_loss(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """D's loss with the config's one-sided smoothing."""
        losses = self.config.losses
        return self.loss.discriminator(
            logits_real, logits_fake, smooth_fake=losses.smooth_fake, smooth_real=losses.smooth_real
        )

    def _autocast(self) -> torch.autocast:
        precision = self.config.compute.precision
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=precision != "no")


def build_gan(config: TrainConfig, runtime: Runtime) -> Gan:
    """Networks, optimizers and loss of ``config`` on the runtime's device; the same random weights on every process."""
    if config.losses.loss not in LOSSES:
        given = config.losses.loss
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {given}{did_you_mean(given, LOSSES)}")
    assert "auto" not in (config.compute.precision, config.compute.memory_format)
    generator, discriminator = build_networks(config.network, seed=config.seed)
    freeze(generator, discriminator, config.fine_tuning)
    optim = config.optim
    average = None
    if optim.ema_decay:
        average = Average(_placed(generator, config, device=runtime.device), decay=optim.ema_decay)
    weights = {"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}
    collectives.check_equal({f"the initial {name}": digest(tensors) for name, tensors in weights.items()})
    lr_d = optim.lr * optim.lr_ratio
    gan = Gan(
        config=config,
        device=runtime.device,
        generator=_player(generator, config, runtime=runtime, lr=optim.lr, lr_decay=optim.lr_decay_g),
        discriminator=_player(discriminator, config, runtime=runtime, lr=lr_d, lr_decay=optim.lr_decay_d),
        loss=LOSSES[config.losses.loss],
        average=average,
    )
    if runtime.world_size > 1:
        _settle_buckets(gan, rows=runtime.rows(config.images.batch_size))
    return gan


def _settle_buckets(gan: Gan, *, rows: tuple[int, int]) -> None:
    """Make one pass through both networks that leaves nothing behind but the layout of their gradient buckets.

    DistributedDataParallel arranges them anew after its first backward, and the place in a bucket decides in which
    order three and more ranks are added up. A resumed run must not take a step with the first arrangement.
    """
    buffers = [buffer for player in (gan.generator, gan.discriminator) for buffer in player.plain.buffers()]
    before = [buffer.clone() for buffer in buffers]
    draws = gan.draws(0, rows=rows)
    fake = gan.generate(gan.latent(draws, "z"), draws=draws)
    gan.generator.backward(fake.mean())
    logits = gan.discriminate(fake.detach(), draws=draws, dropout="dropout_fake")
    gan.discriminator.backward(logits.mean())
    for player in (gan.generator, gan.discriminator):
        player.optimizer.zero_grad(set_to_none=True)
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def _placed(network: nn.Module, config: TrainConfig, *, device: torch.device) -> nn.Module:
    """``network`` on the device in the config's type and memory format."""
    compute = config.compute
    memory_format = torch.channels_last if compute.memory_format == "channels_last" else torch.contiguous_format
    dtype = dtype_of(compute)
    return network.to(device=device, dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def _player(network: nn.Module, config: TrainConfig, *, runtime: Runtime, lr: float, lr_decay: float) -> Player:
    plain = synchronize(_placed(network, config, device=runtime.device), runtime.device)
    compiled = _compiled(plain, runtime) if config.compute.compile else plain
    wrapped = runtime.accelerator.prepare_model(compiled) if runtime.world_size > 1 else compiled
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(dist.group.WORLD, reduce_bucket)
    return Player(
        network=wrapped,
        compiled=compiled,
        plain=plain,
        optimizer=_optimizer(plain, config.optim, lr=lr),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=config.compute.precision == "fp16"),
        lr=lr,
        lr_decay=lr_decay,
    )


def _compiled(network: nn.Module, runtime: Runtime) -> nn.Module:
    """``network`` with compiled passes, in CUDA graphs on one GPU; exchanges between processes would break those up.

    On one process each pass has one shape. Where exchanges cut a pass in pieces, layers of many shapes share code.
    """
    functorch_config.donated_buffer = False  # else the simultaneous step may not keep its graph for G's backward
    if runtime.world_size > 1:
        return torch.compile(network)  # type: ignore[return-value]
    mode = "reduce-overhead" if runtime.device.type == "cuda" else None
    return torch.compile(network, dynamic=False, mode=mode)  # type: ignore[return-value]


def _stand_ins(network: nn.Module) -> dict[str, Tensor]:
    """What a pass without trace uses, made once, because CUDA graphs want everything of a network in its place.

    Parameters as constants, in the same memory; buffers of layers in training mode, which are written and never read
    again, as copies; those of frozen layers, which are read and never written, as they are.
    """
    stand_ins = {name: parameter.detach() for name, parameter in network.named_parameters()}
    for place, layer in network.named_modules():
        for name, buffer in layer.named_buffers(place, recurse=False):
            stand_ins[name] = buffer.clone() if layer.training else buffer
    return stand_ins


class _RMSprop(torch.optim.RMSprop):
    """RMSprop that leaves out the step of an overflow in fp16 as Adam's and SGD's kernels do: on the device.

    For torch's own the scaler waits for the device at each step to learn whether there was one.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None
    """Above 0 after an overflow; the scaler puts it here for the time of a step."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update parameters and averages of squares; after an overflow they stay."""
        if self.found_inf is None:
            super().step()
            return
        parameters = self.param_groups[0]["params"]
        before = [parameter.clone() for parameter in parameters]
        squares = [self.state[parameter].get("square_avg") for parameter in parameters]
        before += [
            torch.zeros_like(old) if square is None else square.clone()
            for old, square in zip(before, squares, strict=True)
        ]
        super().step()
        after = [*parameters, *(self.state[parameter]["square_avg"] for parameter in parameters)]
        for new, old in zip(after, before, strict=True):
            new.copy_(torch.where(self.found_inf > 0, old, new))


def _optimizer(network: nn.Module, optim: OptimConfig, *, lr: float) -> Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if optim.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, betas=(optim.beta1, optim.beta2), eps=optim.epsilon, fused=True)
    if optim.optimizer == "rmsprop":
        return _RMSprop(parameters, lr, alpha=optim.rho, eps=optim.epsilon, foreach=True)
    return torch.optim.SGD(parameters, lr, fused=True)
