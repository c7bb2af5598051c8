"""Sums over processes, with gradients. Every function here is called by all ranks or by none."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from dcgan_dist.profiling import COMMUNICATION, named

T = TypeVar("T")


@dataclass(eq=False)
class Traffic:
    """What this process hands to collectives: how many, the bytes of its own tensors, and how long it waits."""

    calls: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """That this process stood still in them. On a GPU they only queue work, and this says nothing."""
    launched: float | None = None
    """When the last bucket of gradients left, of a backward pass that has not ended."""


_observers: list[Traffic] = []


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """The collectives of the block, on tensors: those here, DistributedDataParallel's and torch's SyncBatchNorm's."""
    traffic = Traffic()
    _observers.append(traffic)
    try:
        yield traffic
    finally:
        _observers.remove(traffic)


def note(size: int) -> None:
    """Count one collective of ``size`` bytes."""
    for traffic in _observers:
        traffic.calls += 1
        traffic.bytes += size


@contextlib.contextmanager
def _waiting(size: int) -> Iterator[None]:
    """Count one collective of ``size`` bytes, which the block waits for."""
    note(size)
    begin = time.perf_counter()
    try:
        with named(COMMUNICATION):
            yield
    finally:
        seconds = time.perf_counter() - begin
        for traffic in _observers:
            traffic.seconds += seconds


def world_size() -> int:
    """Number of processes of the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process in the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce(values: Tensor, operation: "dist.ReduceOp.RedOpType" = dist.ReduceOp.SUM) -> Tensor:
    """``values`` reduced over all ranks, in place; no gradient flows."""
    if world_size() > 1:
        with _waiting(values.nbytes):
            dist.all_reduce(values, operation)
    return values


def all_gather(values: Tensor) -> Tensor:
    """(world_size, *values.shape): the tensors of all ranks, which must have one shape; no gradient flows."""
    if world_size() == 1:
        return values[None]
    gathered = values.new_empty(world_size(), *values.shape)
    with _waiting(values.nbytes):
        dist.all_gather(list(gathered.unbind()), values.contiguous())
    return gathered


def reduce_bucket(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """DistributedDataParallel's own mean of a bucket of gradients over all ranks, counted; a communication hook."""
    note(bucket.buffer().nbytes)
    reduced = allreduce_hook(group, bucket)
    for traffic in _observers:
        traffic.launched = time.perf_counter()
    return reduced


def note_reduced() -> None:
    """A backward pass has ended: since its last bucket left, all gradients being there, it has waited for the means.

    Buckets that left earlier travelled while the rest was computed; that costs no time of its own and is not counted.
    """
    now = time.perf_counter()
    for traffic in _observers:
        if traffic.launched is not None:
            traffic.seconds += now - traffic.launched
            traffic.launched = None


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum over ranks of the gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        return all_reduce(values.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        return all_reduce(grads[0].clone(memory_format=torch.contiguous_format))


def sum_over_ranks(values: Tensor) -> Tensor:
    """``values`` summed over all ranks; one all-reduce forward and one backward.

    The gradient is that of the *sum over ranks* of whatever the ranks compute from it, which is what
    DistributedDataParallel's mean of gradients expects when each rank's loss is a mean over its own rows.
    """
    return values if world_size() == 1 else _sum_over_ranks(values)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sum_over_ranks(values: Tensor) -> Tensor:
    """``_SumOverRanks``, kept out of compiled graphs, as batch norm's exchanges are."""
    return _SumOverRanks.apply(values)  # type: ignore[no-any-return]


def gathered(value: T) -> list[T]:
    """The values of all ranks, by rank, on every rank; anything that can be pickled."""
    values: list[T] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_main(action: Callable[[], T]) -> T:
    """What ``action`` returned on the main process, the only one to run it, on every rank.

    Raises:
        Exception: on every rank, what ``action`` raised.
    """
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box[0] = action()
        except Exception as error:
            box[0] = error
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    answer = box[0]
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[no-any-return]


def check_equal(facts: Mapping[str, str]) -> None:
    """Compare what each rank holds to be true.

    Args:
        facts: short texts by what they are of, the same keys in the same order on all ranks.

    Raises:
        ValueError: on every rank, naming the first fact that differs, the first such rank, and both texts.
    """
    ranks = gathered(dict(facts))
    for number, other in enumerate(ranks):
        for name, value in other.items():
            if value != ranks[0][name]:
                raise ValueError(f"processes disagree on {name}: {ranks[0][name]} on rank 0, {value} on rank {number}")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that change with any bit of the tensors' values, for ``check_equal``."""
    found = hashlib.sha256()
    for tensor in tensors.values():
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return found.hexdigest()[:16]


def on_all(action: Callable[[], T]) -> T:
    """What ``action`` returned on this rank, once it has worked on all.

    Raises:
        ValueError: on every rank, when one was raised on any; the message names the rank unless it is the main one.
        OSError: likewise.
    """
    error: ValueError | OSError | None = None
    try:
        answer = action()
    except (ValueError, OSError) as raised:
        if world_size() == 1:
            raise
        error = raised
    for number, first in enumerate(gathered(error)):
        if first is not None:
            kind = OSError if isinstance(first, OSError) else ValueError
            raise kind(f"rank {number}: {first}" if number else str(first))
    return answer
