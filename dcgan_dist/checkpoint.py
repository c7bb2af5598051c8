"""Checkpoints: written aside, fsynced, renamed; verified on load; the newest k kept.

A checkpoint is a directory ``step-%08d`` of safetensors files and a ``state.json`` with the step, the config and the
sha256 of each file. Nothing random has a state, so there is none to save.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from dcgan_dist.config import MAY_DIFFER, EvaluationConfig, TrainConfig, changed, leaves
from dcgan_dist.distributed import collectives
from dcgan_dist.files import sha256_of, sync, write_whole

if TYPE_CHECKING:  # to read a checkpoint takes torch and safetensors alone
    from dcgan_dist.gan import Gan, Player

FORMAT = 3
_OF_EVALUATIONS = {name for name, _ in leaves(EvaluationConfig())}


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    state: dict[str, Any]
    """Contents of state.json."""

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])


class DamagedCheckpointError(Exception):
    """A checkpoint that does not verify: the file and what is wrong with it."""


class ForeignCheckpointError(ValueError):
    """A checkpoint in a form that this version does not know."""


class Saver:
    """Writes checkpoints on a thread of its own while training goes on; one at a time, and on the main process only."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, directory: Path, gan: "Gan", *, step: int, state: Mapping[str, Any], keep: int) -> None:
        """Copy all that is trained, then write ``directory/step-N`` whole or not at all, and keep the newest ``keep``.

        Only the main process writes, because every process has the same weights and statistics.

        Args:
            directory: the run's ``checkpoints``.
            gan: what is trained; it may change as soon as this returns.
            step: steps done.
            state: more for state.json, JSON values only.
            keep: checkpoints to keep, this one included.

        Raises:
            OSError: when the checkpoint before this one could not be written, naming its file.
        """
        self.wait()
        if collectives.rank() != 0:
            return
        whole = {
            "format": FORMAT,
            "step": step,
            "config": config_dict(gan.config),
            "scalers": {name: player.scaler.state_dict() for name, player in _players(gan).items()},
            "lr_factor": gan.generator.lr_factor,
            **state,
        }
        self._writing = self._thread.submit(_write, directory, _copies(gan), state=whole, keep=keep)

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, if that is known already; waits for nothing.

        Raises:
            OSError: as ``wait`` does.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk.

        Raises:
            OSError: when it could not be written, naming its file; the older ones are whole.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _write(directory: Path, files: Mapping[str, dict[str, Tensor]], *, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of ``state["step"]`` aside, fsync it, rename it, then remove all but the newest ``keep``."""
    target = directory / f"step-{state['step']:08d}"
    aside = directory / f".{target.name}.writing"
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    aside.mkdir()
    try:
        hashes = {}
        for name, tensors in files.items():
            data = to_bytes(tensors)
            hashes[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
            write_whole(aside / f"{name}.safetensors", data)
        state |= {"sha256": hashes}
        state["state_sha256"] = _digest(state)
        write_whole(aside / "state.json", (json.dumps(state, indent=1) + "\n").encode())
        aside.rename(target)
        sync(directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    tidy(directory, keep=keep)


def tidy(directory: Path, *, keep: int) -> None:
    """Remove all checkpoints but the newest ``keep``, and what a kill left half-written or half-removed."""
    _sweep(directory)
    for old in step_directories(directory)[:-keep]:
        shutil.rmtree(old.rename(directory / f".{old.name}.removing"))


def forget(directory: Path, *, after: int) -> None:
    """Remove the checkpoints of steps past ``after``, which are to be made again."""
    for path in step_directories(directory):
        if step_of(path) > after:
            shutil.rmtree(path.rename(directory / f".{path.name}.removing"))


def _sweep(directory: Path) -> None:
    for stale in (*directory.glob(".step-*.writing"), *directory.glob(".step-*.removing")):
        shutil.rmtree(stale)


def newest(*directories: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence on each damaged one, which is renamed ``.damaged``.

    Of two of one step it is that of the first directory.

    Raises:
        ValueError: when there are checkpoints but none verifies.
    """
    told: list[str] = []
    damaged: list[Path] = []
    paths = [path for directory in directories for path in step_directories(directory)]
    for path in sorted(paths, key=step_of, reverse=True):
        try:
            found = verified(path)
        except DamagedCheckpointError as error:
            told.append(f"damaged checkpoint set aside: {error}")
            damaged.append(path)
            continue
        for bad in damaged:  # only now: else the next attempt would find none at all and begin at step 0
            aside = bad.with_name(bad.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            bad.rename(aside)
        return found, told
    if told:
        raise ValueError(f"resume: no checkpoint in {_named(directories)} is whole; {'; '.join(told)}")
    return None, told


def newest_of_some(*directories: Path) -> tuple[Checkpoint, list[str]]:
    """As ``newest``, where there have to be checkpoints.

    Raises:
        ValueError: when there is none, or none verifies.
    """
    found, told = newest(*directories)
    if found is None:
        raise ValueError(f"no checkpoint in {_named(directories)}")
    return found, told


def find(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, or the newest whole one of the run, or of its ``best``, at ``path``; nothing changes.

    Raises:
        ValueError: when there is none.
    """
    inside = step_directories(path / "checkpoints") or step_directories(path)
    candidates = [path] if (path / "state.json").exists() else inside[::-1]
    damaged = []
    for candidate in candidates:
        try:
            return verified(candidate)
        except DamagedCheckpointError as error:
            damaged.append(str(error))
    raise ValueError(f"{path}: no whole checkpoint here" + "".join(f"; {reason}" for reason in damaged))


def verified(path: Path) -> Checkpoint:
    """The checkpoint at ``path`` after comparing every file with its sha256.

    Raises:
        DamagedCheckpointError: naming the file.
        ForeignCheckpointError: when another version of dcgan_dist wrote it.
    """
    try:
        state = json.loads((path / "state.json").read_bytes())
        written_format = state["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path / 'state.json'}: {type(error).__name__}: {error}") from None
    if written_format != FORMAT:
        raise ForeignCheckpointError(f"{path}: format {written_format}, this version reads {FORMAT}")
    if state.pop("state_sha256", None) != _digest(state):
        raise DamagedCheckpointError(f"{path / 'state.json'}: its contents are not what was written")
    hashes = dict(state["sha256"])
    for name, expected in hashes.items():
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise DamagedCheckpointError(f"{path / name}: {error.strerror}") from None
        if found != expected:
            raise DamagedCheckpointError(f"{path / name}: sha256 {found[:12]}..., written as {expected[:12]}...")
    return Checkpoint(path, state)


def load(checkpoint: Checkpoint, gan: "Gan") -> None:
    """Put a checkpoint's networks, average, optimizers and scalers into ``gan``."""
    for name, player in _players(gan).items():
        load_network(checkpoint.path / f"{name}.safetensors", player.plain)
        _load_optimizer(checkpoint.path / f"optimizer_{name[0]}.safetensors", player.optimizer)
        player.scaler.load_state_dict(checkpoint.state["scalers"][name])
        player.lr_factor = checkpoint.state["lr_factor"]
    if gan.average is not None:
        load_network(checkpoint.path / "ema.safetensors", gan.average.module)


def check_loaded(gan: "Gan") -> None:
    """Compare what all ranks have loaded; they may have read different file systems.

    Raises:
        ValueError: on every rank, naming the file that differs.
    """
    if collectives.world_size() > 1:
        files = _copies(gan)
        collectives.check_equal({f"{name}.safetensors": collectives.digest(files[name]) for name in files})


def load_network(path: Path, network: nn.Module) -> None:
    """Load a safetensors file into ``network`` in place, keeping its device and memory format.

    Raises:
        ValueError: when the file is not safetensors or belongs to another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: does not load into the configured network: {error}") from None


def check_resumable(checkpoint: Checkpoint, config: TrainConfig, *, data_digest: str) -> None:
    """Refuse to go on with other settings or other images than the checkpoint was trained with.

    Raises:
        ValueError: listing every difference.
    """
    saved = config_dict(TrainConfig()) | checkpoint.state["config"]  # a setting it has not was as its default is
    may_differ = MAY_DIFFER if checkpoint.state["best"] else MAY_DIFFER | _OF_EVALUATIONS  # nothing to compare with
    differences = [
        f"{name}: was {saved[name]}, now {value}"
        for name, value in config_dict(config).items()
        if name not in may_differ and saved[name] != value
    ]
    if checkpoint.state["data_digest"] != data_digest:
        differences.append(f"data: {config.images.data} has other images than the run was trained on")
    if differences:
        raise ValueError(f"resume: the run in {checkpoint.path} differs: {'; '.join(differences)}")


def config_dict(config: TrainConfig) -> dict[str, Any]:
    """Settings by name as JSON values, without those of ``config.run``."""
    run_only = {name for name, _ in leaves(config.run)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in leaves(config)
        if name not in run_only
    }


def config_of(checkpoint: Checkpoint) -> TrainConfig:
    """The config that a checkpoint was trained with.

    Raises:
        ValueError: when it has settings that this version does not know.
    """
    saved = checkpoint.state["config"]
    unknown = set(saved) - {name for name, _ in leaves(TrainConfig())}
    if unknown:
        raise ValueError(f"{checkpoint.path}: has settings of another version: {', '.join(sorted(unknown))}")
    return changed(TrainConfig(), {n: tuple(v) if isinstance(v, list) else v for n, v in saved.items()})


def _digest(state: Mapping[str, Any]) -> str:
    """The sha256 of state.json's contents, before this digest joins them."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _players(gan: "Gan") -> "dict[str, Player]":
    return {"generator": gan.generator, "discriminator": gan.discriminator}


def _copies(gan: "Gan") -> dict[str, dict[str, Tensor]]:
    """Contents of each safetensors file by its name without the ending, in memory of their own."""
    files = {}
    for name, player in _players(gan).items():
        files[name] = _copied(player.plain.state_dict())
        state = player.optimizer.state_dict()["state"]
        files[f"optimizer_{name[0]}"] = _copied(
            {f"{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}
        )
    if gan.average is not None:
        files["ema"] = _copied(gan.average.module.state_dict())
    return files


def _copied(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies on the CPU, without empty entries (SGD without momentum); safetensors refuses channels_last tensors."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Each state is copied into ``empty_like(parameter)``: fused kernels walk raw memory, so strides must agree."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.state.clear()  # a checkpoint of step 0 has none
    for name, value in load_file(path).items():
        number, key = name.split(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        elif key == "step" and optimizer.defaults.get("fused"):
            value = value.to(parameter.device)  # fused kernels read the count on the device
        optimizer.state[parameter][key] = value


def exist(*directories: Path) -> bool:
    """Whether there is any checkpoint, whole or not."""
    return any(step_directories(directory) for directory in directories)


def step_directories(directory: Path) -> list[Path]:
    """Checkpoints under their final names, oldest first."""
    return sorted(path for path in directory.glob("step-" + "[0-9]" * 8) if path.is_dir())


def step_of(path: Path) -> int:
    """Steps done, by a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def _named(directories: Sequence[Path]) -> str:
    return " or ".join(map(str, directories))
